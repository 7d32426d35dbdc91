"""Everything that a header says, as plain values, which ``decode`` prints and ``decode --json`` writes.

The names in these dictionaries are documented and programs read them, so they must not change.
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

#: How many bytes of the data a description holds, as hexadecimal digits.
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


# every name in a description, in the order of the JSON, for a header of which nothing is known
_UNKNOWN: Final[Description] = {
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
    "hex": "",
}


def read_header(data: bytes, following: int = 0) -> Description:
    """Describe the header at the start of *data*, or what is wrong with it.

    Args:
        data: The first bytes of a stream, up to the longest possible header.
        following: How many more bytes came that are not in *data*.
    """
    # the longest possible header, because a receiver's limit does not make a header wrong
    parser = HeaderParser(max_header=spec.V2_MAX_LENGTH)
    try:
        result = parser.feed(data)
        if result is None:
            parser.eof()
    except ProxyProtocolChecksumError as error:
        return _describe_wrong_checksum(data, error, following)
    except ProxyProtocolError as error:
        return describe_error(data, error, following)
    assert result is not None  # otherwise eof() has raised
    trailing = len(parser.trailing)
    return describe_header(data[: len(data) - trailing], result, trailing + following)


def describe_error(data: bytes, error: ProxyProtocolError, following: int = 0) -> Description:
    """Describe *data* that a codec has rejected with *error*, and that *following* more bytes followed."""
    offset, reason = None, str(error)
    if isinstance(error, ProxyProtocolSyntaxError):
        offset, reason = error.offset, error.reason
    elif isinstance(error, ProxyProtocolIncompleteError):
        offset = len(data)
    return _UNKNOWN | {
        "following": following,
        "error": {"kind": type(error).__name__, "reason": reason, "offset": offset},
        "hex": data[:SHOWN_BYTES].hex(),
    }


def describe_header(header: bytes, result: ProxyResult, following: int = 0) -> Description:
    """Describe a whole *header*, which says *result* and which *following* bytes followed."""
    tlvs = bytes(result.tlv)
    first_tlv = len(header) - len(tlvs)
    described = _UNKNOWN | {
        "ok": True,
        "length": len(header),
        "source": _address(result.peername),
        "destination": _address(result.sockname),
        "tlvs": list(_describe_tlvs(ProxyProtocolTLV, tlvs, first_tlv)),
        "following": following,
        "hex": header[:SHOWN_BYTES].hex(),
    }
    if header.startswith(spec.V1_SIGNATURE):
        name = header[len(spec.V1_SIGNATURE) :].split()[0]
        unknown = name == spec.V1_UNKNOWN
        return described | {
            "version": 1,
            "command": "PROXY",
            "family": _V1_FAMILIES.get(name, "UNKNOWN"),
            "protocol": None if unknown else "STREAM",
            "ignored": len(header) - spec.V1_MIN_LENGTH if unknown else 0,
        }
    family, protocol = divmod(header[spec.V2_FAMILY_AT], 0x10)
    addresses = 0 if result.source is None else spec.V2_BLOCK_LENGTH[family]
    return described | {
        "version": 2,
        "command": _COMMANDS[header[spec.V2_COMMAND_AT] & 0xF],
        # a LOCAL header may hold any number here
        "family": _FAMILIES.get(family, f"{family:#x}"),
        "protocol": _PROTOCOLS.get(protocol, f"{protocol:#x}"),
        "ignored": first_tlv - spec.V2_FIXED_LENGTH - addresses,
    }


def _describe_wrong_checksum(data: bytes, error: ProxyProtocolChecksumError, following: int) -> Description:
    """Describe the header as if its checksum were right, and name the right one."""
    size = spec.V2_FIXED_LENGTH + int.from_bytes(data[spec.V2_LENGTH_AT : spec.V2_FIXED_LENGTH], "big")
    header, result = data[:size], error.result
    at = walk.check_tlvs(header, size - len(bytes(result.tlv)), size)
    right = walk.compute_crc32c(header, at)
    reason = f"{error}: it says {result.tlv.crc32c:#010x} where they make {right:#010x}"
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
