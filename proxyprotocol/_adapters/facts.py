"""Floor 4: facts from transports and sockets, which may be gone already."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Any

from proxyprotocol.typing import TransportProtocol

__all__: list[str] = []

# How long to rest, in seconds, before another look at bytes that must stay in a socket: nobody can wait for more of
# them than there are. Such a peer has sent a part of a signature, and hardly any ever does.
REST = 0.01

AF_UNIX = getattr(socket, "AF_UNIX", None)  # Windows has none


def extra_info(transport: TransportProtocol, name: str) -> Any:
    """Ask a transport that may be closed already, and get None for what it cannot tell."""
    try:
        return transport.get_extra_info(name)
    except AttributeError:
        # Closed ones raise this instead of giving the default: asyncio's over TLS (CPython 3.11) whatever is asked,
        # uvloop's where an address is.
        return None


def decode_path(name: bytes | str) -> str:
    """Decode the name of a UNIX socket; the socket module gives abstract ones as bytes, with the leading NUL."""
    return os.fsdecode(name)


def is_foreign(address: Any, family: int) -> bool:
    """Tell whether a socket cannot send to an address, which is of another family.

    Args:
        address: The address. A host's name is none.
        family: The socket's family.
    """
    is_path = isinstance(address, (str, bytes))
    if is_path or family == AF_UNIX:
        return not (is_path and family == AF_UNIX)
    try:
        socket.inet_pton(socket.AF_INET if family == socket.AF_INET6 else socket.AF_INET6, address[0])
    except OSError:
        return False
    return True


def has_ended(sock: socket.socket, seconds: float) -> bool:
    """Tell whether nothing more comes behind the bytes that are in a socket.

    Args:
        sock: A stream socket.
        seconds: How long to wait for that.
    """
    if not hasattr(select, "POLLRDHUP"):  # Linux has it; elsewhere the end is found by the deadline
        time.sleep(seconds)
        return False
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(seconds * 1000))
