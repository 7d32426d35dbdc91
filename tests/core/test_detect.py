"""Detect reads either version."""

from __future__ import annotations

import pytest

from proxyprotocol import (
    HeaderParser,
    ProxyProtocol,
    ProxyProtocolDetect,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolSyntaxError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultLocal,
    ProxyResultUnix,
)
from proxyprotocol.tlv import ProxyProtocolTLV
from tests.vectors import (
    IPV4,
    SIGNATURE,
    TCP4,
    V1,
    V2,
    V2_CRC,
    VECTORS,
    VERSION_1,
    VERSION_2,
    Vector,
    describe,
    length,
    splits,
)

DETECT = ProxyProtocolDetect()
# the same versions, but tried one after the other
NAMED = ProxyProtocolDetect(ProxyProtocolV2(), ProxyProtocolV1(), ProxyProtocolV1())
UNIX = ProxyResultUnix("/a", "/b")


class Whisper(ProxyProtocol):
    """A custom codec as for `proxy-protocol`: a name, then one byte of length."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def is_valid(self, signature: bytes) -> bool:
        self.asked.append(signature)
        return signature.startswith(b"WHISPER!")

    def unpack(self, data: bytes) -> ProxyResult:
        return ProxyResultLocal()

    def pack(self, result: ProxyResult) -> bytes:
        return b"WHISPER!"


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_either_version_is_unpacked(vector: Vector) -> None:
    for codec in (DETECT, NAMED):
        assert describe(codec.unpack(vector.header + b"x")) == describe(vector.result)
        assert length(codec.parse(vector.header)) == len(vector.header)
        assert describe(HeaderParser(codec).feed(vector.header)) == describe(vector.result)  # type: ignore[arg-type]
        assert codec.is_valid(vector.header[:8])


@pytest.mark.parametrize("vector", VECTORS, ids=str)
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_bytes_like_object_is_accepted(vector: Vector, kind: type[bytes]) -> None:
    for codec in (DETECT, NAMED, vector.codec):
        assert describe(codec.unpack(kind(vector.header + b"x"))) == describe(vector.result)


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_unpack_wants_8_bytes_first_and_then_what_the_version_wants(vector: Vector) -> None:
    for codec in (DETECT, NAMED):
        for beginning, rest in splits(vector.header):
            if rest:
                with pytest.raises(ProxyProtocolIncompleteError) as caught:
                    codec.unpack(beginning)
                want = caught.value.want_read
                if len(beginning) < 8:
                    assert (want.want_bytes, want.want_line) == (8 - len(beginning), False)
                elif vector.codec is V1:
                    assert want.want_line
                else:
                    assert want.want_bytes == (16 - len(beginning) if len(beginning) < 16 else len(rest))


def test_version_2_is_written_unless_another_comes_first() -> None:
    assert DETECT.pack(TCP4) == V2_CRC.pack(TCP4)
    assert ProxyProtocolDetect(V1, V2).pack(TCP4) == V1.pack(TCP4)


TOO_LONG = ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(unique_id=bytes(129)))


@pytest.mark.parametrize(
    ("versions", "result", "header"),
    [
        pytest.param([V1, V2], ProxyResultLocal(), V2.pack(ProxyResultLocal()), id="ValueError: LOCAL"),
        pytest.param([V1, V2], UNIX, V2.pack(UNIX), id="KeyError: UNIX sockets"),
        pytest.param([V1, V1, V2], UNIX, V2.pack(UNIX), id="the third"),
        pytest.param([V2, V1], TOO_LONG, V1.pack(TOO_LONG), id="ValueError: a TLV that does not fit"),
        pytest.param([], TOO_LONG, V1.pack(TOO_LONG), id="the default"),
    ],
)
def test_the_first_version_that_can_express_a_result_is_written(
    versions: list[ProxyProtocol], result: ProxyResult, header: bytes
) -> None:
    assert ProxyProtocolDetect(*versions).pack(result) == header


def test_a_result_that_no_version_can_express_is_a_value_error_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"None of the versions can express this result: .*LOCAL"):
        ProxyProtocolDetect(V1, V1).pack(ProxyResultLocal())
    with pytest.raises(ValueError, match=r"None of the versions can express this result: .*UNIX"):
        ProxyProtocolDetect(V1).pack(UNIX)


def test_one_byte_distinguishes_the_two_versions_in_any_order() -> None:
    for codec in (ProxyProtocolDetect(V2, V1), ProxyProtocolDetect(V1, V2)):
        assert codec.parse(b"") == 15
        with pytest.raises(ProxyProtocolSyntaxError, match="no PROXY protocol header"):
            codec.parse(b"G")


def test_the_versions_are_public() -> None:
    assert [type(version) for version in DETECT.versions] == [ProxyProtocolV2, ProxyProtocolV1]
    assert list(ProxyProtocolDetect(V1).versions) == [V1]


def test_the_first_version_that_recognises_the_signature_is_chosen() -> None:
    assert ProxyProtocolDetect(V2, V2_CRC, V1).choose_version(SIGNATURE[:8]) is V2
    assert ProxyProtocolDetect(V2, V2_CRC, V1).choose_version(b"PROXY UN") is V1
    with pytest.raises(ProxyProtocolSyntaxError, match="No version of the PROXY protocol begins with b'GET / HT'"):
        DETECT.choose_version(b"GET / HT")


@pytest.mark.parametrize("data", [b"G", b"\n", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"\0"])
def test_the_first_byte_that_belongs_to_no_version_is_rejected(data: bytes) -> None:
    for call in (DETECT.unpack, DETECT.parse):
        with pytest.raises(ProxyProtocolSyntaxError) as caught:
            call(data)
        assert caught.value.offset == 0


@pytest.mark.parametrize("data", [b"PRX", b"PROXYX", b"\rx", b"\r\n\r\n\r", b"PROXY T\r"])
def test_a_later_byte_that_belongs_to_no_version_is_rejected_too(data: bytes) -> None:
    for call in (DETECT.unpack, DETECT.parse):
        with pytest.raises(ProxyProtocolSyntaxError):
            call(data)


def test_a_version_that_was_not_named_is_rejected() -> None:
    for number, codec, vector in (
        (2, ProxyProtocolDetect(V1), VERSION_2[0]),
        (1, ProxyProtocolDetect(V2), VERSION_1[0]),
    ):
        for call in (codec.unpack, codec.parse):
            with pytest.raises(ProxyProtocolSyntaxError, match=f"A version {number} header came, which"):
                call(vector.header)
            with pytest.raises(ProxyProtocolSyntaxError, match="No version"):
                call(b"GET / HTTP/1.1\r\n\r\n")


def test_the_limit_is_that_of_version_2() -> None:
    with pytest.raises(ProxyProtocolLimitError):
        DETECT.parse(SIGNATURE + b"\x21\x11\x01\x00", max_header=100)
    assert length(DETECT.parse(b"PROXY UNKNOWN ".ljust(100), max_header=16)) == 102


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (b"", None),
        (b"P", None),
        (b"\r\n\r", None),
        (b"PROXY ", True),
        (SIGNATURE, True),
        (b"PROXYX", False),
        (b"\r\n\r\n\r", False),
        (b"\rP", False),
        (b"GET", False),
    ],
)
def test_a_connection_begins_with_a_header_when_a_whole_signature_is_there(data: bytes, begins: bool | None) -> None:
    assert DETECT.begins(data) is begins
    assert NAMED.begins(data) is begins


def test_a_custom_codec_gets_the_first_8_bytes() -> None:
    whisper = Whisper()
    codec = ProxyProtocolDetect(V2, whisper)
    assert length(codec.parse(b"WHISPER")) == 8
    assert whisper.asked == []
    assert codec.parse(b"WHISPER!?") == (ProxyResultLocal(), 0)
    assert whisper.asked == [b"WHISPER!"]
    assert codec.unpack(b"WHISPER!") == ProxyResultLocal()
    assert codec.is_valid(b"WHISPER!")
    assert codec.begins(b"WHISPER!") is True
    assert codec.begins(b"WHIMPER!") is False


def test_data_too_short_for_a_signature_is_incomplete() -> None:
    with pytest.raises(ProxyProtocolIncompleteError):
        NAMED.unpack(b"PROXY")
