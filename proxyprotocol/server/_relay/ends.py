"""The two ends of a relayed connection, each as bytes in and bytes out."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable


class Stream:
    """One end of a relayed connection: a socket, which must not block. :class:`.TLSStream` adds TLS.

    Attributes:
        fd: The socket's file descriptor, for the selector. A new socket object in its place would cost more: the
            selector formats an error with both addresses for each unknown object, and drops it.
        reading: Whether the selector watches for bytes from the peer. The link keeps this up to date.
        writing: Whether the selector watches for room to send. The link keeps this up to date.
        recv_into: Takes bytes from the peer as a socket does: it returns 0 at the end of the peer's data, raises
            BlockingIOError if the socket is not ready, and any other OSError if the connection is lost.
        send: Sends bytes to the peer, and raises as ``recv_into`` does.
        most: The most bytes to read for this end at once; None for the whole buffer.
        unsent: Whether bytes that ``send`` has accepted still wait here; if so, it takes no more.
        choked: Whether nothing may be read before :meth:`flush` has sent what waits here.
        buffered: Whether there are bytes to read that the selector does not know of.
        notified: Whether the peer has confirmed the end of its data, as only TLS can. A lost connection also reads as 0
            bytes, after another call has got the error.
    """

    __slots__ = ("fd", "reading", "recv_into", "send", "sock", "writing")

    most: int | None = None
    unsent = choked = buffered = notified = False

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.reading = self.writing = False
        # the socket's own methods: no Python code runs for the bytes that pass
        self.recv_into: Callable[[memoryview], int] = sock.recv_into
        self.send: Callable[[memoryview], int] = sock.send

    def flush(self) -> None:
        """Send as much of the unsent bytes as the peer takes. It raises OSError if the connection is lost."""

    def end(self) -> None:
        """Tell the peer that it has all bytes. The peer may still send. Raises OSError if the connection is lost."""
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
