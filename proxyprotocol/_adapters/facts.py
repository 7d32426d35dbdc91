"""Facts about transports and sockets, which may be closed already."""

from __future__ import annotations

import os
import select
import socket
from typing import Any

from proxyprotocol.typing import TransportProtocol

AF_UNIX = getattr(socket, "AF_UNIX", None)  # Windows lacks it


def extra_info(transport: TransportProtocol, name: str) -> Any:
    """Return a fact about a transport that may be closed already; None if the transport does not know."""
    try:
        return transport.get_extra_info(name)
    except AttributeError:
        # Closed transports raise this instead of returning the default: asyncio's over TLS (CPython 3.11) for every
        # name, uvloop's for addresses.
        return None


def decode_path(name: bytes | str) -> str:
    """Decode the name of a UNIX socket; the socket module returns abstract names as bytes, with the leading NUL."""
    return os.fsdecode(name)


def is_foreign(address: Any, family: int) -> bool:
    """Return whether a socket of *family* cannot send to *address*; a host name is never foreign."""
    is_path = isinstance(address, (str, bytes))
    if is_path or family == AF_UNIX:
        return not (is_path and family == AF_UNIX)
    try:
        socket.inet_pton(socket.AF_INET if family == socket.AF_INET6 else socket.AF_INET6, address[0])
    except OSError:
        return False
    return True


def has_ended(sock: socket.socket) -> bool:
    """Return whether the peer has closed its end of a stream; unread bytes may still be in the socket."""
    # only Linux has POLLRDHUP, and eventlet takes poll() away; elsewhere the deadline ends the wait
    if not hasattr(select, "POLLRDHUP") or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))
