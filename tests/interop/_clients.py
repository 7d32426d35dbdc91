"""Clients of the applications: each asks for its own address, and compares the answer with the one that it knows."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import ssl
import struct
from collections.abc import Callable
from http.client import HTTPConnection

import httpx
from websockets.asyncio.client import connect as connect_websocket

from tests.on_asyncio.loops import connected

from ._applications import HEADERS, Listener, Way
from ._certificates import SERVER_NAME
from ._programs import PATIENCE, Address, connect, wait_for


def assert_http(way: Way, context: ssl.SSLContext | None = None, *, answer: str = "{} {}") -> None:
    """Ask three times on one connection.

    Args:
        way: The way to the application.
        context: The TLS context, if any.
        answer: The format in which the application writes the client's host and port.
    """
    connection, client = way.connect()
    if context is not None:
        connection = context.wrap_socket(connection, server_hostname=SERVER_NAME)
    http = HTTPConnection(SERVER_NAME)
    http.sock = connection
    with connection:
        for _ in range(3):
            http.request("GET", "/whoami")
            assert http.getresponse().read().decode() == answer.format(*client)


def assert_http2(proxy: Address, context: ssl.SSLContext, *, answer: str = "{} {}") -> None:
    """Ask three times on one connection, with HTTP/2.

    Args:
        proxy: The address of a proxy that passes TLS through.
        context: The TLS context.
        answer: The format in which the application writes the client's host and port.
    """
    url = httpx.URL(scheme="https", host=proxy.host, port=proxy.port, path="/whoami")
    with httpx.Client(http2=True, verify=context, timeout=PATIENCE) as http:
        for _ in range(3):
            response = http.get(url, extensions={"sni_hostname": SERVER_NAME})
            client = Address.of(response.extensions["network_stream"].get_extra_info("client_addr"))
            assert response.http_version == "HTTP/2"
            assert response.text == answer.format(*client)


def assert_websocket(way: Way, context: ssl.SSLContext | None = None) -> None:
    """Send a short and a long message. Each must come back with the client's address before it.

    Args:
        way: The way to the application.
        context: The TLS context, if any.
    """
    connection, client = way.connect()
    connection.setblocking(False)
    url = f"{'ws' if context is None else 'wss'}://{SERVER_NAME}/"

    # Not the client for threads: it reads and writes at the same time, and Python's TLS sockets failed in that.
    async def converse() -> None:
        async with connect_websocket(url, sock=connection, ssl=context, proxy=None) as websocket:
            for message in ("short", "x" * 100_000):
                await websocket.send(message)
                assert await websocket.recv() == f"{client.host} {client.port} {message}"

    asyncio.run(asyncio.wait_for(converse(), PATIENCE))


def converse(
    way: Way, cut: Callable[[bytes], list[bytes]], data: bytes, end: bytes, context: ssl.SSLContext | None = None
) -> bytes:
    """Connect, send everything at once, and read until the answer ends with *end*.

    Args:
        way: The direct way to the application.
        cut: Cuts the bytes into pieces. In one piece, the header shares a segment with the bytes after it: those of the
            data, or a ClientHello.
        data: The request.
        end: The end of the answer.
        context: The TLS context, if any.
    """

    async def talk() -> bytes:
        async with connected(tuple(way.address), cut=cut, context=context) as peer:
            await peer.begin(way.header, data)
            try:
                return await peer.hear(end)
            except asyncio.TimeoutError:
                raise AssertionError(f"the answer does not end with {end!r}: {peer.received!r}") from None

    return asyncio.run(asyncio.wait_for(talk(), PATIENCE))


def assert_bad_peers_are_dropped(listener: Listener) -> None:
    """Send bytes that a server must refuse, in the header or in the handshake after it. Each connection must end.

    Args:
        listener: The listener of the application, which must go on and log each refusal.
    """
    header, _ = HEADERS["v1"]
    version2 = b"\r\n\r\n\0\r\nQUIT\n"
    request = b"GET / HTTP/1.1\r\n\r\n"
    wrong = [request, b"\x16\x03\x01\x02\x00", header[:-2] + b"\n" + request, version2 + b"\x31\x11\0\x0c" + bytes(12)]
    for data in wrong:
        with connect(listener.address) as peer, contextlib.suppress(ConnectionError):
            peer.sendall(data)
            assert peer.recv(1) == b""
    cut = [b"", header[:20], version2 + b"\x21\x11"]
    if listener.context is not None:
        cut += [header, header + request, header + b"\x16\x03\x01\x02\x00\x01"]
    for data in cut:
        with connect(listener.address) as peer, contextlib.suppress(ConnectionError):
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(1000):  # TLS sends an alert first
                pass
    for data in [*cut, header]:
        with connect(listener.address) as peer:
            peer.sendall(data)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    program = listener.application.program
    wait_for(lambda: program.errors().count("Refused a connection from 127.0.0.1:") >= len(wrong))
    assert "There is no PROXY protocol header: the data begins with b'GET / HTTP" in program.errors()


class MailClient(smtplib.SMTP):
    """A client on an existing connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        super().__init__(SERVER_NAME, local_hostname="client.example.com", timeout=PATIENCE)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self._connection
