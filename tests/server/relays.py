"""Helpers for the tests of the relay: a relay in its own thread, the servers that it connects to, and clients.

Everything is on real sockets, which block for ``PATIENCE`` at most. The relay runs in another thread than the test, so
that a test reads as what the two ends do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import pytest

from proxyprotocol import HeaderParser, ProxyResult
from proxyprotocol.server import Relay, parse_service
from proxyprotocol.server._process.sockets import listen, unlink
from proxyprotocol.server._relay.metrics import Counters
from tests.interop._programs import wait_for

PATIENCE = 10.0  # seconds; every wait takes a fraction of one, unless the machine is very busy

_T = TypeVar("_T")


class Accepted(NamedTuple):
    """A connection as the server sees it.

    Attributes:
        sock: Its socket.
        result: The header; None without one.
        first: The bytes that came in one piece with the header.
    """

    sock: Any
    result: ProxyResult | None
    first: bytes


class Backend:
    """A server that the relay connects to.

    Args:
        sock: Its listening socket.
        address: The address, in the form that the relay takes.
        stack: Closes its connections.
    """

    def __init__(self, sock: socket.socket, address: str, stack: contextlib.ExitStack) -> None:
        self.sock = sock
        self.address = address
        self._stack = stack
        sock.settimeout(PATIENCE)

    def accept(self, *, header: bool = True) -> Accepted:
        """Accept a connection, and read the header."""
        sock = self._accept()
        if not header:
            return Accepted(sock, None, b"")
        parser = HeaderParser(max_header=65551)
        while (result := parser.feed(sock.recv(65536))) is None:
            pass
        return Accepted(sock, result, parser.trailing)

    def accept_exactly(self) -> Accepted:
        """Accept a connection, and read just the header, so that TLS can begin after it."""
        sock = self._accept()
        parser = HeaderParser(max_header=65551)
        result = None
        while result is None:
            result = parser.feed(sock.recv(parser.needed))
        return Accepted(sock, result, b"")

    def _accept(self) -> socket.socket:
        sock, _ = self.sock.accept()
        self._stack.callback(sock.close)
        sock.settimeout(PATIENCE)
        return sock


class Running:
    """A running relay.

    Args:
        source: The address that it listens on.
        destination: The address that it connects to.
        keywords: Those of :class:`Relay`.
    """

    def __init__(self, source: str, destination: str, keywords: dict[str, Any]) -> None:
        self.service = parse_service(source, destination)
        self.sockets = listen(self.service.source)
        self.counters = Counters(1, [self.service.source.address.given])
        self._loop = asyncio.SelectorEventLoop()
        self.complaints: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.relay: Relay = self.call(lambda: self._begin(keywords))

    @property
    def values(self) -> memoryview:
        """The counters."""
        return self.counters.of(0)[self.service.source.address.given]

    def _begin(self, keywords: dict[str, Any]) -> Relay:
        relay = Relay(counters=self.counters.of(0), **keywords)
        relay.listen(self.service, self.sockets)
        return relay

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function in the relay's thread; meanwhile the relay does nothing."""

        async def called() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(PATIENCE)

    @property
    def address(self) -> Any:
        return self.sockets[0].getsockname()

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self.relay.connections)

    def wait_until_empty(self) -> None:
        wait_for(lambda: not self.open)

    def connect(self, *, to: Any = None, room: int | None = None) -> socket.socket:
        """Connect as a client does; *room* is the size of the system's buffers, in bytes."""
        address = self.address if to is None else to
        client = socket.socket(self.sockets[0].family)
        if room is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            # accepted sockets inherit this
            self.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        client.settimeout(PATIENCE)
        client.connect(address)
        return client

    def connect_tls(self, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
        """Connect with TLS."""
        return context.wrap_socket(self.connect(), server_hostname=name)

    def connect_and_send(self, data: bytes) -> socket.socket:
        """Connect and send, before the relay sees either."""

        def speak() -> socket.socket:
            client = self.connect()
            client.sendall(data)
            return client

        return self.call(speak)

    def stop(self) -> None:
        self.call(self.relay.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        for sock in self.sockets:
            unlink(sock)
            sock.close()
        assert self.complaints == []


class Relaying:
    """Starts what a test needs, and ends it with the test.

    Args:
        stack: Ends with the test.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def backend(self, address: str = "127.0.0.1") -> Backend:
        """Start a server, on an IP address or on the path of a UNIX socket."""
        if "/" in address:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(address)
            sock.listen()
            where = f"unix:{address}"
        else:
            sock = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
            port = sock.getsockname()[1]
            where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._stack.callback(sock.close)
        return Backend(sock, where, self._stack)

    def relay(self, destination: str, source: str = "127.0.0.1:0", **keywords: Any) -> Running:
        """Start a relay."""
        running = Running(source, destination, keywords)
        self._stack.callback(running.stop)
        return running

    def keep(self, sock: Any) -> Any:
        """Close a socket at the end of the test."""
        self._stack.callback(sock.close)
        return sock

    def connected(self, source: str = "127.0.0.1:0", options: str = "", **keywords: Any) -> Pair:
        """Start a server and a relay, and connect a client."""
        backend = self.backend()
        running = self.relay(backend.address + options, source, **keywords)
        client = self.keep(running.connect())
        accepted = backend.accept()
        return Pair(running, client, accepted.sock, accepted.result)


class Pair(NamedTuple):
    """Both ends of a connection that is relayed."""

    running: Running
    client: socket.socket
    server: socket.socket
    result: ProxyResult | None


def receive_all(sock: socket.socket) -> bytes:
    """Receive up to the end."""
    received = bytearray()
    while data := sock.recv(1 << 16):
        received += data
    return bytes(received)


def receive(sock: Any, size: int) -> bytes:
    """Receive *size* bytes, or fewer if the end comes earlier."""
    received = bytearray()
    while len(received) < size and (data := sock.recv(1 << 20)):
        received += data
    return bytes(received)


def fill(sock: socket.socket, piece: int = 100_000) -> int:
    """Send pieces until the peer takes no more, and return how many bytes it took."""
    sock.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += sock.send(b"x" * piece)
    sock.settimeout(PATIENCE)
    return sent


def reset(sock: socket.socket) -> None:
    """End a connection by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock.close()


def in_thread(function: Callable[[], object]) -> threading.Thread:
    """Call a function in a thread, which the test joins."""
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines of the log, without those that say where the relay listens, and what it reads."""
    return [
        record.getMessage() for record in caplog.records if not record.getMessage().startswith(("Listening", "Reads"))
    ]
