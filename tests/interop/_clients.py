"""The clients of these applications: each asks who it is, and compares the answer with what it knows."""

from __future__ import annotations

import asyncio
import ssl
from http.client import HTTPConnection

import httpx
from websockets.asyncio.client import connect as connect_websocket

from ._applications import Way
from ._certificates import SERVER_NAME
from ._programs import PATIENCE, Address


def assert_http(way: Way, context: ssl.SSLContext | None = None, *, answer: str = "{} {}") -> None:
    """Ask thrice on one connection.

    Args:
        way: The way to the application.
        context: What to do TLS with, if at all.
        answer: How the application writes the client's host and port.
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
    """Ask thrice on one connection, with HTTP/2.

    Args:
        proxy: Where a proxy listens, that passes TLS through.
        context: What to do TLS with.
        answer: How the application writes the client's host and port.
    """
    url = httpx.URL(scheme="https", host=proxy.host, port=proxy.port, path="/whoami")
    with httpx.Client(http2=True, verify=context, timeout=PATIENCE) as http:
        for _ in range(3):
            response = http.get(url, extensions={"sni_hostname": SERVER_NAME})
            client = Address.of(response.extensions["network_stream"].get_extra_info("client_addr"))
            assert response.http_version == "HTTP/2"
            assert response.text == answer.format(*client)


def assert_websocket(way: Way, context: ssl.SSLContext | None = None) -> None:
    """Send messages, short and long, that come back behind who we are.

    Args:
        way: The way to the application.
        context: What to do TLS with, if at all.
    """
    connection, client = way.connect()
    connection.setblocking(False)
    url = f"{'ws' if context is None else 'wss'}://{SERVER_NAME}/"

    # Not the client for threads: it reads and writes at a time, which Python's TLS sockets did not always stand.
    async def converse() -> None:
        async with connect_websocket(url, sock=connection, ssl=context, proxy=None) as websocket:
            for message in ("short", "x" * 100_000):
                await websocket.send(message)
                assert await websocket.recv() == f"{client.host} {client.port} {message}"

    asyncio.run(asyncio.wait_for(converse(), PATIENCE))
