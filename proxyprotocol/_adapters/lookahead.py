"""The reads that a header needs, for sockets that must keep every byte after it."""

from __future__ import annotations

import socket
from collections.abc import Generator
from typing import Final, TypeAlias

from proxyprotocol._adapters.facts import has_ended
from proxyprotocol.receiver import ReceiverConnection

__all__: list[str] = []

# Seconds between two MSG_PEEKs. A socket that holds peeked bytes is always readable, so select() cannot wait for more.
# The peer has sent a part of a signature and stopped, which hardly any peer ever does.
REST: Final = 0.01

#: One read as size and flags for ``recv()``; None asks for a pause of :data:`REST`.
Read: TypeAlias = "tuple[int, int] | None"


def plan_reads(sock: socket.socket, connection: ReceiverConnection) -> Generator[Read, bytes, None]:
    """Yield one read after the other until the application may begin.

    The caller does each read and sends the bytes back, or ``b""`` at the end of the stream. It keeps the deadline.
    Under OPTIONAL the bytes are peeked at until the receiver has decided; only the bytes of a header are then taken out
    of the socket.

    Args:
        sock: The stream socket that the caller reads from.
        connection: The connection, which takes the bytes.

    Raises:
        ProxyProtocolError: Close the socket.
    """
    while not connection.begun:
        if not connection.undecided:
            _take(connection, (yield connection.needed, 0))
            continue
        seen, ended = 0, False
        while connection.undecided:
            data = yield seen + connection.needed, socket.MSG_PEEK
            if data and len(data) == seen and not ended:
                yield None
                ended = has_ended(sock)
            else:
                _take(connection, data[seen:])
                seen = len(data)
        if connection.begun and connection.result is None:
            return
        while seen and (data := (yield seen, 0)):
            seen -= len(data)


def _take(connection: ReceiverConnection, data: bytes) -> None:
    if data:
        connection.feed(data)
    else:
        connection.eof()
