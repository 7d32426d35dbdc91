"""Version 2, the binary format (section 2.2).

The first 14 bytes (signature, command, family and protocol) decide everything about a header except its length and its
TLVs. So one table, keyed by those 14 bytes, drives the parser.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from socket import SOCK_DGRAM, SOCK_STREAM, SocketKind
from typing import Final, NamedTuple

from proxyprotocol._wire import spec, walk
from proxyprotocol.checksum import crc32c
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

# signature, version and command with family and protocol as one number, length
_FIXED: Final = struct.Struct("!12sHH")
# all of it but the length, and the length
_read_fixed: Final = struct.Struct("!14sH").unpack_from

_RESULTS: Final[dict[int, type[ProxyResultIPv4 | ProxyResultIPv6 | ProxyResultUnix]]] = {
    spec.V2_INET: ProxyResultIPv4,
    spec.V2_INET6: ProxyResultIPv6,
    spec.V2_UNIX: ProxyResultUnix,
}
_PROTOCOLS: Final[dict[int, SocketKind | None]] = {
    spec.V2_UNSPEC: None,
    spec.V2_STREAM: SOCK_STREAM,
    spec.V2_DGRAM: SOCK_DGRAM,
}
_NIBBLES: Final = {SOCK_STREAM: spec.V2_STREAM, SOCK_DGRAM: spec.V2_DGRAM}
_COMMANDS: Final = {spec.V2_LOCAL: "local", spec.V2_PROXY: "proxy"}
_TYPES: Final = {
    spec.V2_UNSPEC: ProxyResultType.UNKNOWN,
    spec.V2_INET: ProxyResultType.IPv4,
    spec.V2_INET6: ProxyResultType.IPv6,
    spec.V2_UNIX: ProxyResultType.UNIX,
}


class _Kind(NamedTuple):
    """What command, family and protocol make of a header."""

    least: int  # bytes that it has at least
    block: int | None  # bytes that the addresses of its family take; None for a family that section 2.2 does not have
    make: Callable[..., ProxyResult]
    protocol: SocketKind | None  # None where there are no addresses to go by


def _code(command: int, family: int, protocol: int) -> int:
    return (spec.V2_VERSION | command) << 8 | family << 4 | protocol


def _beginning(code: int) -> bytes:
    return spec.V2_SIGNATURE + code.to_bytes(2, "big")


def _kinds() -> dict[bytes, _Kind]:
    """List every beginning of a header that a receiver must accept, up to its length."""
    fixed = spec.V2_FIXED_LENGTH
    kinds = {}
    for family in range(16):
        block = spec.V2_BLOCK_LENGTH.get(family)
        for protocol in range(16):
            # "discard the protocol block including the family which is ignored"
            local = _code(spec.V2_LOCAL, family, protocol)
            kinds[_beginning(local)] = _Kind(fixed, block, ProxyResultLocal, None)
            if block is None or protocol not in _PROTOCOLS:
                continue
            if spec.V2_UNSPEC in (family, protocol):
                kind = _Kind(fixed, block, ProxyResultUnknown, None)
            else:
                kind = _Kind(fixed + block, block, _RESULTS[family].from_block, _PROTOCOLS[protocol])
            kinds[_beginning(_code(spec.V2_PROXY, family, protocol))] = kind
    return kinds


_KINDS: Final = _kinds()
# most headers have addresses and nothing else: the 16 fixed bytes decide everything about them
_BARE: Final = {
    beginning + (kind.least - spec.V2_FIXED_LENGTH).to_bytes(2, "big"): (kind.least, kind.make, kind.protocol)
    for beginning, kind in _KINDS.items()
    if kind.protocol is not None
}


class ProxyProtocolV2Header:
    """The fixed part of a header, for code written for `proxy-protocol`.

    Args:
        command: ``"local"``, ``"proxy"``, or None for another.
        type: The kind of addresses, or None for another family.
        protocol: The kind of socket, or None.
        data_len: How many bytes follow the fixed 16.
    """

    __slots__ = ("command", "data_len", "protocol", "type")

    def __init__(
        self,
        command: str | None,
        type: ProxyResultType | None,
        protocol: SocketKind | None,
        data_len: int,
    ) -> None:
        self.command = command
        self.type = type
        self.protocol = protocol
        self.data_len = data_len

    def _code(self) -> int:
        """Return version, command, family and protocol as one number; 0 for an impossible header."""
        # code written for `proxy-protocol` leaves out both for UNSPEC
        addresses = self.type or (ProxyResultType.UNKNOWN if self.protocol is None else None)
        for command, name in _COMMANDS.items():
            for family, type_ in _TYPES.items():
                for protocol, kind in _PROTOCOLS.items():
                    if (name, type_, kind) == (self.command, addresses, self.protocol):
                        return _code(command, family, protocol)
        return _code(spec.V2_LOCAL, spec.V2_UNSPEC, 0) if self.command == _COMMANDS[spec.V2_LOCAL] else 0


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
            raise _refuse(code, length)
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
        known = len(header_data) >= spec.V2_FIXED_LENGTH
        fixed = bytes(header_data[: spec.V2_FIXED_LENGTH]) if known else _fixed(header._code(), len(data))
        whole = fixed + bytes(data)
        return _decode(_kind(whole, len(whole)), whole, verify=known)

    def parse(self, data: bytes, max_header: int = spec.V2_MAX_LENGTH) -> tuple[ProxyResult, int] | int:
        bare = _BARE.get(data[: spec.V2_FIXED_LENGTH])
        if bare is not None:
            size, make, protocol = bare
            if size <= len(data) and size <= max_header:
                return make(data[spec.V2_FIXED_LENGTH : size], protocol, b""), size
        if len(data) < spec.V2_FIXED_LENGTH:
            return _parse_begun(data)
        beginning, length = _read_fixed(data)
        kind, size = _KINDS.get(beginning), spec.V2_FIXED_LENGTH + length
        if kind is None or size < kind.least:
            check_signature(data[: spec.V2_SIGNATURE_LENGTH], spec.V2_SIGNATURE)
            raise _refuse(data[spec.V2_COMMAND_AT] << 8 | data[spec.V2_FAMILY_AT], size)
        if size > max_header:
            raise ProxyProtocolLimitError(
                f"The header has {size} bytes where max_header allows {max_header}", spec.V2_LENGTH_AT
            )
        return (_decode(kind, data[:size]), size) if size <= len(data) else size

    def pack(self, result: ProxyResult) -> bytes:
        """Write a header.

        The CRC32C goes where one stood, else before the first greater type. A LOCAL header without TLVs gets none:
        the specification asks for length 0, and some receivers insist.

        Args:
            result: What the header says. A result without a protocol is sent as STREAM: receivers ignore the
                addresses of UNSPEC.

        Raises:
            KeyError: The protocol is neither stream nor datagram.
            ValueError: A UNIX path does not fit, or the TLVs are malformed.
        """
        block = result.address_block()
        vectors, crc_at, plain = result.tlv.as_sent()
        if self._checksum and (result.proxied or result.tlv):
            header = _fixed(_code_of(result), len(block) + len(vectors)) + block + vectors
            crc_at += spec.V2_FIXED_LENGTH + len(block)
            checksum = crc32c(header).to_bytes(spec.CRC32C_LENGTH, "big")
            return header[:crc_at] + checksum + header[crc_at + spec.CRC32C_LENGTH :]
        return _fixed(_code_of(result), len(block) + len(plain)) + block + plain

    def begins(self, data: bytes | bytearray) -> bool | None:
        return signature_begins(data, spec.V2_SIGNATURE)


def _fixed(code: int, length: int) -> bytes:
    try:
        return _FIXED.pack(spec.V2_SIGNATURE, code, length)
    except struct.error:
        raise ValueError(f"A header has no room for {length} bytes of addresses and TLVs, 65535 are the most") from None


def _code_of(result: ProxyResult) -> int:
    """Return version, command, family and protocol as one number."""
    family = result.family_number
    if family == spec.V2_UNSPEC:
        return _code(spec.V2_PROXY if result.proxied else spec.V2_LOCAL, family, spec.V2_UNSPEC)
    return _code(spec.V2_PROXY, family, spec.V2_STREAM if result.protocol is None else _NIBBLES[result.protocol])


def _kind(data: bytes | bytearray, size: int) -> _Kind:
    """Look a header up by its first 14 bytes; reject unknown ones, and bodies too short for their family."""
    beginning = bytes(data[: spec.V2_LENGTH_AT])
    kind = _KINDS.get(beginning)
    if kind is None or size < kind.least:
        raise _refuse(int.from_bytes(beginning[spec.V2_COMMAND_AT :], "big"), size)
    return kind


def _refuse(code: int, size: int) -> ProxyProtocolSyntaxError:
    """Return the error for a wrong fixed part."""
    kind = _KINDS.get(_beginning(code))
    if kind is not None:
        least, length = kind.least - spec.V2_FIXED_LENGTH, size - spec.V2_FIXED_LENGTH
        return ProxyProtocolSyntaxError(
            f"The addresses of its family take {least} bytes where its length is {length}", spec.V2_LENGTH_AT
        )
    command, family, protocol = code >> 8 & 0xF, code >> 4 & 0xF, code & 0xF
    if code >> 12 != spec.V2_VERSION >> 4:
        return ProxyProtocolSyntaxError(f"The version of a binary header is 2, not {code >> 12}", spec.V2_COMMAND_AT)
    if command not in _COMMANDS:
        return ProxyProtocolSyntaxError(f"The command is LOCAL (0) or PROXY (1), not {command}", spec.V2_COMMAND_AT)
    if family not in _TYPES:
        return ProxyProtocolSyntaxError(f"The address family is one of 0 to 3, not {family}", spec.V2_FAMILY_AT)
    return ProxyProtocolSyntaxError(f"The transport protocol is one of 0 to 2, not {protocol}", spec.V2_FAMILY_AT)


def _parse_begun(data: bytes) -> int:
    """Reject bytes that cannot become the fixed part of a header."""
    check_signature(data, spec.V2_SIGNATURE)
    if len(data) > spec.V2_COMMAND_AT:
        family = data[spec.V2_FAMILY_AT] if len(data) > spec.V2_FAMILY_AT else spec.V2_UNSPEC
        code = data[spec.V2_COMMAND_AT] << 8 | family
        if _beginning(code) not in _KINDS:
            raise _refuse(code, len(data))
    return spec.V2_FIXED_LENGTH


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
    if len(header) == spec.V2_FIXED_LENGTH:  # as nearly all are
        return _result(kind, b"")
    found = wrong = None
    for block in (kind.block or 0, 0):
        start = spec.V2_FIXED_LENGTH + block
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
    if found is None and wrong is not None and kind.block is not None:
        raise ProxyProtocolChecksumError(_result(kind, wrong))
    return _result(kind, found or b"")


def _result(kind: _Kind, vectors: bytes) -> ProxyResult:
    return kind.make(tlv=ProxyProtocolTLV.from_checked(vectors))
