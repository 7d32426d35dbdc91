"""Everything that a header says, as plain values, which ``decode`` prints and ``decode --json`` writes.

The names in these dictionaries are documented and programs read them, so they must not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from proxyprotocol._wire import fields, spec, walk
from proxyprotocol.datagram import unpack_datagram
from proxyprotocol.errors import ProxyProtocolChecksumError, ProxyProtocolError, ProxyProtocolIncompleteError
from proxyprotocol.parser import HeaderParser
from proxyprotocol.spp import ProxyProtocolSPP
from proxyprotocol.tlv import TLV, ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV, SSLClient, Type
from proxyprotocol.typing import SockAddr

Description: TypeAlias = dict[str, Any]

_SHOWN_BYTES: Final = 256  # of the data, as hexadecimal digits
_COMMANDS: Final = {spec.V2_LOCAL: "LOCAL", spec.V2_PROXY: "PROXY"}
_FAMILIES: Final = {spec.V2_UNSPEC: "UNSPEC", spec.V2_INET: "INET", spec.V2_INET6: "INET6", spec.V2_UNIX: "UNIX"}
_PROTOCOLS: Final = {spec.V2_UNSPEC: "UNSPEC", spec.V2_STREAM: "STREAM", spec.V2_DGRAM: "DGRAM"}
_V1_FAMILIES: Final = {spec.V1_TCP4: "INET", spec.V1_TCP6: "INET6"}
# the types without a row, by the first of their range
_RANGES: Final = (
    (Type.PP2_TYPE_MIN_FUTURE, "FUTURE"),
    (Type.PP2_TYPE_MIN_EXPERIMENT, "EXPERIMENT"),
    (Type.PP2_TYPE_MIN_CUSTOM, "CUSTOM"),
    (0, "UNKNOWN"),
)

# every name in a description, in the order of the JSON, for data that holds no header
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


def describe(data: bytes, following: int = 0, *, is_datagram: bool = False, is_spp: bool = False) -> Description:
    """Describe the header at the start of *data*, or what is wrong with it; *following* counts more bytes after it."""
    # the longest possible header, because a receiver's limit does not make a header wrong
    codec = ProxyProtocolSPP() if is_spp else None
    parser = HeaderParser(codec, max_header=spec.V2_MAX_LENGTH)
    error = None
    try:
        if is_datagram:
            unpack_datagram(data, codec)
        result = parser.feed(data)
        parser.eof()
        size = len(data) - len(parser.trailing)
    except ProxyProtocolChecksumError as wrong:
        # describe the header as if its checksum were right, and name the right one
        result = wrong.result
        size = spec.V2_FIXED_LENGTH + int.from_bytes(data[spec.V2_LENGTH_AT : spec.V2_FIXED_LENGTH], "big")
        at = walk.check_tlvs(data, size - len(bytes(result.tlv)), size)
        right = walk.compute_crc32c(data[:size], at)
        error = _error(wrong, f"{wrong}: it says {result.tlv.crc32c:#010x} where they make {right:#010x}", at)
    except ProxyProtocolError as wrong:
        offset = len(data) if isinstance(wrong, ProxyProtocolIncompleteError) else getattr(wrong, "offset", None)
        error = _error(wrong, getattr(wrong, "reason", str(wrong)), offset)
        return _UNKNOWN | {"following": following, "error": error, "hex": data[:_SHOWN_BYTES].hex()}
    assert result is not None  # otherwise eof() has raised
    header = data[:size]
    tlvs = bytes(result.tlv)
    first_tlv = size - len(tlvs)
    if is_spp:
        family, protocol = _FAMILIES[result.family_number], "DGRAM"
        said: Description = {"version": "spp", "command": "PROXY", "family": family, "protocol": protocol}
    elif header.startswith(spec.V1_SIGNATURE):
        name = header[len(spec.V1_SIGNATURE) :].split()[0]
        is_unknown = name == spec.V1_UNKNOWN
        said = {
            "version": 1,
            "command": "PROXY",
            "family": _V1_FAMILIES.get(name, "UNKNOWN"),
            "protocol": None if is_unknown else "STREAM",
            "ignored": size - spec.V1_MIN_LENGTH if is_unknown else 0,
        }
    else:
        number, kind = divmod(header[spec.V2_FAMILY_AT], 0x10)
        addresses = 0 if result.source is None else spec.V2_BLOCK_LENGTH[number]
        said = {
            "version": 2,
            "command": _COMMANDS[header[spec.V2_COMMAND_AT] & 0xF],
            # a LOCAL header may hold any number here
            "family": _FAMILIES.get(number, f"{number:#x}"),
            "protocol": _PROTOCOLS.get(kind, f"{kind:#x}"),
            "ignored": first_tlv - spec.V2_FIXED_LENGTH - addresses,
        }
    return _UNKNOWN | {
        "ok": error is None,
        "length": size,
        **said,
        "source": _address(result.peername),
        "destination": _address(result.sockname),
        "tlvs": list(_describe_tlvs(ProxyProtocolTLV, tlvs, first_tlv)),
        "following": len(data) - size + following,
        "error": error,
        "hex": header[:_SHOWN_BYTES].hex(),
    }


def _error(error: ProxyProtocolError, reason: str, offset: int | None) -> Description:
    return {"kind": type(error).__name__, "reason": reason, "offset": offset}


def _address(address: SockAddr) -> Description | None:
    if isinstance(address, tuple):
        return {"address": address[0], "port": address[1]}
    return None if address is None else {"path": address}


def _describe_tlvs(owner: type[TLV], wire: bytes, start: int) -> Iterator[Description]:
    """Yield the description of each vector in *wire* by the rows of the class *owner*."""
    for kind, value in walk.split(wire):
        rows = [row for row in fields.rows(owner).values() if row.number == kind]
        described: Description = {
            "type": kind,
            "name": rows[0].label if rows else "UNKNOWN",
            "offset": start,
            "length": len(value),
            "value": None,
            "hex": value.hex(),
        }
        if not rows and owner is ProxyProtocolTLV:
            described["name"] = next(name for first, name in _RANGES if kind >= first)
        elif not rows:
            described["value"] = fields.printable(value)
        start += spec.TLV_HEAD_LENGTH
        for row in rows:
            shown, nested = row.form.show(value), row.form.decode(value)
            if shown is not None:
                described["value"] = shown
                if row.what:
                    described["field"] = row.name
            if isinstance(nested, ProxyProtocolExtTLV):
                described["name"] = "NOOP_EXT"
            if isinstance(nested, ProxyProtocolSSLTLV):
                described |= {
                    "client": [
                        (flag.name or "").removeprefix("PP2_CLIENT_") for flag in SSLClient if flag in nested.client
                    ],
                    "verify": nested.verify,
                    "client_verified": nested.client_verified,
                }
            if isinstance(nested, TLV):
                head = len(bytes(nested)) - nested.size
                described["tlvs"] = list(_describe_tlvs(type(nested), bytes(nested)[head:], start + head))
        yield described
        start += len(value)
