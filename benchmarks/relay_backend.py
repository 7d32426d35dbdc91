"""The server behind the proxies of ``relay.py``, a process of its own. Not for running by hand.

It prints four ports. The first discards all bytes, and answers with their number at the end. The second answers the
first byte after the header. The third reads nothing. The fourth answers, at the end, with the length and the digest of
the bytes after the header, and the client that the header named. A signal ends the process.
"""

from __future__ import annotations

import hashlib
import select
import socket
from collections.abc import Callable
from typing import Protocol

from proxyprotocol import HeaderParser

__all__ = ["serve"]

_BUFFER = bytearray(1 << 20)
_FIXED = 16  # bytes of a version 2 header before its address block


class Connection(Protocol):
    """A connection to read from."""

    def readable(self, sock: socket.socket) -> bool:
        """Read what has arrived, and return whether the stream has ended."""


def has_payload(data: bytes) -> bool:
    """Return whether bytes follow the header. This costs less than the parser: we measure the proxies."""
    return len(data) >= _FIXED and len(data) > _FIXED + int.from_bytes(data[14:16], "big")


class Bulk:
    """Counts the bytes."""

    def __init__(self) -> None:
        self.count = 0

    def readable(self, sock: socket.socket) -> bool:
        """Read what has arrived, and return whether the stream has ended."""
        # the kernel does not copy the bytes that we discard
        size = sock.recv_into(_BUFFER, len(_BUFFER), socket.MSG_TRUNC)
        self.count += size
        if not size:
            sock.send(b"%d" % self.count)
        return not size


class Answer:
    """Answers the first byte."""

    def __init__(self) -> None:
        self.received = b""

    def readable(self, sock: socket.socket) -> bool:
        """Read what has arrived, and return whether the stream has ended."""
        data = sock.recv(4096)
        self.received += data
        if has_payload(self.received):
            sock.send(b"y")
            return True
        return not data


class Digest:
    """Reads all bytes, and answers with their length and digest at the end."""

    def __init__(self) -> None:
        self.parser = HeaderParser()
        self.client: str | None = None
        self.count = 0
        self.digest = hashlib.sha256()

    def readable(self, sock: socket.socket) -> bool:
        """Read what has arrived, and return whether the stream has ended."""
        size = sock.recv_into(_BUFFER)
        if not size:
            sock.sendall(f"{self.count} {self.digest.hexdigest()} {self.client}".encode())
            return True
        if self.client is not None:
            self.take(memoryview(_BUFFER)[:size])
        else:
            result = self.parser.feed(bytes(_BUFFER[:size]))
            if result is not None:
                self.client = str(result.peername)
                self.take(self.parser.trailing)
        return False

    def take(self, data: bytes | memoryview) -> None:
        """Take what came behind the header."""
        self.count += len(data)
        self.digest.update(data)


def serve() -> None:
    """Serve until a signal comes."""
    kinds: list[Callable[[], Connection] | None] = [Bulk, Answer, None, Digest]
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in kinds]
    print(*(listener.getsockname()[1] for listener in listeners), flush=True)
    poll = select.epoll()
    accepting = {listener.fileno(): (listener, kind) for listener, kind in zip(listeners, kinds, strict=True)}
    for listener in listeners:
        poll.register(listener, select.EPOLLIN)
    open_ones: dict[int, tuple[socket.socket, Connection]] = {}
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
