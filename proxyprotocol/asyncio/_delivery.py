"""Floor 5: bytes that were read with the header, and are the next protocol's."""

from __future__ import annotations

import asyncio
from typing import Any

__all__: list[str] = []


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
