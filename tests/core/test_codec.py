"""Custom codecs that were written for `proxy-protocol`: is_valid, unpack and pack are enough."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxyprotocol import (
    HeaderParser,
    HeaderPolicy,
    ProxyProtocol,
    ProxyProtocolChecksumError,
    ProxyProtocolDetect,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolSyntaxError,
    ProxyProtocolV1,
    ProxyProtocolWantRead,
    ProxyResult,
    ProxyResultLocal,
    ProxyResultUnix,
    Receiver,
)
from tests.vectors import (
    IPV4_BLOCK,
    PROXY,
    TCP4,
    V2_CRC,
    VERSION_1,
    VERSION_2,
    Vector,
    checksum,
    describe,
    length,
    single_bytes,
    splits,
    v2,
)


class Lines(ProxyProtocol):
    """A header of two lines, a name and a path. The codec wants lines."""

    def is_valid(self, signature: bytes) -> bool:
        return signature.startswith(b"TWOLINES")

    def unpack(self, data: bytes) -> ProxyResult:
        name, *lines = data.split(b"\n", 2)
        if len(lines) < 2:
            raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(want_line=True))
        if name != b"TWOLINES":
            raise ValueError("Wrong\nname")
        return ProxyResultUnix(lines[0].decode(), "")

    def pack(self, result: ProxyResult) -> bytes:
        raise NotImplementedError


class Lengths(ProxyProtocol):
    """A header of a name, a byte of length and a path. The codec wants bytes, and may say a wrong number of them."""

    def __init__(self, wants: Sequence[int | None] = (None,)) -> None:
        self.wants = wants

    def is_valid(self, signature: bytes) -> bool:
        return signature == b"LENGTHS!"

    def unpack(self, data: bytes) -> ProxyResult:
        if len(data) < 9:
            raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(9 - len(data)))
        if len(data) < 9 + data[8]:
            raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(self.wants[len(data) % len(self.wants)]))
        return ProxyResultUnix(data[9 : 9 + data[8]].decode(), "")

    def pack(self, result: ProxyResult) -> bytes:
        raise NotImplementedError


class Old(ProxyProtocol):
    """Version 2 with only the three methods."""

    def is_valid(self, signature: bytes) -> bool:
        return V2_CRC.is_valid(signature)

    def unpack(self, data: bytes) -> ProxyResult:
        return V2_CRC.unpack(data)

    def pack(self, result: ProxyResult) -> bytes:
        return V2_CRC.pack(result)


TWO_LINES = b"TWOLINES\n/run/a.sock\n"
LENGTHS = b"LENGTHS!\x0b/run/a.sock"
OWN = ProxyProtocolDetect(Lines(), Lengths())


@pytest.mark.parametrize(
    ("codec", "header"), [(Lines(), TWO_LINES), (Lengths(), LENGTHS), (OWN, TWO_LINES), (OWN, LENGTHS)]
)
def test_a_custom_header_is_read_in_any_pieces(codec: ProxyProtocol, header: bytes) -> None:
    expected = ProxyResultUnix("/run/a.sock", "")
    for data in (header, header + b"x", header + header):
        for pieces in ([data], single_bytes(data), *splits(data)):
            parser = HeaderParser(codec)
            left = list(pieces)
            while parser.result is None:
                parser.feed(left.pop(0))
            assert parser.result == expected
            assert parser.trailing + b"".join(left) == data[len(header) :]


@pytest.mark.parametrize(
    ("codec", "header"), [(Lines(), TWO_LINES), (Lengths(), LENGTHS), (OWN, TWO_LINES), (OWN, LENGTHS)]
)
def test_a_caller_that_reads_only_needed_bytes_never_reads_past_a_custom_header(
    codec: ProxyProtocol, header: bytes
) -> None:
    parser, at = HeaderParser(codec), 0
    while parser.result is None:
        at, before = at + parser.needed, at
        parser.feed((header + b"more")[before:at])
    assert at == len(header)


@pytest.mark.parametrize("wants", [[None], [0], [-5], [1, None]])
def test_a_codec_that_does_not_say_how_much_it_wants_gets_at_least_one_byte(wants: list[int | None]) -> None:
    assert length(Lengths(wants).parse(LENGTHS)) == len(LENGTHS)
    assert length(Lengths(wants).parse(LENGTHS[:-1])) == len(LENGTHS)


@pytest.mark.parametrize("vector", VERSION_2, ids=str)
def test_the_three_methods_of_version_2_are_enough(vector: Vector) -> None:
    old = Old()
    assert describe(old.unpack(vector.header)) == describe(vector.result)
    for beginning, rest in splits(vector.header):
        assert length(old.parse(beginning)) == (16 if len(beginning) < 16 else len(vector.header))
        assert length(old.parse(beginning + rest + b"x")) == len(vector.header)


@pytest.mark.parametrize("error", [ValueError("Wrong\nname"), UnicodeDecodeError("ascii", b"\xff", 0, 1, "no\nASCII")])
def test_a_value_error_of_a_custom_codec_becomes_a_syntax_error_on_one_line(error: ValueError) -> None:
    class Refusing(Lines):
        def unpack(self, data: bytes) -> ProxyResult:
            raise error

    with pytest.raises(ProxyProtocolSyntaxError, match=r"^The PROXY protocol header is malformed: .*\\n") as caught:
        HeaderParser(Refusing()).feed(b"x")
    assert caught.value.__cause__ is error


def test_a_syntax_error_of_a_custom_codec_is_raised_unchanged() -> None:
    class Refusing(Lines):
        def unpack(self, data: bytes) -> ProxyResult:
            raise mine

    mine = ProxyProtocolSyntaxError("Mine", 3)
    with pytest.raises(ProxyProtocolSyntaxError) as caught:
        Refusing().parse(b"")
    assert caught.value is mine


def test_a_custom_codec_may_report_a_wrong_checksum() -> None:
    with pytest.raises(ProxyProtocolChecksumError) as caught:
        HeaderParser(Old()).feed(v2(PROXY, 0x11, IPV4_BLOCK, checksum("deadbeef")))
    assert caught.value.result.peername == TCP4.peername


def test_a_custom_header_has_the_limit_too() -> None:
    with pytest.raises(ProxyProtocolLimitError, match="longer than max_header, 100 bytes"):
        HeaderParser(Lines(), max_header=100).feed(b"TWOLINES\n" + b"x" * 92)
    with pytest.raises(ProxyProtocolLimitError):
        Old().parse(v2(PROXY, 0x11, IPV4_BLOCK), max_header=27)
    assert length(Old().parse(v2(PROXY, 0x11, IPV4_BLOCK), max_header=28)) == 28


def test_any_other_exception_of_a_custom_codec_passes_through() -> None:
    class Broken(Lines):
        def unpack(self, data: bytes) -> ProxyResult:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Broken().parse(b"")


@pytest.mark.parametrize(
    ("data", "begins"), [(b"", None), (b"TWOLINE", None), (b"GET / ", None), (TWO_LINES, True), (b"GET / HTTP", False)]
)
def test_a_connection_begins_with_a_header_by_its_first_eight_bytes(data: bytes, begins: bool | None) -> None:
    assert Lines().begins(data) is begins


def test_a_custom_header_may_be_optional() -> None:
    receiver = Receiver(ProxyProtocolDetect(Lines(), ProxyProtocolV1()), policy=HeaderPolicy.OPTIONAL)
    for data, result in ((TWO_LINES, ProxyResultUnix("/run/a.sock", "")), (b"GET / HTTP/1.1\r\n", None)):
        connection = receiver.connection(None, None)
        assert connection.feed(data)
        assert (connection.result, connection.trailing) == (result, b"" if result else data)


def test_a_codec_does_not_parse_before_it_is_known_that_a_header_comes() -> None:
    class Hasty(Lines):
        def unpack(self, data: bytes) -> ProxyResult:
            if data:
                raise ProxyProtocolSyntaxError
            raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(1))

    connection = Receiver(Hasty(), policy=HeaderPolicy.OPTIONAL).connection(None, None)
    assert not connection.feed(b"GET")
    assert connection.feed(b" / HTTP/1.1\r\n")
    assert connection.trailing == b"GET / HTTP/1.1\r\n"


def test_an_abstract_codec_cannot_be_instantiated() -> None:
    with pytest.raises(TypeError):
        ProxyProtocol()  # type: ignore[abstract]


def test_the_result_of_a_codec_may_be_local() -> None:
    class Always(Lines):
        def unpack(self, data: bytes) -> ProxyResult:
            return ProxyResultLocal()

    assert length(Always().parse(VERSION_1[0].header)) == 0
    assert Receiver(Always()).connection(None, None).begun
