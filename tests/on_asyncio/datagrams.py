"""An application that records what happens to it, and its peers, for the tests of asyncio's datagrams."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from proxyprotocol import ProxyResult
from proxyprotocol.asyncio import create_datagram_endpoint
from tests.on_asyncio.loops import PATIENCE, until
from tests.vectors import IPV4_BLOCK, IPV6_BLOCK, PROXY, v2

CLIENT, CLIENT6 = ("192.0.2.1", 1000), ("2001:db8::1", 1000, 0, 0)
HEADER, HEADER6 = v2(PROXY, 0x12, IPV4_BLOCK), v2(PROXY, 0x22, IPV6_BLOCK)


class App(asyncio.DatagramProtocol):
    """An application that records what happens to it, and echoes each datagram.

    Args:
        received: What it does with a datagram in place of the echo.
    """

    transport: Any = None

    def __init__(self, received: Callable[[App, bytes, Any], object] | None = None) -> None:
        self._received = received
        self.events: list[str] = []
        self.datagrams: list[tuple[bytes, Any]] = []
        self.results: list[ProxyResult | None] = []
        self.errors: list[Exception] = []
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams.append((data, addr))
        self.results.append(self.transport.get_proxy_result(addr))
        if self._received is None:
            self.transport.sendto(b"re: " + data, addr)
        else:
            self._received(self, data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


def keep_quiet(app: App, data: bytes, addr: Any) -> None:
    """An application that answers nothing."""


@contextlib.asynccontextmanager
async def listening(app: App, host: str = "127.0.0.1", **keywords: Any) -> AsyncIterator[Any]:
    """Receive on a free port or a given socket, and yield the address. Close at the end."""
    local: dict[str, Any] = {} if "sock" in keywords else {"local_addr": (host, 0)}
    transport, protocol = await create_datagram_endpoint(lambda: app, **local, **keywords)
    assert (transport, protocol) == (app.transport, app)
    try:
        yield transport.get_extra_info("sockname")
    finally:
        transport.close()
        await until(lambda: app.lost == [None])


class Peer:
    """A proxy, or a client without one.

    Args:
        sock: Its socket, connected to the application's.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self.sock.send(datagram)

    async def hear(self) -> bytes:
        """Receive the next datagram."""
        receiving = asyncio.get_running_loop().sock_recv(self.sock, 2**16)
        return await asyncio.wait_for(receiving, PATIENCE)

    async def ask(self, *datagrams: bytes) -> list[bytes]:
        """Send datagrams, each after the answer to the one before, and return the answers."""
        answers = []
        for datagram in datagrams:
            self.send(datagram)
            answers.append(await self.hear())
        return answers

    def has_heard_nothing(self) -> bool:
        with pytest.raises(BlockingIOError):
            self.sock.recv(2**16)
        return True


@contextlib.contextmanager
def peer_of(address: Any, name: Any = None) -> Iterator[Peer]:
    """A socket that sends to an address.

    Args:
        address: The address.
        name: The address to bind it to, if any.
    """
    is_path = isinstance(address, str)
    family = socket.AF_UNIX if is_path else socket.AF_INET6 if len(address) > 2 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if name is not None:
            sock.bind(name)
        sock.connect(address)
        sock.setblocking(False)
        yield Peer(sock)
