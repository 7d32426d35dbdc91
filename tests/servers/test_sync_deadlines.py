"""The deadline of the header in servers with a loop of their own, which reads the header for all connections."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import waitress
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from proxyprotocol import HeaderPolicy
from proxyprotocol.integrations import pyftpdlib as ftp
from proxyprotocol.integrations import waitress as http
from tests.interop._programs import PATIENCE

from .checks import V1
from .whoami import wsgi


class Loop:
    """A server whose loop the test turns."""

    def __init__(self, port: int, turn: Callable[[], object]) -> None:
        self.port, self.turn = port, turn

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def receive(self, client: socket.socket) -> bytes:
        """Return what the server sends next, and an empty string if it closes the connection."""
        deadline = time.monotonic() + PATIENCE
        while not select.select([client], [], [], 0)[0]:
            assert time.monotonic() < deadline
            self.turn()
        with contextlib.suppress(ConnectionError):
            return client.recv(4096)
        return b""


@contextlib.contextmanager
def serve_http(**keywords: Any) -> Iterator[Loop]:
    sockets: dict[int, Any] = {}
    server = waitress.create_server(wsgi, listen="127.0.0.1:0", map=sockets)
    http.read_headers(server, timeout=0.2, **keywords)
    try:
        yield Loop(server.effective_port, lambda: server.asyncore.loop(timeout=0.01, map=sockets, count=1))
    finally:
        server.task_dispatcher.shutdown()
        server.asyncore.close_all(sockets)


@contextlib.contextmanager
def serve_ftp(**keywords: Any) -> Iterator[Loop]:
    server = FTPServer(("127.0.0.1", 0), FTPHandler, ioloop=IOLoop())
    ftp.read_headers(server, timeout=0.2, **keywords)
    try:
        yield Loop(server.address[1], lambda: server.serve_forever(timeout=0.01, blocking=False, handle_exit=False))
    finally:
        server.close_all()


every_server = pytest.mark.parametrize("serve", [serve_http, serve_ftp])


@every_server
@pytest.mark.parametrize("sent", [b"", V1[:9]], ids=["nothing", "a part"])
def test_a_header_that_does_not_come_in_time_ends_the_connection(
    serve: Any, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(trusted=["127.0.0.1"]) as loop, loop.connect() as client:
        client.sendall(sent)
        began = time.monotonic()
        assert loop.receive(client) == b""

    assert time.monotonic() - began >= 0.19
    if sent:
        assert "within 0.2 seconds" in caplog.text


@every_server
def test_the_end_of_the_stream_inside_a_header_is_told(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    with serve(trusted=["127.0.0.1"]) as loop, loop.connect() as client:
        client.sendall(V1[:9])
        client.shutdown(socket.SHUT_WR)
        assert loop.receive(client) == b""

    assert caplog.text.count("Refused a connection from 127.0.0.1") == 1


@every_server
def test_a_policy_that_raises_costs_only_its_connection(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    verdicts = iter([KeyError("no such host")])

    def policy(peer: object, local: object) -> HeaderPolicy:
        for error in verdicts:
            raise error
        return HeaderPolicy.REJECT

    with serve(policy=policy) as loop:
        for _ in range(2):
            with loop.connect() as client:
                assert loop.receive(client) == b""

    assert caplog.text.count("'s policy function raised KeyError") == 1
    assert caplog.text.count("Refused a connection from 127.0.0.1") == 2


def test_under_optional_a_silent_ftp_client_gets_the_banner_after_the_time() -> None:
    with serve_ftp(policy=HeaderPolicy.OPTIONAL) as loop, loop.connect() as client:
        assert loop.receive(client).startswith(b"220 ")


def test_under_optional_the_first_bytes_of_a_client_stay_in_the_socket() -> None:
    with serve_ftp(policy=HeaderPolicy.OPTIONAL) as loop, loop.connect() as client:
        client.sendall(b"P")
        for _ in range(5):
            loop.turn()
        client.sendall(b"ASV\r\n")
        answer = b""
        while b"530 " not in answer:
            answer += loop.receive(client)
