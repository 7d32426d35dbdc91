"""The two ends of a relayed connection, each as bytes in and bytes out."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable
from typing import Protocol

__all__: list[str] = []


class Stream(Protocol):
    """One end: a non-blocking socket, or TLS on one.

    ``recv_into`` and ``send`` behave as a socket's do. They raise BlockingIOError when the socket is not ready, and any
    other OSError when the connection is lost. ``recv_into`` returns 0 at the end of the peer's data.

    Attributes:
        fd: The socket's file descriptor, which the selector is given. Asked about a socket object that it does not
            know, as happens for every connection, it would format an error with both addresses that nobody sees.
        reading: Whether the selector watches for bytes from the peer. The link keeps this up to date.
        writing: Whether the selector watches for room to send. The link keeps this up to date.
        most: How many bytes to read for this end at most in one go; None for the whole buffer.
        notified: Whether the peer itself said that it has sent its last byte, which only TLS can tell. A lost
            connection also reads as 0 from a socket, once another call has been given the error.
    """

    sock: socket.socket
    fd: int
    reading: bool
    writing: bool
    most: int | None
    notified: bool

    @property
    def recv_into(self) -> Callable[[memoryview], int]:
        """Takes bytes from the peer."""
        ...

    @property
    def send(self) -> Callable[[memoryview], int]:
        """Sends bytes to the peer."""
        ...

    @property
    def unsent(self) -> bool:
        """Whether ``send`` has accepted bytes that still wait here. It takes no more before :meth:`flush` sent them."""
        ...

    @property
    def choked(self) -> bool:
        """Whether nothing may be read before :meth:`flush` has sent what waits here."""
        ...

    @property
    def buffered(self) -> bool:
        """Whether there are bytes to read that the selector does not know of."""
        ...

    def flush(self) -> None:
        """Send as much of the unsent bytes as the peer takes.

        Raises:
            OSError: The connection is lost.
        """

    def end(self) -> None:
        """Tell the peer that it has all bytes now; its own bytes still come.

        Raises:
            OSError: The connection is lost.
        """


class PlainStream:
    """A plain socket, which must not block."""

    __slots__ = ("fd", "reading", "recv_into", "send", "sock", "writing")

    unsent = choked = buffered = notified = False
    most: int | None = None

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.reading = self.writing = False
        # the socket's own methods: no Python code runs for the bytes that pass
        self.recv_into: Callable[[memoryview], int] = sock.recv_into
        self.send: Callable[[memoryview], int] = sock.send

    def flush(self) -> None:
        """Do nothing: no byte ever waits here."""

    def end(self) -> None:
        """Half-close the connection."""
        self.sock.shutdown(socket.SHUT_WR)


def has_taken_all(sock: socket.socket) -> bool:
    """Return whether the peer's system has acknowledged all bytes; True where that is unknown (not Linux, not TCP)."""
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    import fcntl
    import termios

    waiting = bytes(4)  # an int
    with contextlib.suppress(OSError):  # the connection is gone: no byte waits for it
        waiting = fcntl.ioctl(sock, termios.TIOCOUTQ, waiting)
    return not any(waiting)
