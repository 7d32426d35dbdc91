"""The walk over the bytes of a header's vectors (section 2.2, TLV vectors).

One walk checks a header. :mod:`proxyprotocol.tlv` decodes the values later, for the applications that read them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from proxyprotocol._wire import spec
from proxyprotocol.checksum import crc32c
from proxyprotocol.errors import ProxyProtocolSyntaxError

_read_head: Final = struct.Struct("!BH").unpack_from
_HEAD_LENGTH: Final = spec.TLV_HEAD_LENGTH
_read_crc32c: Final = struct.Struct("!I").unpack_from
# For each type, whether its value has rules of its own; a tuple is faster than a set. Inside SSL no type has.
_CHECKED: Final = tuple(kind in (spec.TYPE_CRC32C, spec.TYPE_UNIQUE_ID, spec.TYPE_SSL) for kind in range(256))
UNCHECKED: Final = (False,) * 256
_NO_CRC32C: Final = -1
_ZEROS: Final = bytes(spec.CRC32C_LENGTH)
_CRC32C_HEAD: Final = bytes((spec.TYPE_CRC32C, 0, spec.CRC32C_LENGTH))
CRC32C_SIZE: Final = spec.TLV_HEAD_LENGTH + spec.CRC32C_LENGTH


def check_tlvs(data: bytes, start: int, end: int, checked: tuple[bool, ...] = _CHECKED) -> int:
    """Check the vectors in ``data[start:end]`` against the specification. Return where the CRC32C's value is, or -1.

    They must fill these bytes exactly. A CRC32C has 4 bytes and comes once at most. A UNIQUE_ID has at most 128. An SSL
    has at least 5, and then well-formed vectors. *checked* says for each type whether such rules count. The offset of
    an error is that of its vector in *data*.
    """
    crc_at = _NO_CRC32C
    try:
        while start < end:
            # No call and no attribute of spec in this loop: they would double the cost of every header.
            # A head that is cut short ends after *end* too, whatever its length says.
            kind, length = _read_head(data, start)
            value = start + _HEAD_LENGTH
            after = value + length
            if after > end:
                raise _cut(data, start, end)
            if checked[kind]:
                if kind == spec.TYPE_SSL:
                    check_ssl(data, start, value, after)
                elif kind == spec.TYPE_UNIQUE_ID:
                    if length > spec.UNIQUE_ID_MAX_LENGTH:
                        raise ProxyProtocolSyntaxError(f"The UNIQUE_ID has {length} bytes, more than 128", start)
                elif crc_at != _NO_CRC32C:
                    raise ProxyProtocolSyntaxError("The header has a second CRC32C", start)
                elif length != spec.CRC32C_LENGTH:
                    raise ProxyProtocolSyntaxError(f"The CRC32C has {length} bytes instead of 4", start)
                else:
                    crc_at = value
            start = after
    except struct.error:  # fewer bytes are left than a head has
        raise _cut(data, start, end) from None
    return crc_at


def _cut(data: bytes, start: int, end: int) -> ProxyProtocolSyntaxError:
    left = end - start - spec.TLV_HEAD_LENGTH
    if left < 0:
        return ProxyProtocolSyntaxError(f"The header ends inside a TLV: {end - start} bytes are left over", start)
    claimed = data[start + 1] << 8 | data[start + 2]
    return ProxyProtocolSyntaxError(
        f"A TLV of type {data[start]:#04x} claims {claimed} bytes where {left} are left", start
    )


def check_ssl(data: bytes, start: int, value: int, after: int) -> None:
    """Check the value of the SSL vector at *start*, ``data[value:after]``, against section 2.2.6."""
    position = value + spec.SSL_HEAD_LENGTH
    if position > after:
        raise ProxyProtocolSyntaxError(f"The SSL TLV has {after - value} bytes, fewer than 5", start)
    # An SSL inside an SSL stays opaque: a sender must not drive a recursion.
    check_tlvs(data, position, after, UNCHECKED)


def crc32c_matches(header: bytes, crc_at: int) -> bool:
    """Return whether the checksum at *crc_at* in a whole header is right (section 2.2.3)."""
    return _read_crc32c(header, crc_at) == (compute_crc32c(header, crc_at),)


def compute_crc32c(header: bytes, crc_at: int) -> int:
    """Return the right checksum of a whole header with a checksum at *crc_at*."""
    return crc32c(header[:crc_at] + _ZEROS + header[crc_at + spec.CRC32C_LENGTH :])


def around_crc32c(wire: bytes) -> tuple[bytes, bytes]:
    """Return the vectors before and after the CRC32C: where one stands, otherwise before the first greater type."""
    crc_at = check_tlvs(wire, 0, len(wire))
    if crc_at >= 0:
        return wire[: crc_at - spec.TLV_HEAD_LENGTH], wire[crc_at + spec.CRC32C_LENGTH :]
    at = 0
    for kind, value in split(wire):
        if kind > spec.TYPE_CRC32C:
            break
        at += spec.TLV_HEAD_LENGTH + len(value)
    return wire[:at], wire[at:]


def join_with_crc32c(before: bytes, after: bytes) -> bytes:
    """Return a whole header, with the right CRC32C between *before* and *after*."""
    head = before + _CRC32C_HEAD
    return head + crc32c(head + _ZEROS + after).to_bytes(spec.CRC32C_LENGTH, "big") + after


def vector(kind: int, value: bytes) -> bytes:
    """Return one vector as on the wire. It raises ValueError for a type or a length out of range."""
    if not 0 <= kind <= 0xFF:
        raise ValueError(f"The type of a TLV is 0 to 255, not {kind!r}")
    if len(value) > spec.TLV_MAX_VALUE:
        raise ValueError(f"The value of TLV {kind:#04x} has {len(value)} bytes, more than {spec.TLV_MAX_VALUE}")
    return bytes((kind, len(value) >> 8, len(value) & 0xFF)) + value


def split(wire: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each vector, in the wire's order. :func:`check_tlvs` must have checked *wire*."""
    at, end = 0, len(wire)
    while at < end:
        kind, length = _read_head(wire, at)
        value = at + _HEAD_LENGTH
        at = value + length
        yield kind, wire[value:at]


def merge(wire: bytes, given: Mapping[int, Iterable[bytes]]) -> bytes:
    """Put the values of each type where its first vector stands, otherwise before the first greater type."""
    written = {kind: b"".join(vector(kind, value) for value in values) for kind, values in given.items()}
    there = list(split(wire))
    joining = sorted(written.keys() - {kind for kind, _ in there}, reverse=True)
    merged, after = [], 0
    for kind, value in there:
        at, after = after, after + _HEAD_LENGTH + len(value)
        while joining and joining[-1] < kind:
            merged.append(written[joining.pop()])
        if kind in written:
            merged.append(written[kind])
            written[kind] = b""  # all values are in the place of the first
        else:
            merged.append(wire[at:after])
    return b"".join(merged + [written[kind] for kind in reversed(joining)])
