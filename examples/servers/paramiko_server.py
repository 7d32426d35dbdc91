"""paramiko: an SSH server that reads the header of a connection before it gives the socket to ``Transport``."""

from __future__ import annotations

import logging
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import paramiko

from proxyprotocol import ProxyProtocolError, Receiver
from proxyprotocol.result import describe_address
from proxyprotocol.sync import read_header

RECEIVER = Receiver(trusted=["127.0.0.1"])
HOST_KEY = paramiko.ECDSAKey.generate()


class Server(paramiko.ServerInterface):
    """Lets everybody in, and greets clients with their address."""

    def __init__(self, client: str) -> None:
        self.client = client

    def get_banner(self) -> tuple[str, str]:
        """Return the text that clients see first."""
        return f"Hello, {self.client}\r\n", "en"

    def check_auth_none(self, username: str) -> int:
        """Accept every user."""
        return paramiko.AUTH_SUCCESSFUL


def serve(sock: socket.socket, peer: tuple[str, int]) -> None:
    """Serve a connection, in a thread of its own."""
    try:
        result = read_header(sock, receiver=RECEIVER)
    except ProxyProtocolError as error:
        logging.warning("Refused a connection from %s:%s: %s", *peer, error)
        sock.close()
        return
    client = peer if result is None or result.peername is None else result.peername
    transport = paramiko.Transport(sock)
    transport.add_server_key(HOST_KEY)
    transport.start_server(server=Server(describe_address(client)))
    transport.join()


with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener, ThreadPoolExecutor(100) as threads:
    while True:
        threads.submit(serve, *listener.accept())
