"""Version 2, the binary format (section 2.2).

The first 14 bytes (signature, command, family and protocol) decide everything about a header except its length and its
TLVs. So one table, keyed by those 14 bytes, drives the parser.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from socket import SOCK_DGRAM, SOCK_STREAM, SocketKind
from typing import Final, NamedTuple, NoReturn

from proxyprotocol._wire import spec, walk
from proxyprotocol.codec import ProxyProtocol, check_signature, signature_begins
from proxyprotocol.errors import (
    ProxyProtocolChecksumError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolSyntaxError,
    ProxyProtocolWantRead,
)
from proxyprotocol.result import (
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultType,
    ProxyResultUnix,
    ProxyResultUnknown,
)
from proxyprotocol.tlv import ProxyProtocolTLV

__all__ = ["ProxyProtocolV2", "ProxyProtocolV2Header"]

# signature, code (see _code), length
_FIXED: Final = struct.Struct("!12sHH")
# the first 14 bytes, length
_read_fixed: Final = struct.Struct("!14sH").unpack_from

_RESULTS: Final = {kind.family_number: kind for kind in (ProxyResultIPv4, ProxyResultIPv6, ProxyResultUnix)}
_TYPES: Final = {spec.V2_UNSPEC: ProxyResultType.UNKNOWN} | {number: kind.type for number, kind in _RESULTS.items()}
_NUMBERS: Final = {None: spec.V2_STREAM, SOCK_STREAM: spec.V2_STREAM, SOCK_DGRAM: spec.V2_DGRAM}
_PROTOCOLS: Final = {number: kind for kind, number in _NUMBERS.items()} | {spec.V2_UNSPEC: None}
_COMMANDS: Final = {spec.V2_LOCAL: "local", spec.V2_PROXY: "proxy"}


class _Kind(NamedTuple):
    """What command, family and protocol say about a header."""

    least: int  # its least length
    block: int | None  # the length of its family's addresses; None for a family that section 2.2 does not have
    make: Callable[..., ProxyResult]
    protocol: SocketKind | None  # None if the addresses do not count


def _code(command: int, family: int, protocol: int) -> int:
    """Return version, command, family and protocol as one number."""
    return (spec.V2_VERSION | command) << 8 | family << 4 | protocol


def _kinds() -> dict[bytes, _Kind]:
    """List the first 14 bytes of every header that a receiver must accept."""
    fixed = spec.V2_FIXED_LENGTH
    kinds = {}
    for family in range(16):
        block = spec.V2_BLOCK_LENGTH.get(family)
        for protocol in range(16):
            # "discard the protocol block including the family which is ignored"
            kinds[_code(spec.V2_LOCAL, family, protocol)] = _Kind(fixed, block, ProxyResultLocal, None)
            if block is None or protocol not in _PROTOCOLS:
                continue
            if spec.V2_UNSPEC in (family, protocol):
                kind = _Kind(fixed, block, ProxyResultUnknown, None)
            else:
                kind = _Kind(fixed + block, block, _RESULTS[family].from_block, _PROTOCOLS[protocol])
            kinds[_code(spec.V2_PROXY, family, protocol)] = kind
    return {spec.V2_SIGNATURE + code.to_bytes(2, "big"): kind for code, kind in kinds.items()}


_KINDS: Final = _kinds()
# Most headers have addresses and nothing else: the 16 fixed bytes decide everything about them.
_BARE: Final = {
    beginning + (kind.least - spec.V2_FIXED_LENGTH).to_bytes(2, "big"): (kind.least, kind.make, kind.protocol)
    for beginning, kind in _KINDS.items()
    if kind.protocol is not None
}


# the codes that a ProxyProtocolV2Header can express
_CODES: Final[dict[tuple[object, ...], int]] = {
    (name, addresses, kind): _code(command, family, protocol)
    for command, name in _COMMANDS.items()
    for family, addresses in _TYPES.items()
    for protocol, kind in _PROTOCOLS.items()
}


@dataclass(eq=False)
class ProxyProtocolV2Header:
    """The fixed part of a header, for code written for `proxy-protocol`.

    Args:
        command: ``"local"``, ``"proxy"``, or None for any other.
        type: The kind of addresses, or None for any other family.
        protocol: The kind of socket, or None.
        data_len: How many bytes follow the fixed 16.
    """

    __slots__ = ("command", "data_len", "protocol", "type")

    command: str | None
    type: ProxyResultType | None
    protocol: SocketKind | None
    data_len: int


class ProxyProtocolV2(ProxyProtocol):
    """The binary format (section 2.2).

    Args:
        checksum: Whether :meth:`pack` puts a CRC32C into each header. A received one is always verified.
    """

    __slots__ = ("_checksum",)

    def __init__(self, checksum: bool = True) -> None:
        self._checksum = checksum

    def is_valid(self, signature: bytes) -> bool:
        return len(signature) >= spec.TELLING_LENGTH and spec.V2_SIGNATURE.startswith(
            signature[: spec.V2_SIGNATURE_LENGTH]
        )

    def unpack(self, data: bytes) -> ProxyResult:
        data = data if type(data) is bytes else bytes(data)
        found = self.parse(data)
        if type(found) is tuple:
            return found[0]
        assert isinstance(found, int)  # for mypy; type() above is faster
        raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(found - len(data)))

    def unpack_header(self, header_data: bytes) -> ProxyProtocolV2Header:
        """Read the fixed part alone.

        Args:
            header_data: The first 16 bytes of a connection.

        Raises:
            ProxyProtocolIncompleteError: There are fewer than 16.
            ProxyProtocolSyntaxError: The signature or the version is wrong.
        """
        check_signature(bytes(header_data[: spec.V2_SIGNATURE_LENGTH]), spec.V2_SIGNATURE)
        if len(header_data) < spec.V2_FIXED_LENGTH:
            raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(spec.V2_FIXED_LENGTH - len(header_data)))
        _, code, length = _FIXED.unpack_from(header_data)
        if code >> 12 != spec.V2_VERSION >> 4:
            _check_beginning(header_data)
        return ProxyProtocolV2Header(
            _COMMANDS.get(code >> 8 & 0xF), _TYPES.get(code >> 4 & 0xF), _PROTOCOLS.get(code & 0xF), length
        )

    def unpack_data(self, header: ProxyProtocolV2Header, header_data: bytes, data: bytes) -> ProxyResult:
        """Read what follows the fixed part.

        Args:
            header: The fixed part, from :meth:`unpack_header`.
            header_data: The fixed part's bytes. Without them a CRC32C is not verified.
            data: The rest of the header, and not a byte after it.

        Raises:
            ProxyProtocolSyntaxError: The header breaks a rule of the specification.
            ProxyProtocolChecksumError: The CRC32C is wrong.
        """
        fixed = bytes(header_data[: spec.V2_FIXED_LENGTH])
        known = len(fixed) == spec.V2_FIXED_LENGTH
        if not known:
            # code written for `proxy-protocol` leaves out type and protocol for UNSPEC
            addresses = header.type or (ProxyResultType.UNKNOWN if header.protocol is None else None)
            impossible = _code(spec.V2_LOCAL, 0, 0) if header.command == _COMMANDS[spec.V2_LOCAL] else 0
            fixed = _fixed(_CODES.get((header.command, addresses, header.protocol), impossible), len(data))
        whole = fixed + bytes(data)
        kind = _KINDS.get(whole[: spec.V2_LENGTH_AT])
        if kind is None or len(whole) < kind.least:
            _reject(whole, len(whole))
        return _decode(kind, whole, verify=known)

    def parse(self, data: bytes, max_header: int = spec.V2_MAX_LENGTH) -> tuple[ProxyResult, int] | int:
        bare = _BARE.get(data[: spec.V2_FIXED_LENGTH])
        if bare is not None:
            size, make, protocol = bare
            if size <= len(data) and size <= max_header:
                return make(data[spec.V2_FIXED_LENGTH : size], protocol, b""), size
        if len(data) < spec.V2_FIXED_LENGTH:
            _check_beginning(data)
            return spec.V2_FIXED_LENGTH
        beginning, length = _read_fixed(data)
        kind, size = _KINDS.get(beginning), spec.V2_FIXED_LENGTH + length
        if kind is None or size < kind.least:
            _reject(data, size)
        if size > max_header:
            raise ProxyProtocolLimitError(
                f"The header has {size} bytes where max_header allows {max_header}", spec.V2_LENGTH_AT
            )
        return (_decode(kind, data[:size]), size) if size <= len(data) else size

    def pack(self, result: ProxyResult) -> bytes:
        """Write a header.

        The CRC32C goes where the result's TLVs have one, otherwise before the first greater type. A LOCAL header
        without TLVs gets none: the specification asks for length 0, and some receivers insist.

        Args:
            result: What the header says. A result without a protocol is sent as STREAM: receivers ignore the
                addresses of UNSPEC.

        Raises:
            KeyError: The protocol is neither stream nor datagram.
            ValueError: A UNIX path does not fit, or the TLVs are malformed.
        """
        block, family = result.address_block(), result.family_number
        before, after = result.tlv.around_crc32c()
        code = _code(
            spec.V2_PROXY if result.proxied else spec.V2_LOCAL,
            family,
            _NUMBERS[result.protocol] if family else spec.V2_UNSPEC,
        )
        size = len(block) + len(before) + len(after)
        if not self._checksum or not (result.proxied or result.tlv):
            return _fixed(code, size) + block + before + after
        return walk.join_with_crc32c(_fixed(code, size + walk.CRC32C_SIZE) + block + before, after)

    def begins(self, data: bytes | bytearray) -> bool | None:
        return signature_begins(data, spec.V2_SIGNATURE)


def _fixed(code: int, length: int) -> bytes:
    try:
        return _FIXED.pack(spec.V2_SIGNATURE, code, length)
    except struct.error:
        raise ValueError(f"A header has no room for {length} bytes of addresses and TLVs: 65535 are the most") from None


def _reject(data: bytes, size: int) -> NoReturn:
    """Raise the error for a header of *size* bytes with a wrong fixed part."""
    _check_beginning(data)
    least, length = _KINDS[data[: spec.V2_LENGTH_AT]].least - spec.V2_FIXED_LENGTH, size - spec.V2_FIXED_LENGTH
    raise ProxyProtocolSyntaxError(
        f"The addresses of this family take {least} bytes and the length in the header is {length}", spec.V2_LENGTH_AT
    )


def _check_beginning(data: bytes) -> None:
    """Reject 14 bytes that cannot begin a header, or as many of them as there are."""
    check_signature(data[: spec.V2_SIGNATURE_LENGTH], spec.V2_SIGNATURE)
    if len(data) <= spec.V2_COMMAND_AT:
        return
    version, command = divmod(data[spec.V2_COMMAND_AT], 0x10)
    family, protocol = divmod(data[spec.V2_FAMILY_AT] if len(data) > spec.V2_FAMILY_AT else 0, 0x10)
    if version != spec.V2_VERSION >> 4:
        raise ProxyProtocolSyntaxError(f"The version of a binary header is 2, not {version}", spec.V2_COMMAND_AT)
    if command not in _COMMANDS:
        raise ProxyProtocolSyntaxError(f"The command is LOCAL (0) or PROXY (1), not {command}", spec.V2_COMMAND_AT)
    if command == spec.V2_PROXY and family not in _TYPES:
        raise ProxyProtocolSyntaxError(f"The address family is one of 0 to 3, not {family}", spec.V2_FAMILY_AT)
    if command == spec.V2_PROXY and protocol not in _PROTOCOLS:
        raise ProxyProtocolSyntaxError(f"The transport protocol is one of 0 to 2, not {protocol}", spec.V2_FAMILY_AT)


def _decode(kind: _Kind, header: bytes, verify: bool = True) -> ProxyResult:
    end, _, make, protocol = kind
    if protocol is None:
        return _decode_without_addresses(kind, header, verify)
    if len(header) == end:
        return make(header[spec.V2_FIXED_LENGTH :], protocol, b"")
    crc_at = walk.check_tlvs(header, end, len(header))
    result = make(header[spec.V2_FIXED_LENGTH : end], protocol, header[end:])
    if crc_at >= 0 and verify and not walk.crc32c_matches(header, crc_at):
        raise ProxyProtocolChecksumError(result)
    return result


def _decode_without_addresses(kind: _Kind, header: bytes, verify: bool) -> ProxyResult:
    """Read LOCAL and UNSPEC: whatever follows is accepted, unless its only clean reading has a wrong CRC32C."""
    # HAProxy has sent addresses with them, and the health check of AWS says INET and sends TLVs alone. So TLVs may
    # begin after the address block (a body of just the block's size has none), or in its place. A right CRC32C proves a
    # reading, a wrong one rules it out. Addresses of an unknown family may fill the whole body, so that is never wrong.
    found = wrong = None
    for start in (spec.V2_FIXED_LENGTH + (kind.block or 0), spec.V2_FIXED_LENGTH):
        if start > len(header):
            continue
        try:
            crc_at = walk.check_tlvs(header, start, len(header))
        except ProxyProtocolSyntaxError:
            continue
        vectors = header[start:]
        if crc_at < 0 or not verify:
            found = vectors if found is None else found
        elif walk.crc32c_matches(header, crc_at):
            found = vectors
            break
        elif wrong is None:
            wrong = vectors
    is_wrong = found is None and wrong is not None and kind.block is not None
    result = kind.make(tlv=ProxyProtocolTLV.from_checked((wrong if is_wrong else found) or b""))
    if is_wrong:
        raise ProxyProtocolChecksumError(result)
    return result
