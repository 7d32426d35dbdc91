"""HeaderParser: any pieces give the same answer, and a caller that reads only needed bytes never reads too far."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator

import pytest

from proxyprotocol import (
    HeaderParser,
    ProxyProtocol,
    ProxyProtocolChecksumError,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolMissingError,
    ProxyProtocolSyntaxError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
)
from tests.vectors import (
    IPV4_BLOCK,
    PROXY,
    SIGNATURE,
    TCP4,
    V1,
    V2,
    VECTORS,
    VERSION_1,
    VERSION_2,
    Vector,
    checksum,
    describe,
    single_bytes,
    splits,
    tlv,
    v2,
)
from tests.vectors import checksum as crc

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
BINARY = v2(PROXY, 0x11, IPV4_BLOCK)
WRONG_CHECKSUM = v2(PROXY, 0x11, IPV4_BLOCK, checksum("deadbeef"))


def feed(
    pieces: Iterable[bytes], codec: ProxyProtocol | None = None, max_header: int = 4096
) -> tuple[ProxyResult | None, bytes]:
    """Feed pieces until there is a result. Return it, and every byte after the header."""
    parser, left = HeaderParser(codec, max_header=max_header), iter(pieces)
    for piece in left:
        if parser.feed(piece) is not None:
            break
    return parser.result, parser.trailing + b"".join(left)


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_header_gives_the_same_result_in_any_two_pieces_and_in_single_bytes(vector: Vector) -> None:
    expected = describe(vector.result)
    for codec in (None, vector.codec):
        for pieces in ([vector.header], single_bytes(vector.header), *splits(vector.header)):
            result, trailing = feed(pieces, codec)
            assert result is not None
            assert (describe(result), trailing) == (expected, b"")


@pytest.mark.parametrize("vector", VECTORS, ids=str)
@pytest.mark.parametrize("follower", [b"\n", b"GET / HTTP/1.1\r\n\r\n", LINE, BINARY, tlv(4) * 3, b"\0" * 5000])
def test_bytes_after_a_header_are_left_unchanged(vector: Vector, follower: bytes) -> None:
    data = vector.header + follower
    for pieces in ([data], single_bytes(data), *([data[:at], data[at:]] for at in range(0, len(data), 7))):
        result, trailing = feed(pieces)
        assert result is not None
        assert (describe(result), trailing) == (describe(vector.result), follower)


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_header_may_follow_itself(vector: Vector) -> None:
    for pieces in ([vector.header * 2], *splits(vector.header * 2)):
        result, trailing = feed(pieces)
        assert result is not None
        assert (describe(result), trailing) == (describe(vector.result), vector.header)


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_every_beginning_of_a_header_is_incomplete(vector: Vector) -> None:
    for beginning, rest in splits(vector.header):
        if rest:
            parser = HeaderParser()
            assert parser.feed(beginning) is None
            assert (parser.result, parser.trailing) == (None, b"")
            expected = ProxyProtocolIncompleteError if beginning else ProxyProtocolMissingError
            with pytest.raises(expected):
                parser.eof()


def read_exactly(header: bytes, codec: ProxyProtocol | None = None, max_header: int = 65551) -> int:
    """Read only needed bytes until there is a result. Return the number of reads."""
    parser = HeaderParser(codec, max_header=max_header)
    at = 0
    for reads in itertools.count():
        if parser.result is not None:
            assert (parser.needed, parser.trailing, at) == (0, b"", len(header))
            return reads
        assert parser.needed > 0
        at, before = at + parser.needed, at
        parser.feed((header + b"more, as from a socket")[before:at])
    raise AssertionError


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_caller_that_reads_only_needed_bytes_never_reads_past_the_header(vector: Vector) -> None:
    for codec in (None, vector.codec):
        reads = read_exactly(vector.header, codec)
        if vector.codec is not V1:
            assert reads <= 3


def random_lines() -> Iterator[bytes]:
    """Return lines as senders write them, with long and with short addresses."""
    numbers = random.Random(1)
    for _ in range(3000):
        groups = [numbers.choice([0, 1, 0xFFFF, numbers.getrandbits(16)]) for _ in range(8)]
        block = b"".join(group.to_bytes(2, "big") for group in groups)
        if numbers.random() < 0.5:
            block = numbers.choice([bytes(10) + b"\xff\xff", b"\xff" * 12]) + block[12:]
        dest, ports = numbers.randbytes(16), numbers.choice([b"\0\0\0\0", numbers.randbytes(4), b"\xff" * 4])
        yield V1.pack(V2.unpack(v2(PROXY, 0x21, block, dest, ports)))
        yield V1.pack(V2.unpack(v2(PROXY, 0x11, block[:4], dest[:4], ports)))


def test_a_line_takes_few_reads() -> None:
    reads: dict[type[ProxyResult], int] = {ProxyResultIPv4: 0, ProxyResultIPv6: 0}
    for line in random_lines():
        kind = type(V1.unpack(line))
        reads[kind] = max(reads[kind], read_exactly(line))
    assert reads[ProxyResultIPv4] <= 7
    assert reads[ProxyResultIPv6] <= 15


def test_an_unknown_line_takes_one_read_for_two_bytes_if_its_rest_has_no_cr() -> None:
    # the rest may be anything, so CRLF may come next at any time
    for length in range(92):
        assert read_exactly(b"PROXY UNKNOWN " + b"x" * length + b"\r\n") <= 2 + length / 2
    assert read_exactly(b"PROXY UNKNOWN\r\n") == 1


@pytest.mark.parametrize(
    ("codec", "begin", "needed"),
    [
        (None, b"", 15),
        (None, b"P", 14),
        (None, b"\r", 15),
        (ProxyProtocolV1(), b"", 15),
        (ProxyProtocolV2(), b"", 16),
        (ProxyProtocolV2(), BINARY[:16], 12),
        (ProxyProtocolV1(), b"PROXY TCP4", 22),
        (ProxyProtocolV1(), b"PROXY TCP6", 12),
        (ProxyProtocolV1(), b"PROXY T", 15),
        (ProxyProtocolV1(), b"PROXY TCP4 192", 2 * 3 + 8 + 2 + 2 + 2),
        (ProxyProtocolV1(), b"PROXY TCP4 192.", 5 + 8 + 2 + 2 + 2),
        (ProxyProtocolV1(), LINE[:-3], 2),
        (ProxyProtocolV1(), LINE[:-1], 1),
        (ProxyProtocolV1(), b"PROXY UNKNOWN\r", 1),
        (ProxyProtocolV1(), b"PROXY UNKNOWN \r", 1),
        (ProxyProtocolV1(), b"PROXY UNKNOWN \r\r", 1),
        (ProxyProtocolV1(), b"PROXY UNKNOWN \r ", 2),
    ],
)
def test_at_least_so_many_bytes_are_missing(codec: ProxyProtocol | None, begin: bytes, needed: int) -> None:
    parser = HeaderParser(codec)
    if begin:
        parser.feed(begin)
    assert parser.needed == needed


def test_feeding_nothing_changes_nothing() -> None:
    parser = HeaderParser()
    assert (parser.feed(b""), parser.needed) == (None, 15)
    assert (parser.feed(LINE[:7]), parser.feed(b""), parser.feed(b"")) == (None, None, None)
    assert parser.feed(LINE[7:]) == TCP4


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object_is_accepted_and_not_kept(kind: type[bytes]) -> None:
    for size in (1, 20, 200):
        parser = HeaderParser()
        for at in range(0, len(LINE + BINARY), size):
            piece = bytearray((LINE + BINARY)[at : at + size])
            parser.feed(kind(piece))
            piece[:] = bytes(len(piece))
            if parser.result is not None:
                break
        assert parser.result == TCP4
        assert isinstance(parser.trailing, bytes)


def test_feeding_after_a_result_is_an_error_of_the_caller() -> None:
    parser = HeaderParser()
    parser.feed(LINE + b"x")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="give the bytes that follow it to the application"):
            parser.feed(b"y")
    parser.eof()
    assert (parser.trailing, parser.result, parser.needed) == (b"x", TCP4, 0)


@pytest.mark.parametrize("data", [b"GET /", LINE[:-2] + b"\n", v2(0x22, 0x11, IPV4_BLOCK), WRONG_CHECKSUM])
def test_after_an_error_every_call_raises_it_again(data: bytes) -> None:
    parser = HeaderParser()
    with pytest.raises(ProxyProtocolError) as first:
        parser.feed(data)
    for again in (LINE, b""):
        with pytest.raises(ProxyProtocolError) as caught:
            parser.feed(again)
        assert caught.value is first.value
    with pytest.raises(ProxyProtocolError) as caught:
        parser.eof()
    assert caught.value is first.value
    assert (parser.result, parser.trailing, parser.needed) == (None, b"", 0)


def test_after_the_end_every_call_raises_the_same_error() -> None:
    for begin, expected in ((b"", ProxyProtocolMissingError), (LINE[:5], ProxyProtocolIncompleteError)):
        parser = HeaderParser()
        parser.feed(begin)
        for _ in range(2):
            with pytest.raises(expected):
                parser.eof()
        with pytest.raises(expected):
            parser.feed(LINE)


def test_an_end_inside_a_header_says_how_much_is_missing() -> None:
    parser = HeaderParser()
    parser.feed(BINARY[:20])
    with pytest.raises(ProxyProtocolIncompleteError) as caught:
        parser.eof()
    assert caught.value.want_read.want_bytes == 8


def test_the_limit_counts_the_fixed_part_of_a_version_2_header() -> None:
    header = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0xE0, bytes(100)))
    assert HeaderParser(max_header=len(header)).feed(header) is not None
    for pieces in ([header], [header[:16]], single_bytes(header[:16])):
        with pytest.raises(ProxyProtocolLimitError):
            feed(pieces, max_header=len(header) - 1)


def test_the_default_limit_is_4096_bytes() -> None:
    for size, allowed in ((4096, True), (4097, False)):
        header = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0xE0, bytes(size - 31)))
        assert len(header) == size
        if allowed:
            assert HeaderParser().feed(header) is not None
        else:
            with pytest.raises(ProxyProtocolLimitError):
                HeaderParser().feed(header[:16])


def test_a_limit_below_every_header_is_an_error() -> None:
    assert HeaderParser(max_header=16).feed(v2(0x20, 0x00)) is not None
    with pytest.raises(ValueError, match="not 15"):
        HeaderParser(max_header=15)


def test_a_header_that_claims_64_kib_is_rejected_at_16_bytes_and_reserves_nothing() -> None:
    parser = HeaderParser()
    assert parser.feed(SIGNATURE + b"\x21\x11\xff") is None
    with pytest.raises(ProxyProtocolLimitError):
        parser.feed(b"\xff")


@pytest.mark.parametrize("vector", [VERSION_1[0], VERSION_2[0]], ids=str)
def test_a_version_that_the_codec_does_not_read_is_rejected_at_its_first_byte(vector: Vector) -> None:
    other: ProxyProtocol = V2 if vector.codec is V1 else V1
    with pytest.raises(ProxyProtocolSyntaxError):
        HeaderParser(other).feed(vector.header[:1])


def test_a_wrong_checksum_is_reported_at_the_last_byte() -> None:
    parser = HeaderParser()
    assert parser.feed(WRONG_CHECKSUM[:-1]) is None
    with pytest.raises(ProxyProtocolChecksumError) as caught:
        parser.feed(WRONG_CHECKSUM[-1:])
    assert bytes(caught.value.result.tlv) == crc("deadbeef")


LONG = b"1111:2222:3333:4444:5555:6666:111.111.111.111"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"PROXY TCP6 %b %b 1 2\r\n" % (LONG, LONG), id="two addresses without room for ports"),
        pytest.param(b"PROXY TCP6 %b %b" % (LONG, LONG[:-1] + b"x"), id="wrong where there is just room left"),
        pytest.param(b"PROXY TCP6 %b %b x\r\n" % (LONG, LONG), id="wrong where there is no room left"),
        pytest.param(b"PROXY TCP6 %b %b 1 2 3\r\n" % (LONG, LONG[:-2]), id="a fifth field at the end"),
        pytest.param(b"PROXY UNKNOWN ".ljust(120, b"x") + b"\r\n", id="UNKNOWN"),
        pytest.param(b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n", id="UNKNOWN, one byte too long"),
        pytest.param(SIGNATURE + b"\x21\x11\xff\xff" + bytes(9000), id="version 2 over the limit"),
        pytest.param(v2(0x2F, 0xFF, bytes(5)), id="everything wrong"),
    ],
)
def test_a_wrong_header_gives_the_same_kind_of_error_in_any_pieces(data: bytes) -> None:
    kinds = set()
    for pieces in ([data], single_bytes(data), *splits(data)):
        with pytest.raises(ProxyProtocolError) as caught:
            feed(pieces)
        kinds.add(type(caught.value))
    assert len(kinds) == 1
