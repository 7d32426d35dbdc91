"""Floor 2: version 1, one line of text (section 2.1).

A line is checked field by field while it comes, so that a wrong peer is dropped at its first wrong field and not after
a time-out; a line that came whole, as they nearly all do, is decoded in one go.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Mapping
from socket import AF_INET, AF_INET6, SOCK_STREAM, AddressFamily, inet_ntop, inet_pton
from typing import Final, NamedTuple

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
# where the fields begin: the names of both families have four letters, which a space follows
_FIRST_FIELD: Final = len(spec.V1_SIGNATURE) + 5
_IPV6_GROUP: Final = re.compile("[0-9A-Fa-f]{0,4}")


class _Family(NamedTuple):
    number: AddressFamily
    least: tuple[int, ...]  # the least length of each field: "0.0.0.0" or "::", and a port
    mixed: bool = False  # whether one of the two addresses may be IPv4 all the same


_FAMILIES: Final = {spec.V1_TCP4: _Family(AF_INET, (7, 7, 1, 1)), spec.V1_TCP6: _Family(AF_INET6, (2, 2, 1, 1))}
_MIXED_FAMILIES: Final = {**_FAMILIES, spec.V1_TCP6: _FAMILIES[spec.V1_TCP6]._replace(mixed=True)}
_TCP: Final = (SOCK_STREAM, None)  # what a result says of its protocol: None where nobody has said
_IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"
_MIXED_HINT: Final = (
    ": nginx with set_real_ip_from writes IPv4 into TCP6 lines. To accept them, set "
    "ProxyProtocolV1(ipv4_in_tcp6=True), ppIPv4InTCP6=yes, PROXYPROTOCOL_IPV4_IN_TCP6=yes or ipv4_in_tcp6=yes"
)
# the line as section 2.1 gives it, without a look at the addresses, which inet_pton() knows better
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
    """Give the system's function, wrapped where it takes leading zeros or a zone: looking twice costs a tenth."""
    # PyPy's stops at a NUL, and takes what stands before it
    for family, text in ((AF_INET, "192.0.02.1"), (AF_INET6, "::1%1"), (AF_INET, "192.0.2.1\0")):
        with contextlib.suppress(OSError, ValueError):
            inet_pton(family, text)
            return _strict_inet_pton
    return inet_pton


_inet_pton: Final = _choose_inet_pton()


class ProxyProtocolV1(ProxyProtocol):
    """The human-readable format: ``PROXY TCP4 192.0.2.1 198.51.100.2 56324 443`` and CRLF (section 2.1).

    It is read strictly: one space between fields, addresses and ports in their canonical form, nothing behind the
    port, CRLF within 107 bytes.

    Args:
        ipv4_in_tcp6: Whether one of the two addresses of a TCP6 line may be IPv4; the result has it as an IPv4-mapped
            one. nginx writes such lines when ``set_real_ip_from`` has replaced the client's address.
    """

    __slots__ = ("_families",)

    def __init__(self, ipv4_in_tcp6: bool = False) -> None:
        self._families = _MIXED_FAMILIES if ipv4_in_tcp6 else _FAMILIES

    def is_valid(self, signature: bytes) -> bool:
        """Tell whether a version 1 header begins so.

        Args:
            signature: The first bytes of a connection, 8 at least.
        """
        return bytes(signature).startswith(spec.V1_SIGNATURE)

    def unpack(self, data: bytes) -> ProxyResult:
        """Read the header at the start of *data*, and ignore what follows it.

        Args:
            data: The first bytes of a connection.

        Raises:
            ProxyProtocolIncompleteError: More of the line is needed.
            ProxyProtocolSyntaxError: There is no such line.
        """
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
        """Parse the line at the start of a connection, whose limit is 107 bytes; see :meth:`.ProxyProtocol.parse`."""
        found = _match_line(data[: spec.V1_MAX_LENGTH].decode("latin-1"))
        if found is None:
            return _parse_slowly(data, self._families)
        name, source, dest, source_port, dest_port = found.groups()
        port = int(source_port)
        try:
            if name == "TCP4":
                block = _pack_ipv4(_inet_pton(_INET, source), _inet_pton(_INET, dest), port, int(dest_port))
                # written in the one way that there is, so this is the text that a socket would tell
                return _ipv4(block, SOCK_STREAM, b"", (source, port)), found.end()
            client = _inet_pton(_INET6, source)
            block = _pack_ipv6(client, _inet_pton(_INET6, dest), port, int(dest_port))
            return _ipv6(block, SOCK_STREAM, b"", (inet_ntop(_INET6, client), port, 0, 0)), found.end()
        except (OSError, ValueError, struct.error):  # a NUL is a ValueError
            return _parse_slowly(data, self._families)

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
        """Tell a header from an application's own first bytes; see :meth:`.ProxyProtocol.begins`.

        Args:
            data: The first bytes of a connection.
        """
        return signature_begins(data, spec.V1_SIGNATURE)


def _parse_slowly(data: bytes, families: Mapping[bytes, _Family]) -> tuple[ProxyResult, int] | int:
    """Parse a line that says UNKNOWN, mixes both families, is incomplete, or is wrong."""
    if not check_signature(data, spec.V1_SIGNATURE):
        return spec.V1_MIN_LENGTH
    end = data.find(spec.V1_CRLF, 0, spec.V1_MAX_LENGTH)
    if end < 0:
        size = _least_length(data[: spec.V1_MAX_LENGTH], families)
        if size > spec.V1_MAX_LENGTH:
            raise _too_long(data)(
                f"A version 1 header has {spec.V1_MAX_LENGTH} bytes at most, and there is no CRLF in this one's",
                spec.V1_MAX_LENGTH,
            )
        return size
    size = end + len(spec.V1_CRLF)
    name, _, rest = data[len(spec.V1_SIGNATURE) : end].partition(b" ")
    _check_name(name, whole=True)
    if name == spec.V1_UNKNOWN:
        return ProxyResultUnknown(), size
    family, fields = families[name], _split(rest)
    _check_fields(family, fields, end)
    hosts = (_read_address(family, fields, index) for index in (0, 1))
    source, dest = (_IPV4_MAPPED + host if len(host) == 4 else host for host in hosts)
    return _ipv6(_pack_ipv6(source, dest, int(fields[2]), int(fields[3])), SOCK_STREAM, b""), size


def _check_name(name: bytes, *, whole: bool) -> None:
    """Refuse what is not the protocol, or not its beginning."""
    if name not in _LEAST_LENGTH if whole else not any(known.startswith(name) for known in _LEAST_LENGTH):
        raise ProxyProtocolSyntaxError(
            f"The protocol of a version 1 header is TCP4, TCP6 or UNKNOWN, not {name!a}", len(spec.V1_SIGNATURE)
        )


def _split(rest: bytes) -> list[str]:
    """Part what stands behind the protocol into fields, the last of which may be only begun."""
    try:
        return rest.decode("ascii").split(" ")
    except UnicodeDecodeError as error:
        raise ProxyProtocolSyntaxError("A version 1 header is US-ASCII", _FIRST_FIELD + error.start) from None


def _wrong(fields: list[str], index: int, why: str) -> ProxyProtocolSyntaxError:
    at = _FIRST_FIELD + sum(len(field) + 1 for field in fields[:index])
    if "\n" in fields[index] or "\r" in fields[index]:
        why = "has a CR or LF in it: a version 1 header is one line, which CR and LF end together"
    return ProxyProtocolSyntaxError(f"The {_FIELDS[index]} {fields[index]!a} {why}", at)


def _wrong_address(family: _Family, fields: list[str], index: int, beginning: str = "") -> ProxyProtocolSyntaxError:
    if _number(family, fields, index) is AF_INET:
        return _wrong(fields, index, f"is not {beginning}an IPv4 address in its canonical form")
    mixes = "." in fields[index] and _may_become_ipv4(fields[index]) and ":" in "".join(fields[:2])
    return _wrong(fields, index, f"is not {beginning}an IPv6 address{_MIXED_HINT if mixes else ''}")


def _number(family: _Family, fields: list[str], index: int) -> AddressFamily:
    """Give the family of an address. In a mixed line one of the two is IPv4, if it looks like it."""
    ipv4 = family.mixed and _looks_like_ipv4(fields[index]) and (index == 0 or ":" in fields[0])
    return AF_INET if ipv4 else family.number


def _looks_like_ipv4(text: str) -> bool:
    return "." in text and ":" not in text


def _check_fields(family: _Family, fields: list[str], end: int) -> None:
    """Refuse the first of these fields that is wrong, else a wrong number of them; *end* is the line's."""
    for index, field in enumerate(fields[: len(_FIELDS)]):
        if field or index < len(fields) - 1:
            _read_field(family, fields, index)
    if len(fields) > len(_FIELDS):
        raise _wrong(fields, _LAST_FIELD, "has a space behind it, where the line must end")
    there = len(fields) - (not fields[-1])
    if there < len(_FIELDS):
        raise ProxyProtocolSyntaxError(f"The line ends where its {_FIELDS[there]} must come", end)


def _read_field(family: _Family, fields: list[str], index: int) -> None:
    if index < 2:
        _read_address(family, fields, index)
    else:
        _read_port(fields, index)


def _read_address(family: _Family, fields: list[str], index: int) -> bytes:
    try:
        return _inet_pton(_number(family, fields, index), fields[index])
    except (OSError, ValueError):  # a NUL is a ValueError
        raise _wrong_address(family, fields, index) from None


def _read_port(fields: list[str], index: int) -> None:
    if not _is_number(fields[index], spec.MAX_PORT):
        raise _wrong(fields, index, "is not a number from 0 to 65535 without sign or leading zero")


def _is_number(text: str, most: int) -> bool:
    return text.isdecimal() and str(int(text)) == text and int(text) <= most


def _least_length(line: bytes, families: Mapping[bytes, _Family]) -> int:
    """Give the least length of a line whose end is not there yet, and refuse what cannot become one."""
    name, space, rest = line[len(spec.V1_SIGNATURE) :].partition(b" ")
    if not space:
        return _measure_name(name)
    family = families.get(name)
    if family is None:
        _check_name(name, whole=True)
        return len(line) + (1 if line.endswith(b"\r") else 2)
    fields = _split(rest)
    index = len(fields) - 1
    if index > _LAST_FIELD:
        _check_fields(family, fields, len(line))  # raises: these are too many
    for complete in range(index):
        _read_field(family, fields, complete)
    missing = _least_address(family, fields, index) if index < 2 else _least_port(fields, index)
    later = sum(1 + least for least in family.least[index + 1 :])
    return len(line) + missing + later + len(spec.V1_CRLF)


def _too_long(data: bytes | bytearray) -> type[ProxyProtocolSyntaxError]:
    # Two addresses of 45 characters leave no room for ports. Where they come whole, something else may be wrong behind
    # them, which is told then: so that the kind of error is the same in any pieces, this is one of syntax too.
    unknown = data.startswith(spec.V1_UNKNOWN, len(spec.V1_SIGNATURE))
    return ProxyProtocolLimitError if unknown else ProxyProtocolSyntaxError


def _measure_name(name: bytes) -> int:
    if name == spec.V1_UNKNOWN + b"\r":
        return spec.V1_MIN_LENGTH
    _check_name(name, whole=False)
    return min(length for known, length in _LEAST_LENGTH.items() if known.startswith(name))


def _least_address(family: _Family, fields: list[str], index: int) -> int:
    """Say how many bytes a begun address lacks at least."""
    text, ipv4 = fields[index], _number(family, fields, index) is AF_INET
    if not (_may_become_ipv4(text) if ipv4 else _may_become_ipv6(text)):
        raise _wrong_address(family, fields, index, "the beginning of ")
    if ipv4:
        return 2 * (3 - text.count(".")) + (text == "" or text.endswith("."))
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


def _least_port(fields: list[str], index: int) -> int:
    """Say how many bytes a begun port lacks, which is less by one where the CR of the line's end is there."""
    text = fields[index]
    if not text:
        return 1
    ended = index == _LAST_FIELD and text.endswith("\r")
    _read_port([*fields[:index], text[:-1] if ended else text], index)
    return -1 if ended else 0
