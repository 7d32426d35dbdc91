"""Everything that a header says, as plain values: what ``decode`` prints, and what ``decode --json`` writes.

The names in these dictionaries are documented, and programs read them: they stay.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from proxyprotocol._wire import spec, walk
from proxyprotocol._wire.vendors import VENDOR_FIELDS
from proxyprotocol.checksum import crc32c
from proxyprotocol.errors import (
    ProxyProtocolChecksumError,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolSyntaxError,
)
from proxyprotocol.parser import HeaderParser
from proxyprotocol.result import ProxyResult
from proxyprotocol.tlv import ExtType, ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV, SSLClient, Type
from proxyprotocol.typing import SockAddr

__all__: list[str] = []

Description: TypeAlias = dict[str, Any]

#: How many bytes of a header, or of what is none, go with a description.
SHOWN_BYTES: Final = 256

_COMMANDS: Final = {spec.V2_LOCAL: "LOCAL", spec.V2_PROXY: "PROXY"}
_FAMILIES: Final = {spec.V2_UNSPEC: "UNSPEC", spec.V2_INET: "INET", spec.V2_INET6: "INET6", spec.V2_UNIX: "UNIX"}
_PROTOCOLS: Final = {spec.V2_UNSPEC: "UNSPEC", spec.V2_STREAM: "STREAM", spec.V2_DGRAM: "DGRAM"}
_V1_FAMILIES: Final = {spec.V1_TCP4: "INET", spec.V1_TCP6: "INET6"}

_PREFIX: Final = re.compile(r"PP2_(?:TYPE_EXT|TYPE|SUBTYPE_SSL|CLIENT)_")
_VENDORS: Final = {field.kind: field.vendor for field in VENDOR_FIELDS.values()}
_RANGES: Final = (
    (range(Type.PP2_TYPE_MIN_CUSTOM, Type.PP2_TYPE_MAX_CUSTOM + 1), "CUSTOM"),
    (range(Type.PP2_TYPE_MIN_EXPERIMENT, Type.PP2_TYPE_MAX_EXPERIMENT + 1), "EXPERIMENT"),
    (range(Type.PP2_TYPE_MIN_FUTURE, Type.PP2_TYPE_MAX_FUTURE + 1), "FUTURE"),
)

Value: TypeAlias = "str | int | dict[str, Any] | None"


def _text(value: bytes | None) -> str | None:
    """Give bytes as the text that they may be; None where they are none."""
    try:
        text = (value or b"").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _certificate(value: bytes | None) -> str:
    return f"sha256:{hashlib.sha256(value or b'').hexdigest()}"


def _peercert(tlv: ProxyProtocolExtTLV) -> dict[str, Any] | None:
    return None if tlv.peercert is None else dict(tlv.peercert)


# Each is given the one vector that is asked about, so that the library's own properties decode it.
_VALUES: Final[dict[int, Callable[[ProxyProtocolTLV], Value]]] = {
    Type.PP2_TYPE_ALPN: lambda tlv: _text(tlv.alpn),
    Type.PP2_TYPE_AUTHORITY: lambda tlv: tlv.authority,
    Type.PP2_TYPE_CRC32C: lambda tlv: tlv.crc32c,
    Type.PP2_TYPE_UNIQUE_ID: lambda tlv: _text(tlv.unique_id),
    Type.PP2_TYPE_NETNS: lambda tlv: tlv.netns,
}
_SSL_VALUES: Final[dict[int, Callable[[ProxyProtocolSSLTLV], Value]]] = {
    Type.PP2_SUBTYPE_SSL_VERSION: lambda tlv: tlv.version,
    Type.PP2_SUBTYPE_SSL_CN: lambda tlv: tlv.cn,
    Type.PP2_SUBTYPE_SSL_CIPHER: lambda tlv: tlv.cipher,
    Type.PP2_SUBTYPE_SSL_SIG_ALG: lambda tlv: tlv.sig_alg,
    Type.PP2_SUBTYPE_SSL_KEY_ALG: lambda tlv: tlv.key_alg,
    Type.PP2_SUBTYPE_SSL_GROUP: lambda tlv: tlv.group,
    Type.PP2_SUBTYPE_SSL_SIG_SCHEME: lambda tlv: tlv.sig_scheme,
    Type.PP2_SUBTYPE_SSL_CLIENT_CERT: lambda tlv: _certificate(tlv.client_cert),
}
_EXT_VALUES: Final[dict[int, Callable[[ProxyProtocolExtTLV], Value]]] = {
    ExtType.PP2_TYPE_EXT_COMPRESSION: lambda tlv: tlv.compression,
    ExtType.PP2_TYPE_EXT_SECRET_BITS: lambda tlv: tlv.secret_bits,
    ExtType.PP2_TYPE_EXT_PEERCERT: _peercert,
    ExtType.PP2_TYPE_EXT_DNSBL: lambda tlv: tlv.dnsbl,
}


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
        "tlvs": list(_describe_tlvs(tlvs, first_tlv)),
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
    zeroed = header[:at] + bytes(spec.CRC32C_LENGTH) + header[at + spec.CRC32C_LENGTH :]
    reason = f"{error}: it says {result.tlv.crc32c:#010x} where they make {crc32c(zeroed):#010x}"
    described = describe_header(header, result, len(data) - size + following)
    return described | {"ok": False, "error": {"kind": type(error).__name__, "reason": reason, "offset": at}}


def _address(address: SockAddr) -> dict[str, Any] | None:
    if isinstance(address, tuple):
        return {"address": address[0], "port": address[1]}
    return None if address is None else {"path": address}


def _describe_tlvs(wire: bytes, start: int) -> Iterator[Description]:
    for kind, value in walk.split(wire):
        one = ProxyProtocolTLV(init={kind: value})
        described = _describe_tlv(kind, _name(kind), value, start)
        described["value"] = _VALUES[kind](one) if kind in _VALUES else None
        for field in VENDOR_FIELDS.values():
            if field.kind == kind and field.read(value) is not None:
                described |= {"value": field.read(value), "field": field.name}
        if kind == Type.PP2_TYPE_SSL:
            described |= _describe_ssl(one.ssl, start)
        elif kind == Type.PP2_TYPE_NOOP and one.ext:
            described["name"] = "NOOP_EXT"
            described["tlvs"] = list(_describe_sub_tlvs(one.ext, start, ProxyProtocolExtTLV, ExtType, _EXT_VALUES))
        yield described
        start += spec.TLV_HEAD_LENGTH + len(value)


def _describe_tlv(kind: int, name: str, value: bytes, start: int) -> Description:
    return {"type": kind, "name": name, "offset": start, "length": len(value), "value": None, "hex": value.hex()}


def _describe_ssl(ssl: ProxyProtocolSSLTLV, start: int) -> Description:
    return {
        "client": [_short(flag.name) for flag in SSLClient if flag in ssl.client],
        "verify": ssl.verify,
        "client_verified": ssl.client_verified,
        "tlvs": list(_describe_sub_tlvs(ssl, start, ProxyProtocolSSLTLV, Type, _SSL_VALUES)),
    }


def _describe_sub_tlvs(parent: Any, start: int, make: Any, types: Any, values: dict[int, Any]) -> Iterator[Description]:
    head = len(bytes(parent)) - parent.size
    start += spec.TLV_HEAD_LENGTH + head
    for kind, value in walk.split(bytes(parent)[head:]):
        name = _short(types(kind).name) if kind in values else "UNKNOWN"
        described = _describe_tlv(kind, name, value, start)
        described["value"] = values[kind](make(init={kind: value})) if kind in values else _text(value)
        yield described
        start += spec.TLV_HEAD_LENGTH + len(value)


def _name(kind: int) -> str:
    if kind in _VENDORS:
        return _VENDORS[kind]
    for numbers, name in _RANGES:
        if kind in numbers:
            return name
    registered = kind in Type.__members__.values() and Type(kind).name.startswith("PP2_TYPE_")
    return _short(Type(kind).name) if registered else "UNKNOWN"


def _short(name: str | None) -> str:
    """Give a name of the specification without what all of its kind begin with."""
    return _PREFIX.sub("", name or "")
