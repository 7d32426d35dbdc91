"""Floor 6: the two ends that a relayed connection has, each as bytes in and bytes out."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable
from typing import Protocol

__all__: list[str] = []


class Stream(Protocol):
    """One end: a socket that does not block, or TLS on one.

    ``recv_into`` and ``send`` are a socket's: they raise BlockingIOError where there is nothing to do yet, and any
    other OSError when the connection is lost. The first gives 0 at the end of what the peer has to say.
    """

    sock: socket.socket
    #: The socket's file descriptor. By it the selector knows the socket: asked for one by its object that it does not
    #: know, which happens for every connection, it writes down the socket's addresses for an error that nobody sees.
    fd: int
    #: Whether the selector is asked if the peer has sent something, and if it takes something: kept by the link.
    reading: bool
    writing: bool
    #: How many bytes at most are to be read for it in one go; None for as many as the buffer has room for.
    most: int | None
    #: Whether the peer itself has said that this was all, as only TLS can tell. A socket gives the same 0 for a
    #: connection that was lost, once another call has been given the error.
    notified: bool

    @property
    def recv_into(self) -> Callable[[memoryview], int]:
        """Takes bytes from the peer."""
        ...

    @property
    def send(self) -> Callable[[memoryview], int]:
        """Gives bytes to the peer."""
        ...

    @property
    def unsent(self) -> bool:
        """Whether bytes that ``send`` has taken are still here: more are taken when :meth:`flush` got rid of them."""
        ...

    @property
    def choked(self) -> bool:
        """Whether nothing is to be read before :meth:`flush` has got rid of what is unsent."""
        ...

    @property
    def buffered(self) -> bool:
        """Whether there is something to read of which the selector does not know."""
        ...

    def flush(self) -> None:
        """Send what is unsent, as far as the peer takes it.

        Raises:
            OSError: The connection is lost.
        """

    def end(self) -> None:
        """Tell the peer that this was all; what it has to say still comes.

        Raises:
            OSError: The connection is lost.
        """


class PlainStream:
    """A socket as it is.

    Args:
        sock: The socket, non-blocking.
    """

    __slots__ = ("fd", "reading", "recv_into", "send", "sock", "writing")

    unsent = choked = buffered = notified = False
    most: int | None = None

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.reading = self.writing = False
        # the socket's own methods: nothing of ours is called for bytes that pass
        self.recv_into: Callable[[memoryview], int] = sock.recv_into
        self.send: Callable[[memoryview], int] = sock.send

    def flush(self) -> None:
        """Nothing is ever unsent here."""

    def end(self) -> None:
        """Half-close the connection."""
        self.sock.shutdown(socket.SHUT_WR)


def has_taken_all(sock: socket.socket) -> bool:
    """Tell whether the peer's system has taken all that was sent to it.

    Args:
        sock: The socket.

    Returns:
        Whether it has; True too where the system does not tell, as none but Linux does, or it is no TCP.
    """
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    import fcntl
    import termios

    waiting = bytes(4)  # an int
    with contextlib.suppress(OSError):  # of one that is gone, for which nothing waits
        waiting = fcntl.ioctl(sock, termios.TIOCOUTQ, waiting)
    return not any(waiting)
