"""A header's description as text for people. Text from the peer is escaped; a terminal gets colours."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Final

from proxyprotocol._wire import fields, spec
from proxyprotocol.cli._decode.description import Description
from proxyprotocol.result import describe_address
from proxyprotocol.server._process.program import escape
from proxyprotocol.tlv import ProxyProtocolTLV

_LABEL_WIDTH: Final = 26
_SHOWN_VALUE: Final = 32  # bytes
_ROW: Final = 16  # bytes of a line of the dump
_AROUND: Final = 2  # lines of the dump before and after the wrong one


def _colour(code: str, text: str) -> str:
    """Colour *text* with a terminal's *code*, if the output is a terminal and NO_COLOR is not set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


bold = partial(_colour, "1")
red = partial(_colour, "31")
green = partial(_colour, "32")


def show(described: Description, data: bytes) -> Iterator[str]:
    """Yield the lines of a description of *data*; a wrong header is shown with a dump of its bytes."""
    if "packet" in described:
        yield bold("Packet {packet}, {transport} from {from} to {to}".format_map(described))
    error = described["error"]
    if error is not None:
        offset = error["offset"]
        place = "" if offset is None else f" (at byte {offset})"
        yield red(f"{escape(error['reason'])}{place}.")
        if data:
            yield from ("", *_dump(data, offset), "")
    if described["version"] is not None:
        yield from _show_header(described, believed=error is None)
    if described["ok"]:
        following = _bytes(described["following"]) if described["following"] else "nothing"
        if data[described["length"] :].startswith((spec.V1_SIGNATURE, spec.V2_SIGNATURE)):
            following += ": another header, which this one's receiver would hand to the application"
        yield _row("after it", following)


def _dump(data: bytes, offset: int | None) -> Iterator[str]:
    """Yield the lines around *offset*, with a mark below the wrong byte."""
    wrong = None if offset is None else offset // _ROW
    first = max(0, (wrong or 0) - _AROUND)
    for row in range(first, min((wrong or 0) + _AROUND, len(data) // _ROW) + 1):
        line = data[row * _ROW : (row + 1) * _ROW]
        if line:
            text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
            digits = f"{line[: _ROW // 2].hex(' ')}  {line[_ROW // 2 :].hex(' ')}".rstrip()
            yield f"  {row * _ROW:04x}  {digits:<{_column(_ROW)}} |{text}|"
        if row == wrong and offset is not None:
            mark = "^^" if offset < len(data) else "^^ here the bytes end"
            yield " " * (8 + _column(offset % _ROW)) + red(mark)


def _column(index: int) -> int:
    """Return the column of a byte; there is a gap in the middle of the line."""
    return 3 * index + (index >= _ROW // 2)


def _show_header(described: Description, believed: bool) -> Iterator[str]:
    version = described["version"]
    name = "Simple Proxy Protocol" if version == "spp" else f"PROXY protocol version {version}"
    kind = f"{name}, {described['length']} bytes"
    yield bold(kind if believed else f"{kind}, which must not be believed:")
    command, family, protocol = described["command"], described["family"], described["protocol"]
    yield _row("command", "LOCAL: the proxy speaks for itself" if command == "LOCAL" else command)
    yield _row("family", family if protocol is None else f"{family}, {protocol}")
    for end in ("source", "destination"):
        if described[end] is not None:
            address = tuple(described[end].values())
            yield _row(end, escape(describe_address(address if len(address) > 1 else address[0])))
    if described["ignored"]:
        yield _row("ignored", f"{_bytes(described['ignored'])} in the place of the addresses")
    yield from _show_tlvs(described["tlvs"], believed)
    if described["length"] > spec.DEFAULT_MAX_HEADER:
        yield _row("longer than", f"the {spec.DEFAULT_MAX_HEADER} bytes that receivers here accept by default")


def _row(label: str, value: str, depth: int = 1) -> str:
    return f"{'  ' * depth}{label:<{_LABEL_WIDTH - 2 * depth}}{value}".rstrip()


def _show_tlvs(tlvs: list[Description], believed: bool, depth: int = 1) -> Iterator[str]:
    for tlv in tlvs:
        yield _row(f"{tlv['name']} ({tlv['type']:#04x})", _value(tlv, believed), depth)
        yield from _show_tlvs(tlv.get("tlvs", []), believed, depth + 1)


def _value(tlv: Description, believed: bool) -> str:
    value, name = tlv["value"], tlv["name"]
    if name == "SSL":
        how = "over TLS" if "SSL" in tlv["client"] else "not over TLS"
        shown = [flag for flag in tlv["client"] if flag != "SSL"]
        if not shown:
            return f"{how}, no client certificate"
        verified = "verified" if tlv["client_verified"] else f"not verified (code {tlv['verify']})"
        return f"{how}, client certificate {verified} ({', '.join(shown)})"
    if name == "CRC32C":
        return f"{value:#010x}, {'right' if believed else 'wrong'}"
    if name == "NOOP":
        return f"{_bytes(tlv['length'])} of padding"
    if name == "NOOP_EXT":
        return "the extension of the proxy-protocol package"
    if "field" in tlv:
        return f"{fields.rows(ProxyProtocolTLV)[tlv['field']].what} {escape(str(value))}"
    if value is not None:
        return escape(json.dumps(value) if isinstance(value, dict) else str(value)) or "empty"
    if tlv["length"] > _SHOWN_VALUE:
        return f"{tlv['hex'][: 2 * _SHOWN_VALUE]}... ({_bytes(tlv['length'])})"
    return tlv["hex"] or "empty"


def _bytes(number: int) -> str:
    return "1 byte" if number == 1 else f"{number} bytes"
