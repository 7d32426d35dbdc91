"""Version 1, one line of text (section 2.1).

Nearly every line arrives whole, and one regular expression decodes it. Any other line is checked field by field as it
arrives, so that a wrong peer is dropped at its first wrong field and not after the timeout.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable
from socket import AF_INET, AF_INET6, SOCK_STREAM, inet_ntop, inet_pton
from typing import Final

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

# "PROXY TCP6 :: :: 0 0" and CRLF; "PROXY TCP4 0.0.0.0 0.0.0.0 0 0" and CRLF
_LEAST_LENGTH: Final = {spec.V1_UNKNOWN: spec.V1_MIN_LENGTH, spec.V1_TCP6: 22, spec.V1_TCP4: 32}
_FIELDS: Final = ("source address", "destination address", "source port", "destination port")
_LAST_FIELD: Final = len(_FIELDS) - 1
# where the fields begin: after TCP4 or TCP6 and a space
_FIRST_FIELD: Final = len(spec.V1_SIGNATURE) + 5
_IPV6_GROUP: Final = re.compile("[0-9A-Fa-f]{0,4}")
# the least length of each field: "0.0.0.0" or "::", and a port
_LEAST_FIELDS: Final = {spec.V1_TCP4: (7, 7, 1, 1), spec.V1_TCP6: (2, 2, 1, 1)}
_TCP: Final = (SOCK_STREAM, None)  # protocols of results that a line can carry; None: not known
_IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"
_MIXED_HINT: Final = (
    ": nginx with set_real_ip_from writes IPv4 into TCP6 lines. To accept them, set "
    "ProxyProtocolV1(ipv4_in_tcp6=True), ppIPv4InTCP6=yes, PROXYPROTOCOL_IPV4_IN_TCP6=yes or ipv4_in_tcp6=yes"
)
# the line of section 2.1; inet_pton() checks the addresses
_match_line: Final = re.compile(r"PROXY (TCP4|TCP6) ([^ ]+) ([^ ]+) (?!0[0-9])([0-9]+) (?!0[0-9])([0-9]+)\r\n").match
# as plain numbers: an enumeration's members are slow to pass
_INET: Final = int(AF_INET)
_INET6: Final = int(AF_INET6)
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

    It is read strictly: one space between fields, addresses and ports in their canonical form, nothing after the
    port, CRLF within 107 bytes.

    Args:
        ipv4_in_tcp6: Whether one of the two addresses of a TCP6 line may be IPv4; the result has it as an IPv4-mapped
            one. nginx writes such lines when ``set_real_ip_from`` has replaced the client's address.
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
        """Read a header that is known to be a line.

        Args:
            data: The whole line, its CRLF included.

        Raises:
            ProxyProtocolSyntaxError: It is not one whole line, or not such a line.
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
        """Write a line. The format has no place for TLVs, and knows no protocol but TCP.

        Args:
            result: What it is to say. The client of another protocol than TCP is UNKNOWN.

        Raises:
            KeyError: It is about UNIX sockets.
            ValueError: It is a LOCAL result: version 1 cannot say that.
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
    whole = end >= 0
    line = data[: end if whole else spec.V1_MAX_LENGTH]
    name, space, rest = line[len(spec.V1_SIGNATURE) :].partition(b" ")
    if not whole and not space:
        if name == spec.V1_UNKNOWN + b"\r":
            return spec.V1_MIN_LENGTH
        lengths = [length for known, length in _LEAST_LENGTH.items() if known.startswith(name)]
        if lengths:
            return min(lengths)
    if name not in _LEAST_LENGTH:
        raise ProxyProtocolSyntaxError(
            f"The protocol of a version 1 header is TCP4, TCP6 or UNKNOWN, not {name!a}", len(spec.V1_SIGNATURE)
        )
    unknown = name == spec.V1_UNKNOWN
    if not unknown:
        found = _parse_fields(name, rest, mixed, end)
    else:
        found = ProxyResultUnknown() if whole else len(spec.V1_CRLF) - line.endswith(b"\r")
    if not isinstance(found, int):
        return found, end + len(spec.V1_CRLF)
    size = len(line) + found
    if size > spec.V1_MAX_LENGTH:
        # Two addresses of 45 characters leave no room for ports. If the whole line comes at once, a later field may be
        # reported as wrong instead. Both are errors of syntax, so that any chunking raises the same class.
        raise (ProxyProtocolLimitError if unknown else ProxyProtocolSyntaxError)(
            f"A version 1 header has {spec.V1_MAX_LENGTH} bytes at most, and there is no CRLF in this one's",
            spec.V1_MAX_LENGTH,
        )
    return size


def _parse_fields(name: bytes, rest: bytes, mixed: bool, end: int) -> ProxyResult | int:
    """Return what the fields after TCP4 or TCP6 say; for the beginning of a line, how many bytes it lacks at least."""
    try:
        fields = rest.decode("ascii").split(" ")
    except UnicodeDecodeError as error:
        raise ProxyProtocolSyntaxError("A version 1 header is US-ASCII", _FIRST_FIELD + error.start) from None
    whole, tcp6, at, lacking, hosts = end >= 0, name == spec.V1_TCP6, _FIRST_FIELD, 0, []
    for index, text in enumerate(fields[: len(_FIELDS)]):
        begun = index == len(fields) - 1 and not whole
        if index >= 2:
            if begun and index == _LAST_FIELD and text.endswith("\r"):
                text, lacking = text[:-1], -1
            elif begun and not text:
                lacking = 1
            if (text or index < len(fields) - 1 or lacking < 0) and not _is_number(text, spec.MAX_PORT):
                raise _wrong(index, text, at, "is not a number from 0 to 65535 without sign or leading zero")
        elif begun or text or index < len(fields) - 1:
            # in a mixed line one of the two addresses is IPv4, if it looks like it
            looks_mixed = mixed and "." in text and ":" not in text and (index == 0 or ":" in fields[0])
            ipv4 = not tcp6 or looks_mixed
            try:
                if begun:
                    lacking = _count_lacking_ipv4(text) if ipv4 else _count_lacking_ipv6(text)
                else:
                    hosts.append(_inet_pton(AF_INET if ipv4 else AF_INET6, text))
            except (OSError, ValueError):  # a NUL is a ValueError
                kind = "an IPv4 address in its canonical form" if ipv4 else "an IPv6 address"
                mixes = not ipv4 and "." in text and _may_become_ipv4(text) and ":" in "".join(fields[:2])
                beginning, hint = "the beginning of " if begun else "", _MIXED_HINT if mixes else ""
                raise _wrong(index, text, at, f"is not {beginning}{kind}{hint}") from None
        at += len(text) + 1
    if len(fields) > len(_FIELDS):
        at -= len(fields[_LAST_FIELD]) + 1
        raise _wrong(_LAST_FIELD, fields[_LAST_FIELD], at, "has a space after it, where the line must end")
    if not whole:
        return lacking + sum(1 + least for least in _LEAST_FIELDS[name][len(fields) :]) + len(spec.V1_CRLF)
    there = len(fields) - (not fields[-1])
    if there < len(_FIELDS):
        raise ProxyProtocolSyntaxError(f"The line ends where its {_FIELDS[there]} must come", end)
    source, dest = (_IPV4_MAPPED + host if len(host) == 4 else host for host in hosts)
    return _ipv6(_pack_ipv6(source, dest, int(fields[2]), int(fields[3])), SOCK_STREAM, b"")


def _wrong(index: int, text: str, at: int, why: str) -> ProxyProtocolSyntaxError:
    if "\n" in text or "\r" in text:
        why = "contains a CR or LF: a version 1 header is one line, and CRLF ends it"
    return ProxyProtocolSyntaxError(f"The {_FIELDS[index]} {text!a} {why}", at)


def _is_number(text: str, most: int) -> bool:
    return text.isdecimal() and str(int(text)) == text and int(text) <= most


def _count_lacking_ipv4(text: str) -> int:
    """Return how many bytes the beginning of an address lacks at least; ValueError if it cannot become one."""
    if not _may_become_ipv4(text):
        raise ValueError
    return 2 * (3 - text.count(".")) + (text == "" or text.endswith("."))


def _count_lacking_ipv6(text: str) -> int:
    if not _may_become_ipv6(text):
        raise ValueError
    try:
        _inet_pton(AF_INET6, text)
    except OSError:
        return 1 if text else 2
    return 0


def _may_become_ipv6(text: str) -> bool:
    *groups, begun = text.split(":")
    # the last 32 bits may be written as IPv4, in the place of two groups
    last = groups and _may_become_ipv4(begun) if "." in begun else _IPV6_GROUP.fullmatch(begun)
    # a "::" at either end parts off an empty group more
    most = 9 if text.startswith("::") or text.endswith("::") else 8
    return bool(
        last
        and len(groups) < most
        and all(_IPV6_GROUP.fullmatch(group) for group in groups)
        and text.count("::") <= 1
        and ":::" not in text
        and not (text.startswith(":") and len(text) > 1 and text[1] != ":")
    )


def _may_become_ipv4(text: str) -> bool:
    *octets, begun = text.split(".")
    return len(octets) <= 3 and all(_is_number(octet, 255) for octet in [*octets, begun or "0"])
