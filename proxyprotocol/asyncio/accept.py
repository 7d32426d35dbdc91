"""Floor 5: accepting connections, also where the system has no resources for more."""

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

_ACCEPTS: Final = 64  # in one go: those that are served already want their turn too
# What accept() tells of a connection that was gone before it was accepted, or that the network has failed. All else is
# of the system: it is short of files or memory, or a firewall forbids it.
_OF_THE_CONNECTION: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPROTO,
    }
)


class _Listener(NamedTuple):
    sock: socket.socket
    backlog: int
    begin: Callable[[socket.socket, Any], None]


class Acceptor:
    """Accepts connections; those for which there is no room wait in the system's queue, and one line a minute says so.

    Not asyncio's own servers: where the system has no file descriptor left, theirs tries again at once, as often as
    the queue is long, with a traceback in the log for each.

    Args:
        loop: The loop.
        log: The logger that is told.
        full: Gives why there is no room for another connection; None where there is.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, log: logging.Logger, full: Callable[[], str | None] = lambda: None
    ) -> None:
        self._loop = loop
        self._full = full
        self._shortage = Shortage(log)
        self._listeners: list[_Listener] = []
        self._resume: asyncio.TimerHandle | None = None
        #: Whether nobody is accepted for now.
        self.paused = False

    def listen(self, sock: socket.socket, backlog: int, begin: Callable[[socket.socket, Any], None]) -> None:
        """Accept the connections of a listening socket.

        Args:
            sock: The socket, non-blocking. It stays the caller's to close.
            backlog: How many connections may wait at it.
            begin: Called with each new socket, which does not block, and its peer's address.
        """
        listener = _Listener(sock, backlog, begin)
        self._listeners.append(listener)
        covered.add(sock)
        self._loop.add_reader(sock, self._accept, listener)

    def stop(self) -> None:
        """Accept nobody any more, but those who are connected already and wait in the system's queue."""
        listeners = list(self._listeners)
        self.close()
        for listener in listeners:
            # the queue has one place more than it was asked for; who comes later is not waited for
            self._accept(listener, listener.backlog + 1)

    def close(self) -> None:
        """Accept nobody any more."""
        self._ignore()
        self._listeners.clear()

    def go_on(self) -> None:
        """Try again: there may be room."""
        self._cancel_resume()
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
        """Accept nobody until there is room or some time has passed: to try again at once is to spin."""
        self.paused = True
        self._ignore()
        if seconds is not None:
            self._resume = self._loop.call_later(seconds, self.go_on)
        self._shortage.tell(reason, self._loop.time())

    def _ignore(self) -> None:
        self._cancel_resume()  # of another listener, which has met the same
        for listener in self._listeners:
            self._loop.remove_reader(listener.sock)

    def _cancel_resume(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
