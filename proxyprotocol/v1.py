"""Version 1, one line of text (section 2.1).

Nearly every line arrives whole, and one regular expression decodes it. Any other line is checked field by field as it
arrives: a wrong peer is dropped at its first wrong byte and not after the timeout.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable
from socket import AF_INET, AF_INET6, SOCK_STREAM, inet_ntop, inet_pton
from typing import Any, Final

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol, check_signature, signature_begins
from proxyprotocol.errors import (
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolSyntaxError,
    ProxyProtocolWantRead,
)
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6, ProxyResultUnknown, is_local, is_unknown

__all__ = ["ProxyProtocolV1"]

_FIELDS: Final = ("source address", "destination address", "source port", "destination port")
_LAST_FIELD: Final = len(_FIELDS) - 1
# the shortest fields after each protocol
_SHORTEST: Final = {spec.V1_UNKNOWN: b"", spec.V1_TCP6: b" :: :: 0 0", spec.V1_TCP4: b" 0.0.0.0 0.0.0.0 0 0"}
_TCP: Final = (SOCK_STREAM, None)  # protocols that a line can carry; None: not known
_MIXED_HINT: Final = ": nginx with set_real_ip_from writes IPv4 into TCP6 lines"
# the line of section 2.1; inet_pton() checks the addresses
_match_line: Final = re.compile(r"PROXY (TCP4|TCP6) ([^ ]+) ([^ ]+) (?!0[0-9])([0-9]+) (?!0[0-9])([0-9]+)\r\n").match
# as plain numbers: an enumeration's members are slow to pass
_INET: Final = int(AF_INET)
_INET6: Final = int(AF_INET6)
_PORT: Final = -1
_KINDS: Final = {
    _INET: "an IPv4 address in its canonical form",
    _INET6: "an IPv6 address",
    _PORT: f"a number from 0 to {spec.MAX_PORT} without sign or leading zero",
}
# For each kind, endings that complete whatever can begin such a field; the shortest come first.
_IPV4_ENDINGS: Final = ("", "0", ".0", "0.0", ".0.0", "0.0.0", ".0.0.0", "0.0.0.0")  # noqa: S104
_ENDINGS: Final = {_INET: _IPV4_ENDINGS, _INET6: ("", "0", ":", "::", *_IPV4_ENDINGS[2:]), _PORT: ("", "0")}
_ipv4: Final = ProxyResultIPv4.from_block
_ipv6: Final = ProxyResultIPv6.from_block
_pack_ipv4: Final = struct.Struct("!4s4sHH").pack
_pack_ipv6: Final = struct.Struct("!16s16sHH").pack


def _strict_inet_pton(number: int, text: str) -> bytes:
    packed = inet_pton(number, text)
    if "%" in text or "\0" in text or (number == _INET and inet_ntop(AF_INET, packed) != text):
        raise OSError(f"Not an address in its canonical form: {text!a}")
    return packed


def _choose_inet_pton() -> Callable[[int, str], bytes]:
    """Return the system's function, with stricter checks if it accepts leading zeros or a zone; they cost a tenth."""
    # PyPy's function ignores a NUL and everything after it
    for family, text in ((AF_INET, "192.0.02.1"), (AF_INET6, "::1%1"), (AF_INET, "192.0.2.1\0")):
        with contextlib.suppress(OSError, ValueError):
            inet_pton(family, text)
            return _strict_inet_pton
    return inet_pton


_inet_pton: Final = _choose_inet_pton()


class ProxyProtocolV1(ProxyProtocol):
    """The human-readable format: ``PROXY TCP4 192.0.2.1 198.51.100.2 56324 443`` and CRLF (section 2.1).

    The codec is strict: one space between fields, addresses and ports in their canonical form, nothing after the
    port, CRLF within 107 bytes.

    Args:
        ipv4_in_tcp6: Whether one of the two addresses of a TCP6 line may be IPv4; the result then has the IPv4-mapped
            address. nginx writes such lines when ``set_real_ip_from`` has replaced the client's address.
    """

    __slots__ = ("_mixed",)

    def __init__(self, ipv4_in_tcp6: bool = False) -> None:
        self._mixed = ipv4_in_tcp6

    def is_valid(self, signature: bytes) -> bool:
        return bytes(signature).startswith(spec.V1_SIGNATURE)

    def unpack(self, data: bytes) -> ProxyResult:
        found = self.parse(data if type(data) is bytes else bytes(data))
        if type(found) is tuple:
            return found[0]
        raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(want_line=True))

    def unpack_line(self, data: bytes) -> ProxyResult:
        """Read a header from exactly one line.

        Args:
            data: The whole line with its CRLF.

        Raises:
            ProxyProtocolSyntaxError: *data* is not one whole line, or the line is not a header.
        """
        data = bytes(data)
        found = self.parse(data)
        if isinstance(found, int) or found[1] != len(data):
            raise ProxyProtocolSyntaxError(f"This is not one whole line: {data[: spec.V1_MAX_LENGTH]!r}")
        return found[0]

    def parse(self, data: bytes, max_header: int = spec.V2_MAX_LENGTH) -> tuple[ProxyResult, int] | int:
        """Parse the line; its limit is always 107 bytes. See :meth:`.ProxyProtocol.parse`."""
        found = _match_line(data[: spec.V1_MAX_LENGTH].decode("latin-1"))
        if found is None:
            return _parse_slowly(data, self._mixed)
        name, source, dest, source_port, dest_port = found.groups()
        port = int(source_port)
        try:
            if name == "TCP4":
                block = _pack_ipv4(_inet_pton(_INET, source), _inet_pton(_INET, dest), port, int(dest_port))
                # IPv4 text has one canonical form, so *source* is the text that a socket would return
                return _ipv4(block, SOCK_STREAM, b"", (source, port)), found.end()
            client = _inet_pton(_INET6, source)
            block = _pack_ipv6(client, _inet_pton(_INET6, dest), port, int(dest_port))
            return _ipv6(block, SOCK_STREAM, b"", (inet_ntop(_INET6, client), port, 0, 0)), found.end()
        except (OSError, ValueError, struct.error):  # a NUL is a ValueError
            return _parse_slowly(data, self._mixed)

    def pack(self, result: ProxyResult) -> bytes:
        """Write a line. It leaves out the TLVs, and it says UNKNOWN for a client that does not use TCP.

        Args:
            result: What the header says.

        Raises:
            KeyError: The client has a UNIX socket.
            ValueError: The result is LOCAL, which version 1 cannot say.
        """
        source, dest = result.peername, result.sockname
        if isinstance(source, tuple) and isinstance(dest, tuple) and result.protocol in _TCP:
            name = "TCP4" if len(source) == 2 else "TCP6"
            return f"PROXY {name} {source[0]} {dest[0]} {source[1]} {dest[1]}\r\n".encode("ascii")
        if is_unknown(result) or isinstance(source, tuple):
            return spec.V1_SIGNATURE + spec.V1_UNKNOWN + spec.V1_CRLF
        if is_local(result):
            raise ValueError("Version 1 cannot say LOCAL: send the connection's own two addresses instead")
        raise KeyError(result.type)

    def begins(self, data: bytes | bytearray) -> bool | None:
        return signature_begins(data, spec.V1_SIGNATURE)


def _parse_slowly(data: bytes, mixed: bool) -> tuple[ProxyResult, int] | int:
    """Parse a line that says UNKNOWN, mixes both families, is incomplete, or is wrong."""
    if not check_signature(data, spec.V1_SIGNATURE):
        return spec.V1_MIN_LENGTH
    end = data.find(spec.V1_CRLF, 0, spec.V1_MAX_LENGTH)
    line = data[: spec.V1_MAX_LENGTH if end < 0 else end]
    name, space, rest = line[len(spec.V1_SIGNATURE) :].partition(b" ")
    if end < 0 and not space:
        if name == spec.V1_UNKNOWN + b"\r":
            return spec.V1_MIN_LENGTH
        lengths = [len(known + fields) for known, fields in _SHORTEST.items() if known.startswith(name)]
        if lengths:
            return len(spec.V1_SIGNATURE) + min(lengths) + len(spec.V1_CRLF)
    if name not in _SHORTEST:
        raise ProxyProtocolSyntaxError(
            f"The protocol of a version 1 header is TCP4, TCP6 or UNKNOWN, not {name!a}", len(spec.V1_SIGNATURE)
        )
    if name != spec.V1_UNKNOWN:
        found = _parse_fields(name, rest, mixed, end)
    else:
        found = len(spec.V1_CRLF) - line.endswith(b"\r") if end < 0 else ProxyResultUnknown()
    if not isinstance(found, int):
        return found, end + len(spec.V1_CRLF)
    size = len(line) + found
    if size > spec.V1_MAX_LENGTH:
        # Two addresses of 45 characters leave no room for ports. If the whole line comes at once, a later field may be
        # reported as wrong instead. Both are errors of syntax, so that any chunking raises the same class.
        error = (ProxyProtocolLimitError if name == spec.V1_UNKNOWN else ProxyProtocolSyntaxError)(
            f"A version 1 header has at most {spec.V1_MAX_LENGTH} bytes with its CRLF, and this line is longer",
            spec.V1_MAX_LENGTH,
        )
        error.option = ""  # the specification fixes this limit
        raise error
    return size


def _parse_fields(name: bytes, rest: bytes, mixed: bool, end: int) -> ProxyResult | int:
    """Parse the fields after TCP4 or TCP6; return how many bytes are missing at least from a line without an end."""
    at = len(spec.V1_SIGNATURE) + len(name) + 1
    try:
        fields = rest.decode("ascii").split(" ")
    except UnicodeDecodeError as error:
        raise ProxyProtocolSyntaxError("A version 1 header is US-ASCII", at + error.start) from None
    missing, values = 0, []
    for index, text in enumerate(fields[: len(_FIELDS)]):
        is_last = index == len(fields) - 1
        if end >= 0 and is_last and not text:
            break
        begun = end < 0 and is_last
        ended = begun and index == _LAST_FIELD and text.endswith("\r")
        kind = _PORT if index > 1 else _INET if name == spec.V1_TCP4 else _INET6
        if mixed and kind == _INET6 and "." in text and ":" not in text and (index == 0 or ":" in fields[0]):
            kind = _INET  # the IPv4 address of a mixed line
        found = _read_field(kind, text[:-1] if ended else text, begun and not ended)
        if found is None:
            why = f"is not {'the beginning of ' if begun else ''}{_KINDS[kind]}"
            if "\n" in text[: len(text) - ended] or "\r" in text[: len(text) - ended]:
                why = "contains a CR or LF: a version 1 header is one line, and CRLF ends it"
            elif kind == _INET6 and "." in text and ":" in "".join(fields[:2]) and _read_field(_INET, text, True):
                why += _MIXED_HINT
            wrong = ProxyProtocolSyntaxError(f"The {_FIELDS[index]} {text!a} {why}", at)
            wrong.option = "ipv4_in_tcp6" if why.endswith(_MIXED_HINT) else ""
            raise wrong
        value, missing = found[0], found[1] - ended
        values.append(value)
        at += len(text) + 1
    if len(fields) > len(_FIELDS):
        port = fields[_LAST_FIELD]
        raise ProxyProtocolSyntaxError(
            f"The {_FIELDS[_LAST_FIELD]} {port!a} has a space after it, where the line must end", at - len(port) - 1
        )
    if end < 0:
        return missing + sum(1 + len(field) for field in _SHORTEST[name].split()[len(fields) :]) + len(spec.V1_CRLF)
    if len(values) < len(_FIELDS):
        raise ProxyProtocolSyntaxError(f"The line ends where its {_FIELDS[len(values)]} must come", end)
    source, dest = (spec.IPV4_MAPPED + host if len(host) == 4 else host for host in values[:2])
    return _ipv6(_pack_ipv6(source, dest, *values[2:]), SOCK_STREAM, b"")


def _read_field(kind: int, text: str, begun: bool) -> tuple[Any, int] | None:
    """Return the value of a field and how many bytes its beginning lacks at least; None if it is wrong."""
    for ending in _ENDINGS[kind] if begun else ("",):
        field = text + ending
        if kind != _PORT:
            with contextlib.suppress(OSError, ValueError):  # a NUL is a ValueError
                return _inet_pton(kind, field), len(ending)
        elif field.isdecimal() and str(int(field)) == field and int(field) <= spec.MAX_PORT:
            return int(field), len(ending)
    return None
