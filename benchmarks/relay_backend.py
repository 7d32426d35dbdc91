"""The server behind the proxies of ``relay.py``, a process of its own. Not for running by hand.

It prints three ports. On the first it throws away what comes, and at the end tells how much that was; on the second it
answers the first byte behind the header; on the third it reads nothing. It is ended by a signal.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

__all__ = ["serve"]

_THROWN_AWAY = bytearray(1 << 20)
_FIXED = 16  # bytes of a version 2 header in front of its length's worth


def has_payload(data: bytes) -> bool:
    """Tell whether there is anything behind the header."""
    return len(data) >= _FIXED and len(data) > _FIXED + int.from_bytes(data[14:16], "big")


class Bulk:
    """Counts what comes."""

    def __init__(self) -> None:
        self.count = 0

    def readable(self, sock: socket.socket) -> bool:
        """Take what is there; true at the end."""
        # what is to be thrown away is not copied
        size = sock.recv_into(_THROWN_AWAY, len(_THROWN_AWAY), socket.MSG_TRUNC)
        self.count += size
        if not size:
            sock.send(b"%d" % self.count)
        return not size


class Answer:
    """Answers the first byte."""

    def __init__(self) -> None:
        self.received = b""

    def readable(self, sock: socket.socket) -> bool:
        """Take what is there; true at the end."""
        data = sock.recv(4096)
        self.received += data
        if has_payload(self.received):
            sock.send(b"y")
            return True
        return not data


def serve() -> None:
    """Serve until a signal comes."""
    kinds: list[Callable[[], Bulk | Answer] | None] = [Bulk, Answer, None]
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in kinds]
    print(*(listener.getsockname()[1] for listener in listeners), flush=True)
    poll = select.epoll()
    accepting = {listener.fileno(): (listener, kind) for listener, kind in zip(listeners, kinds, strict=True)}
    for listener in listeners:
        poll.register(listener, select.EPOLLIN)
    open_ones: dict[int, tuple[socket.socket, Bulk | Answer]] = {}
    stalled = []
    while True:
        for number, _ in poll.poll():
            if number in accepting:
                listener, kind = accepting[number]
                sock, _ = listener.accept()
                if kind is None:
                    stalled.append(sock)
                else:
                    open_ones[sock.fileno()] = sock, kind()
                    poll.register(sock, select.EPOLLIN)
                continue
            sock, connection = open_ones[number]
            if connection.readable(sock):
                del open_ones[number]
                sock.close()


if __name__ == "__main__":
    serve()
