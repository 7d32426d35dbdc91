"""Everything that a header says, as plain values: what ``decode`` prints, and what ``decode --json`` writes.

The names in these dictionaries are documented, and programs read them: they stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from proxyprotocol._wire import fields, spec, walk
from proxyprotocol.errors import (
    ProxyProtocolChecksumError,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolSyntaxError,
)
from proxyprotocol.parser import HeaderParser
from proxyprotocol.result import ProxyResult
from proxyprotocol.tlv import TLV, ProxyProtocolSSLTLV, ProxyProtocolTLV, SSLClient, Type
from proxyprotocol.typing import SockAddr

__all__: list[str] = []

Description: TypeAlias = dict[str, Any]

#: How many bytes of a header, or of what is none, go with a description.
SHOWN_BYTES: Final = 256

_COMMANDS: Final = {spec.V2_LOCAL: "LOCAL", spec.V2_PROXY: "PROXY"}
_FAMILIES: Final = {spec.V2_UNSPEC: "UNSPEC", spec.V2_INET: "INET", spec.V2_INET6: "INET6", spec.V2_UNIX: "UNIX"}
_PROTOCOLS: Final = {spec.V2_UNSPEC: "UNSPEC", spec.V2_STREAM: "STREAM", spec.V2_DGRAM: "DGRAM"}
_V1_FAMILIES: Final = {spec.V1_TCP4: "INET", spec.V1_TCP6: "INET6"}

_RANGES: Final = (
    (range(Type.PP2_TYPE_MIN_CUSTOM, Type.PP2_TYPE_MAX_CUSTOM + 1), "CUSTOM"),
    (range(Type.PP2_TYPE_MIN_EXPERIMENT, Type.PP2_TYPE_MAX_EXPERIMENT + 1), "EXPERIMENT"),
    (range(Type.PP2_TYPE_MIN_FUTURE, Type.PP2_TYPE_MAX_FUTURE + 1), "FUTURE"),
)


def read_header(data: bytes, following: int = 0) -> Description:
    """Say what the header says that these bytes begin with, or what is wrong with it.

    Args:
        data: The first bytes of a stream, as many as the longest header has, or all there are.
        following: How many more came that are not in *data*.

    Returns:
        The description; what could not be had is None in it, or empty.
    """
    # as much as a header can have, because a receiver's limit is no matter of right or wrong
    parser = HeaderParser(max_header=spec.V2_MAX_LENGTH)
    try:
        result = parser.feed(data)
        if result is None:
            parser.eof()
    except ProxyProtocolChecksumError as error:
        return _describe_wrong_checksum(data, error, following)
    except ProxyProtocolError as error:
        return describe_error(data, error, following)
    assert result is not None  # or the end of the stream was refused
    trailing = len(parser.trailing)
    return describe_header(data[: len(data) - trailing], result, trailing + following)


def describe_error(data: bytes, error: ProxyProtocolError, following: int = 0) -> Description:
    """Say that something is no header.

    Args:
        data: The bytes.
        error: Why it is none.
        following: How many more bytes came.
    """
    offset, reason = None, str(error)
    if isinstance(error, ProxyProtocolSyntaxError):
        offset, reason = error.offset, error.reason
    elif isinstance(error, ProxyProtocolIncompleteError):
        offset = len(data)
    return _description(data) | {
        "following": following,
        "error": {"kind": type(error).__name__, "reason": reason, "offset": offset},
    }


def describe_header(header: bytes, result: ProxyResult, following: int = 0) -> Description:
    """Say what a header says.

    Args:
        header: The whole header, and nothing behind it.
        result: What it says.
        following: How many bytes follow it.
    """
    tlvs = bytes(result.tlv)
    first_tlv = len(header) - len(tlvs)
    described = {
        "ok": True,
        "length": len(header),
        "source": _address(result.peername),
        "destination": _address(result.sockname),
        "tlvs": list(_describe_tlvs(ProxyProtocolTLV, tlvs, first_tlv)),
        "following": following,
    }
    kind = _describe_v1 if header.startswith(spec.V1_SIGNATURE) else _describe_v2
    return _description(header) | described | kind(header, result, first_tlv)


def _description(data: bytes) -> Description:
    """Everything that there is to say, of a header about which nothing is known."""
    return {
        "ok": False,
        "version": None,
        "length": None,
        "command": None,
        "family": None,
        "protocol": None,
        "source": None,
        "destination": None,
        "ignored": 0,
        "tlvs": [],
        "following": 0,
        "error": None,
        "hex": data[:SHOWN_BYTES].hex(),
    }


def _describe_v1(header: bytes, result: ProxyResult, first_tlv: int) -> Description:
    name = header[len(spec.V1_SIGNATURE) :].split()[0]
    family = _V1_FAMILIES.get(name, "UNKNOWN")
    unknown = name == spec.V1_UNKNOWN
    return {
        "version": 1,
        "command": "PROXY",
        "family": family,
        "protocol": None if unknown else "STREAM",
        "ignored": len(header) - spec.V1_MIN_LENGTH if unknown else 0,
    }


def _describe_v2(header: bytes, result: ProxyResult, first_tlv: int) -> Description:
    command, family = header[spec.V2_COMMAND_AT] & 0xF, header[spec.V2_FAMILY_AT]
    addresses = 0 if result.source is None else spec.V2_BLOCK_LENGTH[family >> 4]
    return {
        "version": 2,
        "command": _COMMANDS[command],
        # LOCAL is accepted whatever stands there
        "family": _FAMILIES.get(family >> 4, f"{family >> 4:#x}"),
        "protocol": _PROTOCOLS.get(family & 0xF, f"{family & 0xF:#x}"),
        "ignored": first_tlv - spec.V2_FIXED_LENGTH - addresses,
    }


def _describe_wrong_checksum(data: bytes, error: ProxyProtocolChecksumError, following: int) -> Description:
    """Say what the header would say if it were right, and what its checksum ought to be."""
    size = spec.V2_FIXED_LENGTH + int.from_bytes(data[spec.V2_LENGTH_AT : spec.V2_FIXED_LENGTH], "big")
    header, result = data[:size], error.result
    first_tlv = size - len(bytes(result.tlv))
    at = walk.check_tlvs(header, first_tlv, size)
    reason = f"{error}: it says {result.tlv.crc32c:#010x} where they make {walk.compute_crc32c(header, at):#010x}"
    described = describe_header(header, result, len(data) - size + following)
    return described | {"ok": False, "error": {"kind": type(error).__name__, "reason": reason, "offset": at}}


def _address(address: SockAddr) -> dict[str, Any] | None:
    if isinstance(address, tuple):
        return {"address": address[0], "port": address[1]}
    return None if address is None else {"path": address}


def _describe_tlvs(owner: type[TLV], wire: bytes, start: int) -> Iterator[Description]:
    """Yield the description of each vector in *wire* by the rows of the class *owner*."""
    rows = fields.rows(owner).values()
    for kind, value in walk.split(wire):
        named = [row for row in rows if row.number == kind]
        described: Description = {
            "type": kind,
            "name": named[0].label if named else "UNKNOWN",
            "offset": start,
            "length": len(value),
            "value": None,
            "hex": value.hex(),
        }
        if not named and owner is ProxyProtocolTLV:
            described["name"] = next((name for kinds, name in _RANGES if kind in kinds), "UNKNOWN")
        elif not named:
            described["value"] = fields.printable(value)
        for row in named:
            shown, nested = row.form.show(value), row.form.decode(value)
            if shown is not None:
                described["value"] = shown
                if row.what:
                    described["field"] = row.name
            if isinstance(nested, TLV):
                described |= _describe_nested(nested, start + spec.TLV_HEAD_LENGTH)
        yield described
        start += spec.TLV_HEAD_LENGTH + len(value)


def _describe_nested(tlv: TLV, start: int) -> Description:
    wire = bytes(tlv)
    head = len(wire) - tlv.size
    described = {"tlvs": list(_describe_tlvs(type(tlv), wire[head:], start + head))}
    if not isinstance(tlv, ProxyProtocolSSLTLV):
        return {"name": "NOOP_EXT"} | described
    return {
        "client": [(flag.name or "").removeprefix("PP2_CLIENT_") for flag in SSLClient if flag in tlv.client],
        "verify": tlv.verify,
        "client_verified": tlv.client_verified,
    } | described
