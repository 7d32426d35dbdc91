"""Sockets without a transport: accepting connections, and reading their header up to its last byte and no further."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from proxyprotocol._adapters.deadlines import in_time
from proxyprotocol._adapters.listener import Listener
from proxyprotocol._adapters.lookahead import REST, plan_reads
from proxyprotocol._adapters.refusals import PAUSE, Shortage
from proxyprotocol._adapters.settings import covered
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr

__all__ = ["Acceptor", "receive_header"]

_log = logging.getLogger("proxyprotocol.asyncio")

_Begin: TypeAlias = "Callable[[socket.socket, Any], object]"
_ACCEPTS: Final = 64  # at once; then the connections that are open already get their turn
# The errors with which accept() reports that this connection is gone or that the network has failed. All others concern
# the system: it is short of files or memory, or a firewall forbids the connection.
_OF_THE_CONNECTION: Final = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    }
)


class Acceptor:
    """Accepts connections. Without room for more it leaves them in the system's queue; the log says so once a minute.

    asyncio's own servers do not pause when the system has no file descriptor left: they try again at once, as often as
    the queue is long, and log a traceback for each attempt.

    Args:
        loop: The loop.
        log: The logger for these lines.
        full: Returns why the caller has no room for another connection, or None if it has.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, log: logging.Logger, full: Callable[[], str | None] = lambda: None
    ) -> None:
        self._loop = loop
        self._full = full
        self._shortage = Shortage(log)
        self._listeners: dict[socket.socket, tuple[int, _Begin]] = {}
        self._resume: asyncio.TimerHandle | None = None
        #: Whether it accepts nothing for now.
        self.paused: bool = False

    def listen(self, sock: socket.socket, backlog: int, begin: _Begin) -> None:
        """Accept the connections of a non-blocking socket with a queue of *backlog* connections. The caller closes it.

        *begin* is called with each new socket, which is non-blocking too, and its peer's address.
        """
        self._listeners[sock] = backlog, begin
        covered.add(sock)
        self._loop.add_reader(sock, self._accept, sock, begin)

    def stop(self) -> None:
        """Stop accepting, after the connections that wait in the system's queue."""
        self._ignore()
        for sock in list(self._listeners):
            self.stop_one(sock)

    def stop_one(self, sock: socket.socket) -> None:
        """Stop accepting on one socket, after the connections that wait in its queue."""
        backlog, begin = self._listeners.pop(sock)
        self._loop.remove_reader(sock)
        # the queue has one place more than backlog says; do not wait for later connections
        self._accept(sock, begin, backlog + 1)

    def close(self) -> None:
        """Stop accepting at once."""
        self._ignore()
        self._listeners = {}

    def go_on(self) -> None:
        """Accept again: there may be room now."""
        if self._resume is not None:
            self._resume.cancel()
        self.paused = False
        for sock, (_, begin) in self._listeners.items():
            self._loop.add_reader(sock, self._accept, sock, begin)

    def _accept(self, listener: socket.socket, begin: _Begin, most: int = _ACCEPTS) -> None:
        for _ in range(most):
            if (problem := self._full()) is not None:
                self._pause(problem)
                return
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OF_THE_CONNECTION:
                    continue
                self._pause(error.strerror or str(error), PAUSE)
                return
            sock.setblocking(False)
            begin(sock, peer)

    def _pause(self, reason: str, seconds: float | None = None) -> None:
        """Pause for some seconds, or until go_on() is called: trying again at once would keep the processor busy."""
        self.paused = True
        self._ignore()
        if seconds is not None:
            self._resume = self._loop.call_later(seconds, self.go_on)
        self._shortage.tell(reason, self._loop.time())

    def _ignore(self) -> None:
        if self._resume is not None:  # another listener may have started the timer for the same reason
            self._resume.cancel()
        for sock in self._listeners:
            self._loop.remove_reader(sock)


async def receive_header(sock: socket.socket, peer: SockAddr, listener: Listener) -> ReceiverConnection | None:
    """Read the header of a connection from *peer*, by the rules of *listener*. The socket becomes non-blocking.

    Returns:
        The connection, which has begun. None if it was refused or lost: then it is closed, and the log says so.
    """

    async def receive(size: int, flags: int) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return sock.recv(size, flags)
            except BlockingIOError:
                readable = asyncio.Event()
                loop.add_reader(sock, readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(sock)
            except OSError:  # such as a reset, which counts as the end
                return b""

    async def read() -> None:
        reads, data = plan_reads(sock, connection), None
        with contextlib.suppress(StopIteration):
            while True:
                step = next(reads) if data is None else reads.send(data)
                data = None if step is None else await receive(*step)
                if data is None:
                    await asyncio.sleep(REST)

    receiver, local = listener.receiver, None
    try:
        sock.setblocking(False)
        local = sock.getsockname()
        connection = (listener.at(local) if listener.asks else receiver).connection(peer, local)
        if not await in_time(read(), receiver.timeout):
            connection.timed_out()
        if connection.trailing and connection.repeated:
            listener.warn_of_second_header(peer, local)
        return connection
    except BaseException as error:
        sock.close()
        if isinstance(error, ProxyProtocolError):
            listener.refuse(error, peer, local)
        elif isinstance(error, OSError):
            _log.debug("The connection from %s was lost: %s", describe_address(peer), error)
        else:
            raise  # this task was cancelled
    return None
