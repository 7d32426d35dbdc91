"""A loop whose clock jumps, and a server of streams in memory, for the tests of the asyncio reader."""

from __future__ import annotations

import asyncio
import functools
import gc
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

import pytest

from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.sock import SocketInfo

PEER, LOCAL = ("192.0.2.9", 40000), ("192.0.2.254", 443)

_P = ParamSpec("_P")


class _Jumping(selectors.DefaultSelector):
    """Does not wait: if no socket is ready, the clock jumps to the next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("Nothing will ever happen here: a task waits for ever")
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop in which an hour takes no time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the time in seconds, from 0."""
        return self._jumping.now


_complaints: list[dict[str, Any]] = []
_transports: list[Transport] = []


def in_a_loop(story: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run a test in a loop in debug mode, and fail if the loop reports an error."""

    @functools.wraps(story)
    def test(*arguments: _P.args, **keywords: _P.kwargs) -> None:
        loop = JumpingLoop()
        loop.set_debug(True)
        loop.set_exception_handler(lambda loop, context: _complaints.append(context))
        try:
            loop.run_until_complete(story(*arguments, **keywords))
            assert _complaints == []
            loop.run_until_complete(_end(asyncio.all_tasks(loop)))
        finally:
            loop.close()
            _complaints.clear()

    return test


def collect_complaints() -> list[dict[str, Any]]:
    """Return the errors that the loop reports when the garbage is collected: exceptions that nobody has retrieved.

    Call it once for all tests of a module, because the collection takes longer than such a test.
    """
    gc.collect()
    return _complaints


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    # the tasks that a test leaves are cancelled; on CPython 3.11 asyncio's streams report that as an error
    for transport in _transports:
        transport.close()
    _transports.clear()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settle()


async def settle() -> None:
    """Let every task run as far as it can without a timer."""
    for _ in range(10):
        await asyncio.sleep(0)


class Transport(asyncio.Transport):
    """A transport without a connection, which records the calls."""

    def __init__(self, peer: Any, local: Any) -> None:
        super().__init__({"peername": peer, "sockname": local})
        self.aborted = self.closed = False
        self.written = b""
        _transports.append(self)

    def abort(self) -> None:
        """Record that it was aborted."""
        self.aborted = True

    def close(self) -> None:
        """Record that it was closed."""
        self.closed = True

    def is_closing(self) -> bool:
        """Return whether it was closed or aborted."""
        return self.aborted or self.closed

    def write(self, data: Any) -> None:
        """Record the data."""
        self.written += bytes(data)


class Peer:
    """The other end of a connection to a server in memory."""

    def __init__(self, callback: Callable[..., Awaitable[None]], peer: Any, local: Any) -> None:
        self.reader = asyncio.StreamReader()
        self.transport = Transport(peer, local)
        self.protocol = asyncio.StreamReaderProtocol(self.reader, callback)
        self.protocol.connection_made(self.transport)

    async def send(self, *pieces: bytes) -> None:
        """Send data, each piece in its own segment, until the server closes."""
        for piece in pieces:
            if not self.transport.is_closing():
                self.protocol.data_received(piece)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        await settle()

    async def end(self) -> None:
        """End the stream."""
        self.protocol.eof_received()
        await settle()

    async def lose(self, error: Exception | None = None) -> None:
        """Lose the connection."""
        self.protocol.connection_lost(error)
        await settle()


class Server:
    """A server whose application records the client of each connection, and all data."""

    def __init__(self, reader: ProxyProtocolReader, timeout: float | None = 3) -> None:
        self.infos: list[SocketInfo] = []
        self.data: list[bytes] = []
        self._callback = reader.get_callback(self._application, timeout)

    async def _application(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        self.infos.append(info)
        self.data.append(await reader.read())
        writer.close()

    async def connect(self, peer: Any = PEER, local: Any = LOCAL) -> Peer:
        """Accept a connection."""
        connection = Peer(self._callback, peer, local)
        await settle()
        return connection


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The lines in the log with their levels. None of them has a traceback."""
    records = [record for record in caplog.records if record.name.startswith("proxyprotocol")]
    assert all(record.exc_info is None for record in records)
    return [(record.levelname, record.getMessage()) for record in records]
