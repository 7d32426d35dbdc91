"""Accepting connections, also when the system has no resources for more."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from proxyprotocol._adapters.refusals import PAUSE, Shortage
from proxyprotocol.asyncio.sockets import covered

__all__ = ["Acceptor"]

_ACCEPTS: Final = 64  # at once; then the connections that are open already get their turn
# The errors with which accept() reports that this connection is gone or that the network has failed. All others concern
# the system: it is short of files or memory, or a firewall forbids the connection.
_OF_THE_CONNECTION: Final = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    }
)


class _Listener(NamedTuple):
    sock: socket.socket
    backlog: int
    begin: Callable[[socket.socket, Any], object]


class Acceptor:
    """Accepts connections. If there is no room it leaves them in the system's queue, and logs so once a minute.

    asyncio's own servers do not pause when the system has no file descriptor left: they try again at once, as often as
    the queue is long, and log a traceback for each attempt.

    Args:
        loop: The loop.
        log: The logger for these lines.
        full: Returns why there is no room for another connection, or None if there is.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, log: logging.Logger, full: Callable[[], str | None] = lambda: None
    ) -> None:
        self._loop = loop
        self._full = full
        self._shortage = Shortage(log)
        self._listeners: list[_Listener] = []
        self._resume: asyncio.TimerHandle | None = None
        #: Whether it accepts nothing for now.
        self.paused = False

    def listen(self, sock: socket.socket, backlog: int, begin: Callable[[socket.socket, Any], object]) -> None:
        """Accept the connections of a non-blocking socket with a queue of *backlog* connections. The caller closes it.

        *begin* is called with each new socket, which is non-blocking too, and its peer's address.
        """
        listener = _Listener(sock, backlog, begin)
        self._listeners.append(listener)
        covered.add(sock)
        self._loop.add_reader(sock, self._accept, listener)

    def stop(self) -> None:
        """Stop accepting, after the connections that wait in the system's queue."""
        listeners = list(self._listeners)
        self.close()
        for listener in listeners:
            # the queue has one place more than backlog says; do not wait for later connections
            self._accept(listener, listener.backlog + 1)

    def close(self) -> None:
        """Stop accepting at once."""
        self._ignore()
        self._listeners.clear()

    def go_on(self) -> None:
        """Accept again: there may be room now."""
        if self._resume is not None:
            self._resume.cancel()
        self.paused = False
        for listener in self._listeners:
            self._loop.add_reader(listener.sock, self._accept, listener)

    def _accept(self, listener: _Listener, most: int = _ACCEPTS) -> None:
        for _ in range(most):
            problem = self._full()
            if problem is not None:
                self._pause(problem)
                return
            try:
                sock, peer = listener.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OF_THE_CONNECTION:
                    continue
                self._pause(error.strerror or str(error), PAUSE)
                return
            sock.setblocking(False)
            listener.begin(sock, peer)

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
        for listener in self._listeners:
            self._loop.remove_reader(listener.sock)
