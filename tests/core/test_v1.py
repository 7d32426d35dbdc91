"""Version 1: one line of text, strictly as in section 2.1."""

from __future__ import annotations

import re
import socket
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxyprotocol import (
    HeaderParser,
    ProxyProtocol,
    ProxyProtocolDetect,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolSyntaxError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
    ProxyResultUnknown,
    v1,
)
from proxyprotocol.messages import describe_refusal
from proxyprotocol.options import spell_variable
from proxyprotocol.tlv import ProxyProtocolTLV
from tests.vectors import (
    IPV4,
    IPV6,
    TCP4,
    UNKNOWN,
    VERSION_1,
    VERSION_2,
    Vector,
    describe,
    length,
    single_bytes,
    splits,
)

V1 = ProxyProtocolV1()
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
ADDRESSES = "192.0.2.1 198.51.100.2"

# Everything before the bar can begin a line. The byte after the bar is rejected as soon as it arrives.
WRONG = {
    "nothing like it": "|GET / HTTP/1.1\r\n",
    "leading space": f"| PROXY TCP4 {ADDRESSES} 1000 2000\r\n",
    "lower case": f"|proxy TCP4 {ADDRESSES} 1000 2000\r\n",
    "no space after PROXY": f"PROXY|X TCP4 {ADDRESSES} 1000 2000\r\n",
    "a tab after PROXY": f"PROXY|\tTCP4 {ADDRESSES} 1000 2000\r\n",
    "two spaces after PROXY": f"PROXY | TCP4 {ADDRESSES} 1000 2000\r\n",
    "no protocol": "PROXY |\r\n",
    "UDP4": f"PROXY U|DP4 {ADDRESSES} 1000 2000\r\n",
    "TCP5": f"PROXY TCP|5 {ADDRESSES} 1000 2000\r\n",
    "tcp4": f"PROXY |tcp4 {ADDRESSES} 1000 2000\r\n",
    "TCP46": f"PROXY TCP4|6 {ADDRESSES} 1000 2000\r\n",
    "UNKNOWNS": "PROXY UNKNOWN|S\r\n",
    "UNKNOWN and a tab": "PROXY UNKNOWN|\t\r\n",
    "UNKNOWN and LF": "PROXY UNKNOWN|\n\r\n",
    "UNKNOWN and CR": "PROXY UNKNOWN\r| \r\n",
    "no addresses": "PROXY TCP4|\r\n",
    "no source": "PROXY TCP4 |\r\n",
    "a tab after the protocol": "PROXY TCP4|\t192.0.2.1 198.51.100.2 1000 2000\r\n",
    "two spaces after the protocol": "PROXY TCP4 | 192.0.2.1 198.51.100.2 1000 2000\r\n",
    "two spaces between the addresses": "PROXY TCP4 192.0.2.1 | 198.51.100.2 1000 2000\r\n",
    "two spaces before the port": f"PROXY TCP4 {ADDRESSES} | 1000 2000\r\n",
    "two spaces between the ports": f"PROXY TCP4 {ADDRESSES} 1000 | 2000\r\n",
    "a space after the port": f"PROXY TCP4 {ADDRESSES} 1000 2000| \r\n",
    "a fifth field": f"PROXY TCP4 {ADDRESSES} 1000 2000| x\r\n",
    "leading zero in an octet": "PROXY TCP4 192.0.0|2.1 198.51.100.2 1000 2000\r\n",
    "octet over 255": "PROXY TCP4 192.0.25|6.1 198.51.100.2 1000 2000\r\n",
    "three octets": "PROXY TCP4 192.0.2| 198.51.100.2 1000 2000\r\n",
    "five octets": "PROXY TCP4 192.0.2.1|.1 198.51.100.2 1000 2000\r\n",
    "empty octet": "PROXY TCP4 192.|.2.1 198.51.100.2 1000 2000\r\n",
    "octet with a sign": "PROXY TCP4 |+192.0.2.1 198.51.100.2 1000 2000\r\n",
    "hexadecimal octet": "PROXY TCP4 0|x7f.0.0.1 198.51.100.2 1000 2000\r\n",
    "host name": "PROXY TCP4 |localhost 198.51.100.2 1000 2000\r\n",
    "IPv6 under TCP4": "PROXY TCP4 |::1 ::1 1000 2000\r\n",
    "wrong second address": "PROXY TCP4 192.0.2.1 |x 1000 2000\r\n",
    "IPv4 under TCP6": "PROXY TCP6 192|.0.2.1 198.51.100.2 1000 2000\r\n",
    "a zone": "PROXY TCP6 fe80::1|%eth0 ::1 1000 2000\r\n",
    "brackets": "PROXY TCP6 |[::1] ::1 1000 2000\r\n",
    "two double colons": "PROXY TCP6 1::2:|:3 ::1 1000 2000\r\n",
    "three colons": "PROXY TCP6 ::|: ::1 1000 2000\r\n",
    "seven groups": "PROXY TCP6 1:2:3:4:5:6:7| ::1 1000 2000\r\n",
    "nine groups": "PROXY TCP6 1:2:3:4:5:6:7:8|:9 ::1 1000 2000\r\n",
    "five digits": "PROXY TCP6 ::1234|5 ::1 1000 2000\r\n",
    "a group with a wrong letter": "PROXY TCP6 ::|g ::1 1000 2000\r\n",
    "46 characters": "PROXY TCP6 0000|" + "0" * 42 + " ::1 1000 2000\r\n",
    "wrong second IPv6 address": "PROXY TCP6 ::1 :|1 1000 2000\r\n",
    "IPv4 in front of IPv6": "PROXY TCP6 ::1.2.3.4|:5 ::1 1000 2000\r\n",
    "IPv4 of five numbers": "PROXY TCP6 ::1.2.3.4|.5 ::1 1000 2000\r\n",
    "port with a plus": f"PROXY TCP4 {ADDRESSES} |+8 2000\r\n",
    "port with a minus": f"PROXY TCP4 {ADDRESSES} |-1 2000\r\n",
    "port with an underscore": f"PROXY TCP4 {ADDRESSES} 1|_0 2000\r\n",
    "port with a leading zero": f"PROXY TCP4 {ADDRESSES} 0|1000 2000\r\n",
    "port over 65535": f"PROXY TCP4 {ADDRESSES} 6553|6 2000\r\n",
    "port of six digits": f"PROXY TCP4 {ADDRESSES} 1000 10000|0\r\n",
    "port with a point": f"PROXY TCP4 {ADDRESSES} 1|.0 2000\r\n",
    "second port with a leading zero": f"PROXY TCP4 {ADDRESSES} 1000 0|0\r\n",
    "second port missing": f"PROXY TCP4 {ADDRESSES} 1000|\r\n",
    "second port empty": f"PROXY TCP4 {ADDRESSES} 1000 |\r\n",
    "LF in an address": "PROXY TCP4 192.0.2.1|\n198.51.100.2 1000 2000\r\n",
    "CR in an address": "PROXY TCP6 ::1|\r ::1 1000 2000\r\n",
    "LF ends the line": f"PROXY TCP4 {ADDRESSES} 1000 2000|\nEHLO\r\n",
    "CR ends the line": f"PROXY TCP4 {ADDRESSES} 1000 2000\r|EHLO\r\n",
    "two CR": f"PROXY TCP4 {ADDRESSES} 1000 2000\r|\r\n",
    "NUL in an address": "PROXY TCP6 ::1|\0 ::1 1000 2000\r\n",
    "NUL after the port": f"PROXY TCP4 {ADDRESSES} 1000 2000|\0\r\n",
    "not ASCII": f"PROXY TCP4 {ADDRESSES} 1000|\xa0 2000\r\n",
    "digits of another script": f"PROXY TCP4 {ADDRESSES} 1|\xb2 2000\r\n",
}


def test_the_table_has_every_kind_of_line() -> None:
    assert {type(vector.result) for vector in VERSION_1} == {ProxyResultIPv4, ProxyResultIPv6, ProxyResultUnknown}


@pytest.mark.parametrize("vector", [vector for vector in VERSION_1 if vector.written], ids=str)
def test_a_result_is_packed_into_its_line(vector: Vector) -> None:
    assert V1.pack(vector.result) == vector.header


@pytest.mark.parametrize("vector", VERSION_1, ids=str)
def test_a_line_is_unpacked_into_its_result(vector: Vector) -> None:
    assert describe(V1.unpack(vector.header)) == describe(vector.result)


@pytest.mark.parametrize("vector", VERSION_1, ids=str)
def test_what_follows_a_line_is_ignored(vector: Vector) -> None:
    for follower in (b"\n", b"\r\n", b"EHLO\r\n", vector.header, VERSION_2[0].header, bytes(200)):
        assert describe(V1.unpack(vector.header + follower)) == describe(vector.result)


@pytest.mark.parametrize("vector", VERSION_1, ids=str)
def test_every_beginning_of_a_line_wants_the_rest_of_the_line(vector: Vector) -> None:
    for beginning, rest in splits(vector.header):
        if rest:
            with pytest.raises(ProxyProtocolIncompleteError) as caught:
                V1.unpack(beginning)
            assert (caught.value.want_read.want_line, caught.value.want_read.want_bytes) == (True, None)
            assert len(beginning) < length(V1.parse(beginning)) <= len(vector.header)


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_a_wrong_line_is_rejected_at_its_first_wrong_byte(line: str) -> None:
    right, wrong = line.encode("latin-1").split(b"|")
    for beginning, _ in splits(right):
        with pytest.raises(ProxyProtocolIncompleteError):
            V1.unpack(beginning)
    with pytest.raises(ProxyProtocolSyntaxError) as caught:
        V1.parse(right + wrong[:1])
    assert caught.value.offset is not None
    assert 0 <= caught.value.offset <= len(right)


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_a_wrong_line_that_arrives_whole_is_rejected_at_its_wrong_field(line: str) -> None:
    whole = line.replace("|", "").encode("latin-1")
    with pytest.raises(ProxyProtocolSyntaxError) as caught:
        V1.unpack(whole)
    assert caught.value.offset is not None
    # the offset is that of the field with the wrong byte
    assert whole[: line.index("|") + 1].rfind(b" ", 0, -1) < caught.value.offset <= line.index("|")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"HELO\r\n", "There is no PROXY protocol header: the data begins with b'HELO\\r\\n' (at byte 0)"),
        (
            b"\x16\x03\x01\x02\0",
            "There is no PROXY protocol header: the data begins with b'\\x16\\x03\\x01\\x02\\x00': this is TLS, "
            "which must come after the header (at byte 0)",
        ),
        (
            b"PROXY UDP4 192.0.2.1 198.51.100.2 1000 2000\r\n",
            "The protocol of a version 1 header is TCP4, TCP6 or UNKNOWN, not b'UDP4' (at byte 6)",
        ),
        (
            b"PROXY TCP4 192.0.02.1 198.51.100.2 1000 2000\r\n",
            "The source address '192.0.02.1' is not an IPv4 address in its canonical form (at byte 11)",
        ),
        (
            b"PROXY TCP6 ::1 fe80::1%eth0 1000 2000\r\n",
            "The destination address 'fe80::1%eth0' is not an IPv6 address (at byte 15)",
        ),
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.2 +1000 2000\r\n",
            "The source port '+1000' is not a number from 0 to 65535 without sign or leading zero (at byte 34)",
        ),
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000 \r\n",
            "The destination port '2000' has a space after it, where the line must end (at byte 39)",
        ),
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\nx\r\n",
            "The destination port '2000\\nx' contains a CR or LF: a version 1 header is one line, and CRLF ends it "
            "(at byte 39)",
        ),
        (b"PROXY TCP4 192.0.2.1\r\n", "The line ends where its destination address must come (at byte 20)"),
        (b"PROXY TCP4 192.0.2.1 \r\n", "The line ends where its destination address must come (at byte 21)"),
        (b"PROXY TCP4 192.0.2.1 1.1.1.1 1000\r\n", "The line ends where its destination port must come (at byte 33)"),
        (b"PROXY TCP4 192.0.2.1 \xe9\r\n", "A version 1 header is US-ASCII (at byte 21)"),
        (
            b"PROXY UNKNOWN " + b"x" * 93,
            "A version 1 header has at most 107 bytes with its CRLF, and this line is longer (at byte 107)",
        ),
    ],
)
def test_an_error_says_what_is_wrong_and_where(line: bytes, sentence: str) -> None:
    with pytest.raises(ProxyProtocolSyntaxError) as caught:
        V1.unpack(line)
    assert str(caught.value) == sentence


NGINX = b"PROXY TCP6 2001:db8::1 127.0.0.1 1234 17013\r\n"
MIXED = ProxyProtocolV1(ipv4_in_tcp6=True)
MAPPED_DEST = ("2001:db8::1", 1234, 0, 0), ("::ffff:127.0.0.1", 17013, 0, 0)


@pytest.mark.parametrize("line", [NGINX, b"PROXY TCP6 127.0.0.1 2001:db8::1 1 2\r\n"])
def test_the_error_for_a_line_that_mixes_families_says_how_to_accept_it(line: bytes) -> None:
    with pytest.raises(ProxyProtocolSyntaxError) as caught:
        V1.unpack(line)
    assert caught.value.offset == line.index(b"127")
    part = "address '127.0.0.1' is not an IPv6 address: nginx with set_real_ip_from writes IPv4 into TCP6 lines"
    assert part in str(caught.value)
    assert describe_refusal(caught.value, None).endswith("; see pp=ProxyProtocolV1(ipv4_in_tcp6=True)")
    environment = describe_refusal(caught.value, None, spell=spell_variable)
    assert environment.endswith("; see PROXYPROTOCOL_IPV4_IN_TCP6")
    with pytest.raises(ProxyProtocolSyntaxError) as other:
        V1.unpack(line.replace(b"127.0.0.1", b"127.0.0.x"))
    assert "ipv4" not in describe_refusal(other.value, None).lower()


@pytest.mark.parametrize("codec", [MIXED, ProxyProtocolDetect(MIXED, ProxyProtocolV2())])
def test_the_ipv4_address_of_a_mixed_line_is_mapped_on_request(codec: ProxyProtocol) -> None:
    swapped = b"PROXY TCP6 127.0.0.1 2001:db8::1 17013 1234\r\n"
    for line, (peername, sockname) in ((NGINX, MAPPED_DEST), (swapped, MAPPED_DEST[::-1])):
        result = codec.unpack(line + b"x")
        assert isinstance(result, ProxyResultIPv6)
        assert (result.peername, result.sockname, result.protocol) == (peername, sockname, socket.SOCK_STREAM)
        for beginning, rest in splits(line):
            parser = HeaderParser(codec)
            parser.feed(beginning)
            for at, byte in enumerate(single_bytes(rest)):
                assert 0 < parser.needed <= len(rest) - at
                parser.feed(byte)
            assert parser.result is not None
            assert describe(parser.result) == describe(result)


def test_a_mapped_address_is_sent_as_ipv6_which_every_receiver_accepts() -> None:
    result = MIXED.unpack(NGINX)
    assert V1.pack(result) == b"PROXY TCP6 2001:db8::1 ::ffff:127.0.0.1 1234 17013\r\n"
    assert describe(V1.unpack(V1.pack(result))) == describe(result)


@pytest.mark.parametrize(
    "line",
    [
        *(line for name, line in WRONG.items() if "IPv4" not in name),
        "PROXY TCP6 192.0.2.1 198.51.100.|2 1000 2000\r\n",
        "PROXY TCP6 ::1 192.0.0|2.1 1000 2000\r\n",
        "PROXY TCP6 ::1 192.0.2.25|6 1000 2000\r\n",
        "PROXY TCP6 ::1 192.0.2.1|.1 1000 2000\r\n",
        "PROXY TCP6 ::1 192.0.2| 1000 2000\r\n",
        "PROXY TCP6 192.0.2.1 ::1 1000 20|\n00\r\n",
        "PROXY TCP4 192.0.2.1 |::1 1000 2000\r\n",
    ],
)
def test_ipv4_in_tcp6_accepts_no_other_wrong_line(line: str) -> None:
    line = line.replace("|", "")
    with pytest.raises(ProxyProtocolSyntaxError):
        MIXED.unpack(line.encode("latin-1"))
    with pytest.raises(ProxyProtocolSyntaxError):
        feed(HeaderParser(MIXED), *single_bytes(line.encode("latin-1")))


def test_a_line_has_at_most_107_bytes_with_its_crlf() -> None:
    longest = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert len(longest) == 107
    assert length(V1.parse(longest)) == 107
    with pytest.raises(ProxyProtocolLimitError):
        V1.unpack(longest[:-2] + b"x\r\n")


def test_a_line_without_room_for_its_crlf_is_rejected_at_once() -> None:
    assert length(V1.parse(b"PROXY UNKNOWN ".ljust(105, b"x"))) == 107
    assert length(V1.parse(b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r")) == 107
    for line in (b"PROXY UNKNOWN ".ljust(106, b"x"), b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r"):
        with pytest.raises(ProxyProtocolLimitError):
            V1.parse(line)


def test_64_kib_without_an_end_are_rejected() -> None:
    with pytest.raises(ProxyProtocolLimitError):
        V1.unpack(b"PROXY UNKNOWN " + b"x" * 65536)


def test_the_limit_of_version_2_headers_does_not_apply() -> None:
    assert length(V1.parse(LINE, max_header=16)) == len(LINE)


def test_version_1_leaves_out_tlvs() -> None:
    result = ProxyResultIPv4(*IPV4, protocol=socket.SOCK_STREAM, tlv=ProxyProtocolTLV(alpn=b"h2"))
    assert describe(V1.unpack(V1.pack(result))) == describe(TCP4)


@pytest.mark.parametrize("protocol", [socket.SOCK_DGRAM, socket.SOCK_RAW])
def test_the_client_of_another_protocol_than_tcp_is_unknown(protocol: socket.SocketKind) -> None:
    for result in (ProxyResultIPv4(*IPV4, protocol=protocol), ProxyResultIPv6(*IPV6, protocol=protocol)):
        assert V1.pack(result) == b"PROXY UNKNOWN\r\n"


def test_a_result_without_a_protocol_is_packed_too() -> None:
    assert V1.pack(ProxyResultIPv6(*IPV6)) == b"PROXY TCP6 2001:db8::1 2001:db8:ffff::2 1000 2000\r\n"


def test_unpack_line_reads_exactly_one_line() -> None:
    assert describe(V1.unpack_line(LINE)) == describe(TCP4)
    for wrong in (LINE[:-1], LINE + b"x", LINE + LINE, LINE[:20]):
        with pytest.raises(ProxyProtocolSyntaxError, match="not one whole line"):
            V1.unpack_line(wrong)


def test_unknown_is_sent_in_its_short_form() -> None:
    assert V1.pack(ProxyResultUnknown(OSError("gone"), tlv=ProxyProtocolTLV(alpn=b"h2"))) == b"PROXY UNKNOWN\r\n"


def test_version_1_cannot_say_local() -> None:
    with pytest.raises(ValueError, match="cannot say LOCAL"):
        V1.pack(ProxyResultLocal())


def test_version_1_cannot_name_unix_sockets() -> None:
    with pytest.raises(KeyError, match="UNIX"):
        V1.pack(ProxyResultUnix("/a", "/b"))


@pytest.mark.parametrize(
    ("signature", "valid"),
    [
        (b"PROXY TC", True),
        (b"PROXY UNKNOWN\r\n", True),
        (b"PROXYTCP", False),
        (b"\r\n\r\n\0\r\nQ", False),
        (b"", False),
    ],
)
def test_is_valid_recognises_the_first_bytes(signature: bytes, valid: bool) -> None:
    assert V1.is_valid(signature) is valid


@pytest.mark.parametrize(
    ("data", "begins"), [(b"", None), (b"PROXY", None), (b"PROXY ", True), (b"PROXY \xff", True), (b"PR0XY ", False)]
)
def test_a_connection_begins_with_a_header_when_all_six_bytes_are_there(data: bytes, begins: bool | None) -> None:
    assert V1.begins(data) is begins


# The next four tests replace the system's inet_pton. The choice is made once, at import, so they use private names.


def test_leading_zeros_are_rejected_even_if_the_system_accepts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def lenient(number: int, text: str) -> bytes:
        # as macOS and musl read IPv4 addresses
        return socket.inet_pton(number, re.sub(r"(?<![0-9a-f])0+(?=\d)", "", text))

    monkeypatch.setattr(v1, "inet_pton", lenient)
    inet_pton = v1._choose_inet_pton()
    assert inet_pton is not lenient
    assert inet_pton(socket.AF_INET, "192.0.2.1") == b"\xc0\0\2\1"
    assert inet_pton(socket.AF_INET6, "::1") == bytes(15) + b"\1"
    with pytest.raises(OSError, match=re.escape("192.0.02.1")):
        inet_pton(socket.AF_INET, "192.0.02.1")


@pytest.mark.parametrize("line", [b"PROXY TCP6 fe80::1%lo0 ::1 1 2\r\n", b"PROXY TCP6 ::1%a ::1%\r\n 1 2\r\n"])
def test_zones_are_rejected_even_if_the_system_accepts_them(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    def lenient(number: int, text: str) -> bytes:
        # as the BSDs read IPv6 addresses
        return socket.inet_pton(number, text.partition("%")[0] if number == socket.AF_INET6 else text)

    monkeypatch.setattr(v1, "inet_pton", lenient)
    monkeypatch.setattr(v1, "_inet_pton", v1._choose_inet_pton())
    assert V1.unpack(b"PROXY TCP6 ::1 ::2 1 2\r\n").peername == ("::1", 1, 0, 0)
    for end in (len(line), *range(1, len(line))):
        with pytest.raises(ProxyProtocolSyntaxError):
            feed(HeaderParser(V1), line[:end], *single_bytes(line[end:]))


def feed(parser: HeaderParser, *pieces: bytes) -> None:
    for piece in pieces:
        parser.feed(piece)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 1.2.3.4\0evil 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 ::1 ::2\0 1 2\r\n",
        b"PROXY TCP6 2001:db8::1 127.0.0.1\0 1 2\r\n",
    ],
)
def test_a_nul_is_rejected_even_if_the_system_ignores_it(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    def lenient(number: int, text: str) -> bytes:
        # as PyPy calls the C library, for which a NUL ends the text
        return socket.inet_pton(number, text.partition("\0")[0])

    monkeypatch.setattr(v1, "inet_pton", lenient)
    monkeypatch.setattr(v1, "_inet_pton", v1._choose_inet_pton())
    for end in (len(line), *range(1, len(line))):
        with pytest.raises(ProxyProtocolSyntaxError):
            feed(HeaderParser(V1), line[:end], *single_bytes(line[end:]))
        with pytest.raises(ProxyProtocolSyntaxError):
            feed(HeaderParser(MIXED), line[:end], *single_bytes(line[end:]))


def test_a_strict_system_needs_no_second_check() -> None:
    assert v1._choose_inet_pton() is socket.inet_pton


# A second implementation of the grammar, with regular expressions and the ipaddress module.
_PORT = rb"(0|[1-9][0-9]{0,4})"
_TCP4 = re.compile(rb"PROXY TCP4 ([0-9.]+) ([0-9.]+) " + _PORT + rb" " + _PORT + rb"\r\n", re.ASCII)
_TCP6 = re.compile(rb"PROXY TCP6 ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) " + _PORT + rb" " + _PORT + rb"\r\n", re.ASCII)
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?\r\n", re.ASCII | re.DOTALL)


def read_by_the_grammar(line: bytes) -> ProxyResultIPv4 | ProxyResultIPv6 | ProxyResultUnknown | None:
    """Return what a whole line says, or None if it is not a header."""
    if len(line) > 107 or line.find(b"\r\n") != len(line) - 2:
        return None
    try:
        if match := _TCP4.fullmatch(line):
            source, dest, port, other = match.groups()
            if max(int(port), int(other)) < 65536:
                addresses = IPv4Address(source.decode()), IPv4Address(dest.decode())
                return ProxyResultIPv4(
                    (addresses[0], int(port)), (addresses[1], int(other)), protocol=socket.SOCK_STREAM
                )
        elif match := _TCP6.fullmatch(line):
            source, dest, port, other = match.groups()
            if max(int(port), int(other)) < 65536:
                pair = IPv6Address(source.decode()), IPv6Address(dest.decode())
                return ProxyResultIPv6((pair[0], int(port)), (pair[1], int(other)), protocol=socket.SOCK_STREAM)
        elif _UNKNOWN.fullmatch(line):
            return UNKNOWN
    except AddressValueError:
        pass
    return None


def _joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


def _ascii(value: object) -> bytes:
    return str(value).encode()


_groups = st.lists(st.sampled_from([b"", b"0", b"1", b"ffff", b"0db8", b"12345", b"G", b"1.2.3.4"]), max_size=9)
_octets = st.lists(st.sampled_from([b"0", b"1", b"255", b"256", b"00", b"01", b"", b"-1"]), min_size=3, max_size=5)
_address = st.one_of(
    st.ip_addresses(v=4).map(_ascii),
    st.ip_addresses(v=6).map(_ascii),
    st.ip_addresses(v=6).map(lambda address: address.exploded.upper().encode()),
    _octets.map(b".".join),
    _groups.map(b":".join),
)
_port = st.one_of(
    st.integers(0, 65535).map(_ascii),
    st.sampled_from([b"", b"0", b"00", b"01", b"+1", b"1_0", b"65535", b"65536", b"99999", b"100000", b"\xd9\xa1"]),
)
_space = st.sampled_from([b" "] * 30 + [b"  ", b"\t", b"", b"\n", b"\r"])
_family = st.sampled_from([b"TCP4", b"TCP6", b"UNKNOWN"] * 5 + [b"TCP", b"UDP4", b"UNKNOWNS", b""])
_end = st.sampled_from([b"\r\n"] * 8 + [b" \r\n", b"\r\r\n", b" x\r\n", b"\0\r\n"])
_composed = _joined(
    st.just(b"PROXY"), _space, _family, _space, _address, _space, _address, _space, _port, _space, _port, _end
)
_junk = _joined(st.just(b"PROXY "), _family, _space, st.binary(max_size=95), _end)


@given(st.one_of(_composed, _junk))
@example(b"PROXY TCP6 %b %b 1 2\r\n" % ((b"0000:0000:0000:0000:0000:ffff:192.0.2.1",) * 2))
@example(b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255 1:2:3:4:5:6:7:: 65535 65535\r\n")
@example(b"PROXY TCP6 1::2:3:4:5:6:7:8 ::1 1 2\r\n")
def test_a_line_is_accepted_exactly_if_the_grammar_accepts_it(line: bytes) -> None:
    line = line[: line.find(b"\r\n") + 2]
    expected = read_by_the_grammar(line)
    if expected is None:
        with pytest.raises(ProxyProtocolSyntaxError):
            V1.unpack(line)
    else:
        assert describe(V1.unpack(line)) == describe(expected)
