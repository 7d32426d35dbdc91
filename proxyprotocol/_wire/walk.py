"""Floor 1: the walk over the vectors of a header, pure bytes (section 2.2, TLV vectors).

A header is checked by one such walk and most applications never look further; :mod:`proxyprotocol.tlv` gives the
values to those that do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from proxyprotocol._wire import spec
from proxyprotocol.checksum import crc32c
from proxyprotocol.errors import ProxyProtocolSyntaxError

__all__: list[str] = []

_read_head: Final = struct.Struct("!BH").unpack_from
_HEAD_LENGTH: Final = spec.TLV_HEAD_LENGTH
_read_crc32c: Final = struct.Struct("!I").unpack_from
# by type, which is faster than a set: whether the value is held against rules of its own; inside of SSL none is
_CHECKED: Final = tuple(kind in (spec.TYPE_CRC32C, spec.TYPE_UNIQUE_ID, spec.TYPE_SSL) for kind in range(256))
UNCHECKED: Final = (False,) * 256
_NO_CRC32C: Final = -1
_ZEROS: Final = bytes(spec.CRC32C_LENGTH)
_EMPTY_CRC32C: Final = bytes((spec.TYPE_CRC32C, 0, spec.CRC32C_LENGTH)) + _ZEROS


def check_tlvs(data: bytes, start: int, end: int, checked: tuple[bool, ...] = _CHECKED) -> int:
    """Hold the vectors in a stretch of bytes against the specification, decoding nothing.

    They must fill the stretch exactly; CRC32C has 4 bytes and comes once at most, UNIQUE_ID has 128 at most, SSL at
    least 5 and well-formed vectors behind those.

    Args:
        data: Where the stretch is.
        start: Its first byte.
        end: The byte behind its last.
        checked: For each type whether its values are held against their rules.

    Returns:
        Where the value of the CRC32C is in *data*, or -1 where there is none.

    Raises:
        ProxyProtocolSyntaxError: They break a rule; the offset is that of the vector in *data*.
    """
    crc_at = _NO_CRC32C
    try:
        while start < end:
            # Neither _end_of_tlv() nor _wire is asked: in this loop, which every header goes through, that is half
            # the cost. A head that is cut ends behind the end too, whatever length is read.
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
                        raise _long_unique_id(start, length)
                elif length == spec.CRC32C_LENGTH and crc_at < 0:
                    crc_at = value
                else:
                    raise _wrong_crc32c(crc_at, start, length)
            start = after
    except struct.error:  # there are not even the bytes of a head
        raise _cut(data, start, end) from None
    return crc_at


def _end_of_tlv(data: bytes, start: int, end: int) -> int:
    """Give the byte behind the vector at *start*."""
    value = start + spec.TLV_HEAD_LENGTH
    if value <= end:
        after: int = value + _read_head(data, start)[1]
        if after <= end:
            return after
    raise _cut(data, start, end)


def _cut(data: bytes, start: int, end: int) -> ProxyProtocolSyntaxError:
    left = end - start - spec.TLV_HEAD_LENGTH
    if left < 0:
        return ProxyProtocolSyntaxError(f"The header ends inside a TLV: {end - start} bytes are left over", start)
    claimed = data[start + 1] << 8 | data[start + 2]
    return ProxyProtocolSyntaxError(
        f"A TLV of type {data[start]:#04x} claims {claimed} bytes where {left} are left", start
    )


def _wrong_crc32c(earlier: int, start: int, length: int) -> ProxyProtocolSyntaxError:
    if earlier != _NO_CRC32C:
        return ProxyProtocolSyntaxError("The header has a second CRC32C", start)
    return ProxyProtocolSyntaxError(f"A CRC32C of {length} bytes where it has {spec.CRC32C_LENGTH}", start)


def _long_unique_id(start: int, length: int) -> ProxyProtocolSyntaxError:
    limit = spec.UNIQUE_ID_MAX_LENGTH
    return ProxyProtocolSyntaxError(f"A UNIQUE_ID of {length} bytes where {limit} are the most", start)


def check_ssl(data: bytes, start: int, value: int, after: int) -> None:
    """Hold the value of an SSL vector, ``data[value:after]``, against section 2.2.6."""
    position = value + spec.SSL_HEAD_LENGTH
    if position > after:
        raise ProxyProtocolSyntaxError(f"An SSL TLV of {after - value} bytes where 5 are the least", start)
    # An SSL inside an SSL is opaque: no recursion that a sender could drive.
    check_tlvs(data, position, after, UNCHECKED)


def crc32c_matches(header: bytes, crc_at: int) -> bool:
    """Tell whether a header's checksum is right, over the bytes as they came (section 2.2.3).

    Args:
        header: The whole header.
        crc_at: What :func:`check_tlvs` gave; -1, no checksum, is right.
    """
    if crc_at < 0:
        return True
    zeroed = header[:crc_at] + _ZEROS + header[crc_at + spec.CRC32C_LENGTH :]
    return _read_crc32c(header, crc_at) == (crc32c(zeroed),)


class Sendable(NamedTuple):
    """Vectors as they are sent: with a checksum, or without.

    Attributes:
        with_crc32c: The vectors with a CRC32C of zeros: where one stood, else before the first greater type.
        crc_at: Where its value is in them.
        plain: The vectors without a CRC32C.
    """

    with_crc32c: bytes
    crc_at: int
    plain: bytes


def make_sendable(wire: bytes) -> Sendable:
    """Make vectors ready to be sent.

    Args:
        wire: The vectors.

    Raises:
        ProxyProtocolSyntaxError: No receiver would take these vectors.
    """
    crc_at = check_tlvs(wire, 0, len(wire))
    if crc_at >= 0:
        at, behind = crc_at - spec.TLV_HEAD_LENGTH, crc_at + spec.CRC32C_LENGTH
    else:
        at = 0
        while at < len(wire) and wire[at] <= spec.TYPE_CRC32C:
            at = _end_of_tlv(wire, at, len(wire))
        behind = at
    before, after = wire[:at], wire[behind:]
    return Sendable(before + _EMPTY_CRC32C + after, at + spec.TLV_HEAD_LENGTH, before + after)


def vector(kind: int, value: bytes) -> bytes:
    """Write one vector."""
    if not 0 <= kind <= 0xFF:
        raise ValueError(f"The type of a TLV is 0 to 255, not {kind!r}")
    if len(value) > spec.TLV_MAX_VALUE:
        raise ValueError(f"The value of TLV {kind:#04x} has {len(value)} bytes where {spec.TLV_MAX_VALUE} are the most")
    return bytes((kind, len(value) >> 8, len(value) & 0xFF)) + value


def split(wire: bytes) -> Iterator[tuple[int, bytes]]:
    """Give type and value of each vector, in the wire's order."""
    at, end = 0, len(wire)
    while at < end:
        after = _end_of_tlv(wire, at, end)
        yield wire[at], wire[at + spec.TLV_HEAD_LENGTH : after]
        at = after


def merge(wire: bytes, given: Mapping[int, Iterable[bytes]]) -> bytes:
    """Put the values of each type where its first vector stands, else before the first greater type."""
    if not wire:
        return b"".join([vector(kind, value) for kind in sorted(given) for value in given[kind]])
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
