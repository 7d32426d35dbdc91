"""A header's description as text for people: colours on a terminal, what others wrote made harmless."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, Final

from proxyprotocol._wire import fields, spec
from proxyprotocol.cli._decode.description import Description
from proxyprotocol.result import describe_address
from proxyprotocol.server._process.program import escape
from proxyprotocol.tlv import ProxyProtocolTLV

__all__: list[str] = []

_LABEL_WIDTH: Final = 26
_SHOWN_VALUE: Final = 32  # bytes
_ROW: Final = 16  # bytes of a line of the dump
_AROUND: Final = 2  # lines of the dump before and behind the one that is wrong

_BOLD: Final = "1"
_RED: Final = "31"
_GREEN: Final = "32"


def coloured(text: str, code: str) -> str:
    """Colour text, where the output is a terminal and its user has not set NO_COLOR.

    Args:
        text: The text.
        code: The terminal's code for the colour.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def bold(text: str) -> str:
    """Set text in bold letters, where that can be."""
    return coloured(text, _BOLD)


def red(text: str) -> str:
    """Set text in red, where that can be."""
    return coloured(text, _RED)


def green(text: str) -> str:
    """Set text in green, where that can be."""
    return coloured(text, _GREEN)


def show(described: Description, data: bytes, at: str = "") -> Iterator[str]:
    """Give a description line by line.

    Args:
        described: The description.
        data: The bytes that it is of, for the dump of a header that is wrong.
        at: Where it was found; nothing for a file that is nothing but one.
    """
    if at:
        yield bold(at)
    error = described["error"]
    if error is not None:
        yield from _show_error(error, data)
    if described["version"] is not None:
        yield from _show_header(described, believed=error is None)
    yield from _show_following(described, data)


def show_json(described: Description) -> str:
    """Give a description as one line of JSON.

    Args:
        described: The description.
    """
    # json leaves this one as it is
    return json.dumps(described).replace("\x7f", "\\u007f")


def _show_error(error: dict[str, Any], data: bytes) -> Iterator[str]:
    offset = error["offset"]
    place = "" if offset is None else f" (at byte {offset})"
    yield red(f"{escape(error['reason'])}{place}.")
    if data:
        yield ""
        yield from _dump(data, offset)
        yield ""


def _dump(data: bytes, offset: int | None) -> Iterator[str]:
    """Give the lines around an offset, with a mark below the byte that is wrong."""
    wrong = None if offset is None else offset // _ROW
    first = max(0, (wrong or 0) - _AROUND)
    for row in range(first, min((wrong or 0) + _AROUND, len(data) // _ROW) + 1):
        line = data[row * _ROW : (row + 1) * _ROW]
        if line:
            text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
            yield f"  {row * _ROW:04x}  {_spaced(line):<{_column(_ROW)}} |{text}|"
        if row == wrong and offset is not None:
            mark = "^^" if offset < len(data) else "^^ here the bytes end"
            yield " " * (8 + _column(offset % _ROW)) + red(mark)


def _spaced(line: bytes) -> str:
    half = _ROW // 2
    return f"{line[:half].hex(' ')}  {line[half:].hex(' ')}".rstrip()


def _column(index: int) -> int:
    """Give the column of a byte, where there is a gap in the middle of the line."""
    return 3 * index + (index >= _ROW // 2)


def _show_header(described: Description, believed: bool) -> Iterator[str]:
    kind = f"PROXY protocol version {described['version']}, {described['length']} bytes"
    yield bold(kind) if believed else bold(f"{kind}, which must not be believed:")
    family = described["family"]
    if described["protocol"] is not None:
        family += f", {described['protocol']}"
    yield _row("command", _MEANINGS[described["command"]])
    yield _row("family", family)
    for end in ("source", "destination"):
        if described[end] is not None:
            yield _row(end, _address(described[end]))
    if described["ignored"]:
        yield _row("ignored", f"{_bytes(described['ignored'])} where there are no addresses to go by")
    for tlv in described["tlvs"]:
        yield from _show_tlv(tlv, believed)
    if described["length"] > spec.DEFAULT_MAX_HEADER:
        yield _row("longer than", f"the {spec.DEFAULT_MAX_HEADER} bytes that receivers here take unless told otherwise")


_MEANINGS: Final = {"LOCAL": "LOCAL: the proxy speaks for itself", "PROXY": "PROXY"}


def _address(address: dict[str, Any]) -> str:
    path = address.get("path")
    return escape(describe_address(path if path is not None else (address["address"], address["port"])))


def _row(label: str, value: str, depth: int = 1) -> str:
    return f"{'  ' * depth}{label:<{_LABEL_WIDTH - 2 * depth}}{value}".rstrip()


def _show_tlv(tlv: Description, believed: bool, depth: int = 1) -> Iterator[str]:
    label = f"{tlv['name']} ({tlv['type']:#04x})"
    yield _row(label, _value(tlv, believed), depth)
    for sub in tlv.get("tlvs", ()):
        yield from _show_tlv(sub, believed, depth + 1)


def _value(tlv: Description, believed: bool) -> str:
    value, name = tlv["value"], tlv["name"]
    if name == "SSL":
        return _ssl(tlv)
    if name == "CRC32C":
        return f"{value:#010x}, {'right' if believed else 'wrong'}"
    if name == "NOOP":
        return f"{_bytes(tlv['length'])} of padding"
    if name == "NOOP_EXT":
        return "the extension of the proxy-protocol package"
    if value is None:
        return _hex(tlv)
    if "field" in tlv:
        return f"{fields.rows(ProxyProtocolTLV)[tlv['field']].what} {escape(str(value))}"
    return escape(json.dumps(value) if isinstance(value, dict) else str(value)) or "empty"


def _ssl(tlv: Description) -> str:
    how = "over TLS" if "SSL" in tlv["client"] else "not over TLS"
    shown = [flag for flag in tlv["client"] if flag != "SSL"]
    if not shown:
        return f"{how}, no client certificate"
    verified = "verified" if tlv["client_verified"] else f"not verified (code {tlv['verify']})"
    return f"{how}, client certificate {verified} ({', '.join(shown)})"


def _hex(tlv: Description) -> str:
    if tlv["length"] <= _SHOWN_VALUE:
        return tlv["hex"] or "empty"
    return f"{tlv['hex'][: 2 * _SHOWN_VALUE]}... ({_bytes(tlv['length'])})"


def _show_following(described: Description, data: bytes) -> Iterator[str]:
    if not described["ok"]:
        return
    following = described["following"]
    if not following:
        yield _row("behind it", "nothing")
        return
    first = data[described["length"] :][:_SHOWN_VALUE]
    another = first.startswith((spec.V1_SIGNATURE, spec.V2_SIGNATURE))
    begin = ": another header, which this one's receiver would hand to the application" if another else ""
    yield _row("behind it", f"{_bytes(following)}{begin}")


def _bytes(number: int) -> str:
    return "1 byte" if number == 1 else f"{number} bytes"
