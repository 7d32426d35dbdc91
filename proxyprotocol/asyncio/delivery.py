"""Floor 5: bytes that were read with the header, and are the next protocol's."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

__all__ = ["deliver", "take_unread"]


def deliver(transport: asyncio.Transport, data: bytes) -> bytes:
    """Give bytes to the present protocol of a transport, whichever that is by then, for as long as it reads.

    Args:
        transport: The transport.
        data: The bytes.

    Returns:
        Those that are left, because the protocol has paused or closed the transport.
    """
    while data and transport.is_reading() and not transport.is_closing():
        protocol: Any = transport.get_protocol()
        # not isinstance: uvloop's own protocols are not asyncio's
        if hasattr(protocol, "data_received"):
            protocol.data_received(data)
            return b""
        buffer = memoryview(protocol.get_buffer(len(data))).cast("B")
        size = min(len(buffer), len(data))
        if not size:
            raise RuntimeError("get_buffer() has returned an empty buffer")
        buffer[:size] = data[:size]
        data = data[size:]
        protocol.buffer_updated(size)
    return data


def take_unread(protocol: asyncio.BaseProtocol) -> bytes:
    """Take what a stream has received and nobody has read: the peer sent it in the clear, so TLS must get it first."""
    # Not public. Nothing else leads from the protocol to its reader, and CPython 3.14 goes this way too (gh-142352).
    reader: Any = getattr(protocol, "_stream_reader", None)
    if reader is None:
        return b""
    # read() ends a pause of the reader's own, and waits only where the reader has nothing
    reading = reader.read(sys.maxsize)
    try:
        reading.send(None)
    except StopIteration as read:
        unread: bytes = read.value
        return unread
    except RuntimeError:
        pass  # a task waits there already, so the reader has nothing
    reading.close()
    return b""
