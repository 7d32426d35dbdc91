"""The reads that a header needs, for sockets that must keep every byte after it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator
from typing import Final

from proxyprotocol._adapters.facts import has_ended
from proxyprotocol.receiver import ReceiverConnection

# Bytes to peek at. Section 2 lets a sender count on TCP segments of 536 bytes, so nearly every header fits.
_LOOK: Final = 536
_PEEK: Final = int(socket.MSG_PEEK)  # a plain int, because "|" of two flags takes longer than recv()
# Seconds between two MSG_PEEKs. A socket that holds peeked bytes is always readable, so select() cannot wait for more.
# The peer has sent a part of a signature and stopped, which hardly any peer ever does.
REST: Final = 0.01


def plan_reads(
    sock: socket.socket, connection: ReceiverConnection
) -> Generator[tuple[int, int] | None, bytes | None, None]:
    """Yield one read after the other until the application may begin; raise ProxyProtocolError to refuse the peer.

    A read is the size and the flags for ``recv()``; None asks for a pause of :data:`REST`. The caller does each read,
    and sends the bytes back, or ``b""`` at the end of the stream. It keeps the deadline.

    We peek at the bytes, and then take those of the header out of the socket. ``connection.trailing`` stays in it. TLS
    cannot peek: there we read no more than the header needs.
    """
    peeks = connection.undecided or not isinstance(sock, ssl.SSLSocket)
    held, ended = 0, False  # bytes that the connection has taken, and the socket still holds
    while not connection.begun:
        data = (yield (held + _LOOK, _PEEK) if peeks else (connection.needed, 0)) or b""
        if held and len(data) == held and not ended:
            yield None
            ended = has_ended(sock)
            continue
        if len(data) > held:
            connection.feed(data[held:])
        else:
            connection.eof()
        held = len(data) if peeks else 0
        if connection.undecided:
            continue
        if connection.begun:
            if connection.result is None:
                return  # there was no header: every byte is the application's
            held -= len(connection.trailing)
        while held and (taken := (yield held, 0)):
            held -= len(taken)
