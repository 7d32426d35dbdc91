"""Floor 3: one header in front of each datagram (section 2 of the 2026 edition)."""

from __future__ import annotations

from . import _wire
from ._errors import ProxyProtocolSyntaxError
from .result import ProxyResult
from .v2 import ProxyProtocolV2

__all__ = ["pack_datagram", "unpack_datagram"]

# version 1 knows TCP alone
_CODEC = ProxyProtocolV2()


def unpack_datagram(data: bytes) -> tuple[ProxyResult, bytes]:
    """Part a datagram into what its header says and what the client sent.

    Args:
        data: A whole datagram.

    Returns:
        The result and the payload.

    Raises:
        ProxyProtocolSyntaxError: There is no header of version 2, or it is cut: no datagram continues another.
        ProxyProtocolChecksumError: The header's CRC32C is not right.
    """
    data = bytes(data)
    size = _CODEC.measure(data)
    if size > len(data):
        raise ProxyProtocolSyntaxError(f"The datagram has {len(data)} bytes, its header would have at least {size}")
    return _CODEC.decode(data[:size]), data[size:]


def pack_datagram(result: ProxyResult, payload: bytes) -> bytes:
    """Put a header in front of a payload.

    Args:
        result: What the header is to say. One that names no protocol is sent as a datagram's.
        payload: What the client sent.

    Raises:
        ValueError: A UNIX path is over 108 bytes, or the TLVs are such as no receiver would take.
    """
    return _CODEC._pack(result, _wire.V2_DGRAM) + payload
