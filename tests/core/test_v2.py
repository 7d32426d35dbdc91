"""Version 2: the binary format, strictly as in section 2.2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from socket import SOCK_DGRAM, SOCK_RAW, SOCK_STREAM

import pytest

from proxyprotocol import (
    HeaderParser,
    ProxyProtocolChecksumError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolSyntaxError,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultType,
    ProxyResultUnix,
    ProxyResultUnknown,
    checksum,
)
from proxyprotocol.tlv import ProxyProtocolTLV, Type
from tests.vectors import (
    IPV4,
    IPV4_BLOCK,
    IPV6,
    LOCAL,
    PROXY,
    SIGNATURE,
    TCP4,
    V2,
    V2_CRC,
    VERSION_1,
    VERSION_2,
    Vector,
    describe,
    length,
    paths,
    splits,
    tlv,
    v2,
)
from tests.vectors import checksum as crc

WITH_CRC = next(vector for vector in VERSION_2 if vector.name == "CRC32C alone").header


def header_of(*body: bytes) -> bytes:
    return v2(PROXY, 0x11, IPV4_BLOCK, *body)


def test_the_table_has_every_kind_of_result_and_every_registered_type() -> None:
    results = [vector.result for vector in VERSION_2]
    assert {result.type for result in results} == set(ProxyResultType)
    assert {result.protocol for result in results} == {None, SOCK_STREAM, SOCK_DGRAM}
    types = {kind for result in results for tlv in (result.tlv, result.tlv.ssl) for kind in tlv}
    bounds = {name for name in Type.__members__ if "_MIN_" in name or "_MAX_" in name}
    assert {int(kind) for name, kind in Type.__members__.items() if name not in bounds} <= types


@pytest.mark.parametrize("vector", [vector for vector in VERSION_2 if vector.written], ids=str)
def test_a_result_is_packed_into_its_header(vector: Vector) -> None:
    assert vector.codec.pack(vector.result) == vector.header


@pytest.mark.parametrize("vector", VERSION_2, ids=str)
def test_a_header_is_unpacked_into_its_result(vector: Vector) -> None:
    assert describe(vector.codec.unpack(vector.header)) == describe(vector.result)


@pytest.mark.parametrize("vector", VERSION_2, ids=str)
def test_what_follows_a_header_is_ignored(vector: Vector) -> None:
    for follower in (b"\0", b"EHLO\r\n", tlv(0x04), vector.header, VERSION_1[0].header, bytes(5000)):
        assert describe(vector.codec.unpack(vector.header + follower)) == describe(vector.result)


@pytest.mark.parametrize("vector", VERSION_2, ids=str)
def test_a_beginning_of_a_header_wants_the_fixed_part_and_then_the_rest(vector: Vector) -> None:
    for beginning, rest in splits(vector.header):
        if rest:
            with pytest.raises(ProxyProtocolIncompleteError) as caught:
                vector.codec.unpack(beginning)
            expected = 16 - len(beginning) if len(beginning) < 16 else len(rest)
            assert (caught.value.want_read.want_bytes, caught.value.want_read.want_line) == (expected, False)


@pytest.mark.parametrize("at", range(12))
def test_a_wrong_byte_of_the_signature_is_rejected_when_it_arrives(at: int) -> None:
    wrong = SIGNATURE[:at] + bytes((SIGNATURE[at] ^ 0x20,))
    for data in (wrong, wrong + WITH_CRC[at + 1 :]):
        with pytest.raises(ProxyProtocolSyntaxError, match="no PROXY protocol header") as caught:
            V2.unpack(data)
        assert caught.value.offset == at


def accepted(accepts: Callable[[int], bytes]) -> set[int]:
    """Return which values of a byte are accepted, in a header up to that byte and in a whole one."""
    values = set()
    for value in range(256):
        header = accepts(value)
        try:
            V2.unpack(header)
        except ProxyProtocolSyntaxError:
            with pytest.raises(ProxyProtocolSyntaxError):
                V2.parse(header[: 13 if header[12] not in (LOCAL, PROXY) else 14])
        else:
            values.add(value)
    return values


def test_the_version_is_2_and_the_command_is_0_or_1() -> None:
    assert accepted(lambda value: v2(value, 0x11, IPV4_BLOCK)) == {0x20, 0x21}


def test_the_family_is_0_to_3_and_the_protocol_0_to_2() -> None:
    expected = {0x00, 0x01, 0x02, 0x10, 0x11, 0x12, 0x20, 0x21, 0x22, 0x30, 0x31, 0x32}
    assert accepted(lambda value: v2(PROXY, value, bytes(216))) == expected


def test_local_is_accepted_whatever_its_family_byte() -> None:
    assert accepted(lambda value: v2(LOCAL, value, b"anything")) == set(range(256))


@pytest.mark.parametrize(
    ("command", "family", "sentence"),
    [
        (0x11, 0x11, "The version of a binary header is 2, not 1 (at byte 12)"),
        (0x22, 0x11, "The command is LOCAL (0) or PROXY (1), not 2 (at byte 12)"),
        (0x21, 0x41, "The address family is one of 0 to 3, not 4 (at byte 13)"),
        (0x21, 0x13, "The transport protocol is one of 0 to 2, not 3 (at byte 13)"),
    ],
)
def test_the_error_for_a_wrong_fixed_part_names_the_wrong_field(command: int, family: int, sentence: str) -> None:
    header = v2(command, family, IPV4_BLOCK)
    for data in (header, header[:14], header[:15]):
        with pytest.raises(ProxyProtocolSyntaxError) as caught:
            V2.parse(data)
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("family", "least"), [(0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216), (0x32, 216)]
)
def test_a_length_too_short_for_the_family_is_rejected_before_the_body_arrives(family: int, least: int) -> None:
    for short in (0, 1, least - 1):
        with pytest.raises(ProxyProtocolSyntaxError, match=rf"take {least} bytes .* is {short} \(at byte 14\)"):
            V2.parse(SIGNATURE + bytes((PROXY, family, 0, short)))
    assert length(V2.parse(SIGNATURE + bytes((PROXY, family, 0, least)))) == 16 + least


def test_a_header_over_the_limit_is_rejected_as_soon_as_its_length_arrives() -> None:
    fixed = SIGNATURE + b"\x21\x11\x10\x00"
    assert length(V2.parse(fixed, max_header=4112)) == 4112
    assert length(V2.parse(fixed[:15], max_header=16)) == 16
    with pytest.raises(ProxyProtocolLimitError) as caught:
        V2.parse(fixed, max_header=4111)
    assert str(caught.value) == "The header has 4112 bytes where max_header allows 4111 (at byte 14)"


def test_unpack_has_only_the_limit_of_the_length_field() -> None:
    body = tlv(0xE0, bytes(0xFFFF - 12 - 3))
    assert V2.unpack(header_of(body)).tlv.size == len(body)


@pytest.mark.parametrize(
    ("vectors", "offset", "sentence"),
    [
        (b"\x01", 28, "The header ends inside a TLV: 1 bytes are left over"),
        (tlv(1, b"h2") + b"\0\0", 33, "The header ends inside a TLV: 2 bytes are left over"),
        (tlv(1, b"h2") + b"\x02\0\1", 33, "A TLV of type 0x02 claims 1 bytes where 0 are left"),
        (b"\x02\xff\xffx", 28, "A TLV of type 0x02 claims 65535 bytes where 1 are left"),
        (tlv(3), 28, "The CRC32C has 0 bytes instead of 4"),
        (tlv(3, bytes(5)), 28, "The CRC32C has 5 bytes instead of 4"),
        (tlv(3, bytes(4)) + tlv(1) + tlv(3, bytes(4)), 38, "The header has a second CRC32C"),
        (tlv(5, bytes(129)), 28, "The UNIQUE_ID has 129 bytes, more than 128"),
        (tlv(1) + tlv(0x20), 31, "The SSL TLV has 0 bytes, fewer than 5"),
        (tlv(0x20, bytes(4)), 28, "The SSL TLV has 4 bytes, fewer than 5"),
        (tlv(0x20, bytes(5) + b"\x21"), 36, "The header ends inside a TLV: 1 bytes are left over"),
        (tlv(0x20, bytes(5) + b"\x21\0\1") + tlv(1), 36, "A TLV of type 0x21 claims 1 bytes where 0 are left"),
    ],
)
def test_a_wrong_tlv_is_rejected_with_its_offset(vectors: bytes, offset: int, sentence: str) -> None:
    with pytest.raises(ProxyProtocolSyntaxError) as caught:
        V2.unpack(header_of(vectors))
    assert (caught.value.offset, caught.value.reason) == (offset, sentence)


def test_tlvs_are_checked_once_the_header_is_complete() -> None:
    header = header_of(tlv(3))
    assert length(V2.parse(header[:-1])) == len(header)


def test_an_ssl_inside_an_ssl_is_not_followed() -> None:
    nested = b""
    while len(nested) < 60_000:
        nested = tlv(0x20, bytes(5) + nested)
    assert V2.unpack(header_of(nested)).tlv.ssl[0x20] == nested[8 + 3 :]


# the omitted vector ends in zeros, which are clean TLVs after its address block
CHECKED = [vector for vector in VERSION_2 if vector.codec is V2_CRC and not vector.name.endswith("as AWS writes it")]


@pytest.mark.parametrize("vector", CHECKED, ids=str)
def test_a_checksum_is_verified_over_the_bytes_as_they_came(vector: Vector) -> None:
    at = vector.header.index(b"\x03\0\4") + 3
    header = vector.header[:at] + bytes(4) + vector.header[at + 4 :]
    with pytest.raises(ProxyProtocolChecksumError) as caught:
        V2.unpack(header)
    assert caught.value.result.tlv.crc32c == 0
    assert caught.value.result.peername == vector.result.peername


def test_every_flipped_bit_of_addresses_and_checksum_is_noticed() -> None:
    for at in (*range(16, 28), *range(31, 35)):
        for bit in range(8):
            flipped = bytearray(WITH_CRC)
            flipped[at] ^= 1 << bit
            with pytest.raises(ProxyProtocolChecksumError):
                V2.unpack(bytes(flipped))


def test_a_checksum_is_verified_without_the_crc32c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crc32c", None)
    monkeypatch.setattr(checksum, "_implementation", None)
    assert describe(V2.unpack(WITH_CRC))[:-1] == describe(TCP4)[:-1]
    assert V2_CRC.pack(TCP4) == WITH_CRC
    with pytest.raises(ProxyProtocolChecksumError):
        V2.unpack(WITH_CRC[:-1] + b"?")


RIGHT_CRC = crc("3734f59c") + tlv(4, bytes(8))  # right if it comes directly after LOCAL, TCP4
RIGHT_SHORT = crc("b760aaa9") + tlv(4, bytes(2))
TLVS = tlv(5, b"id-1") + tlv(4)
BOTH_WAYS = tlv(4, bytes(9) + crc("deadbeef"))


@pytest.mark.parametrize(
    ("family", "body", "vectors"),
    [
        pytest.param(0x00, b"", b"", id="nothing"),
        pytest.param(0x00, TLVS, TLVS, id="no family: TLVs"),
        pytest.param(0x00, b"\x05\0\xff", b"", id="no family: TLVs that are malformed"),
        pytest.param(0x11, IPV4_BLOCK, b"", id="just the block"),
        pytest.param(0x11, tlv(4, bytes(9)), b"", id="just the block's size, and TLVs"),
        pytest.param(0x11, RIGHT_CRC, RIGHT_CRC, id="TLVs with a right checksum"),
        pytest.param(0x11, IPV4_BLOCK + TLVS, TLVS, id="block and TLVs"),
        pytest.param(0x11, tlv(4, bytes(9)) + TLVS, TLVS, id="block and TLVs, the block clean TLVs too"),
        pytest.param(0x11, TLVS, TLVS, id="TLVs in the place of the block"),
        pytest.param(0x21, TLVS, TLVS, id="TLVs shorter than the block"),
        pytest.param(0x11, tlv(4, b"\xff" * 12), tlv(4, b"\xff" * 12), id="TLVs longer than the block"),
        pytest.param(0x11, crc("deadbeef") + tlv(4, bytes(2)), b"", id="just the block's size, like a wrong checksum"),
        pytest.param(0x11, RIGHT_SHORT, RIGHT_SHORT, id="just the block's size, and a right checksum"),
        pytest.param(0x11, IPV4_BLOCK + crc("deadbeef") + b"\xff", b"", id="a wrong checksum, and a rest"),
        pytest.param(0x11, crc("deadbeef") + tlv(4, bytes(2)) + TLVS, TLVS, id="block like a wrong checksum, TLVs"),
        pytest.param(0x11, BOTH_WAYS, BOTH_WAYS, id="TLVs whose end looks like a wrong checksum after a block"),
        pytest.param(0x11, IPV4_BLOCK + b"\xff", b"", id="block and a rest"),
        pytest.param(0x31, b"/run/a.sock", b"", id="a path that is cut"),
        pytest.param(0x44, TLVS, TLVS, id="an unknown family"),
        pytest.param(0x44, b"\xff\xff\xff", b"", id="an unknown family, and no TLVs"),
        pytest.param(0x44, crc("deadbeef"), b"", id="an unknown family, which looks like a wrong checksum"),
        pytest.param(0x21, bytes(12) + TLVS, bytes(12) + TLVS, id="a block of the wrong size that is clean"),
    ],
)
def test_local_is_accepted_and_its_tlvs_are_found(family: int, body: bytes, vectors: bytes) -> None:
    result = V2.unpack(v2(LOCAL, family, body))
    assert (type(result), result.source, result.dest) == (ProxyResultLocal, None, None)
    assert bytes(result.tlv) == vectors
    if family < 0x40 and body not in (RIGHT_CRC, RIGHT_SHORT):
        unspec = V2.unpack(v2(PROXY, family & 0xF0, body))
        assert (type(unspec), unspec.source, bytes(unspec.tlv)) == (ProxyResultUnknown, None, vectors)


@pytest.mark.parametrize("command", [LOCAL, PROXY])
@pytest.mark.parametrize(
    ("family", "body", "vectors"),
    [
        pytest.param(0x00, TLVS, TLVS, id="no family: TLVs"),
        pytest.param(0x10, b"", b"", id="TLVs shorter than the block"),
        pytest.param(0x10, IPV4_BLOCK + TLVS, TLVS, id="block and TLVs"),
        pytest.param(0x10, tlv(4, bytes(9)), b"", id="block and TLVs, the block clean TLVs too"),
        pytest.param(0x20, TLVS, TLVS, id="TLVs in the place of the block"),
        pytest.param(0x30, bytes(216), b"", id="two paths and TLVs"),
    ],
)
def test_a_wrong_checksum_is_rejected_if_no_other_reading_is_clean(
    command: int, family: int, body: bytes, vectors: bytes
) -> None:
    with pytest.raises(ProxyProtocolChecksumError) as caught:
        V2.unpack(v2(command, family, body, crc("deadbeef")))
    assert type(caught.value.result) is (ProxyResultLocal if command == LOCAL else ProxyResultUnknown)
    assert bytes(caught.value.result.tlv) == vectors + crc("deadbeef")


@pytest.mark.parametrize("header", [b"\x20\x11", b"\x21\x10"])
@pytest.mark.parametrize("size", [1, 7, 35])
def test_a_wrong_checksum_is_rejected_in_any_pieces(header: bytes, size: int) -> None:
    data = SIGNATURE + header + b"\0\x13" + IPV4_BLOCK + crc("deadbeef")
    parser = HeaderParser()
    *first, last = (data[at : at + size] for at in range(0, len(data), size))
    for piece in first:
        assert parser.feed(piece) is None
    with pytest.raises(ProxyProtocolChecksumError):
        parser.feed(last)


@pytest.mark.parametrize(
    ("field", "path"),
    [
        (b"", ""),
        (b"/a\0b", "/a"),
        (b"relative", "relative"),
        (b"/" * 108, "/" * 108),
        (b"\0abs", "\0abs"),
        (b"\0a\0b", "\0a\0b"),
        (b"\0" + b"x" * 107, "\0" + "x" * 107),
        (b"/\xff\xc3\xa9", "/\udcffé"),
    ],
)
def test_a_unix_path_ends_at_its_first_nul_unless_it_is_abstract(field: bytes, path: str) -> None:
    result = V2.unpack(v2(PROXY, 0x31, paths(field, b"/b")))
    assert (result.source, result.dest) == (path, "/b")
    assert V2.unpack(V2.pack(result)) == result


@pytest.mark.parametrize("path", ["/" * 109, "\0" + "x" * 108, "é" * 55])
def test_a_path_over_108_bytes_is_never_cut(path: str) -> None:
    for result in (ProxyResultUnix(path, ""), ProxyResultUnix("", path)):
        with pytest.raises(ValueError, match=r"(109|110) bytes does not fit in a header, 108 are the most"):
            V2.pack(result)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), (3,)),
        ((1, 2), (1, 2, 3)),
        ((4,), (3, 4)),
        ((1, 5, 2), (1, 3, 5, 2)),
        ((3, 1, 2), (3, 1, 2)),
        ((5, 3, 1), (5, 3, 1)),
        ((0x20, 5, 3), (0x20, 5, 3)),
    ],
)
def test_the_checksum_goes_where_one_stood_or_before_the_first_greater_type(
    before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    values = {3: b"old!", 0x20: bytes(5)}
    result = ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(b"".join(tlv(kind, values.get(kind, b"")) for kind in before)))
    wire = bytes(V2.unpack(V2_CRC.pack(result)).tlv)
    assert types_on_the_wire(wire) == after


def types_on_the_wire(wire: bytes) -> tuple[int, ...]:
    at, types = 0, []
    while at < len(wire):
        types.append(wire[at])
        at += 3 + int.from_bytes(wire[at + 1 : at + 3], "big")
    return tuple(types)


def test_without_a_checksum_one_that_came_with_the_result_is_dropped() -> None:
    result = V2.unpack(WITH_CRC)
    assert V2.pack(result) == header_of()
    assert ProxyProtocolV2(checksum=False).pack(result) == header_of()
    assert ProxyProtocolV2().pack(result) == WITH_CRC


def test_local_without_tlvs_is_sent_without_a_length() -> None:
    assert V2_CRC.pack(ProxyResultLocal()) == v2(LOCAL, 0x00)


def test_a_result_that_names_no_protocol_is_sent_as_a_stream() -> None:
    for result in (ProxyResultIPv4(*IPV4), ProxyResultIPv6(*IPV6), ProxyResultUnix("/a", "/b")):
        assert V2.unpack(V2_CRC.pack(result)).protocol is SOCK_STREAM


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(unique_id=bytes(129))), "The UNIQUE_ID has 129 bytes"),
        (ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(tlv(3, b"?"))), "The CRC32C has 1 bytes"),
        (ProxyResultLocal(tlv=ProxyProtocolTLV(tlv(0x20))), "The SSL TLV has 0 bytes"),
        (ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(alpn=bytes(0xFFFF))), "no room for"),
    ],
)
def test_a_header_that_receivers_would_reject_is_not_sent(result: ProxyResult, sentence: str) -> None:
    for codec in (V2, V2_CRC):
        with pytest.raises(ValueError, match=sentence):
            codec.pack(result)


def test_a_kind_of_socket_without_a_number_in_the_format_is_not_sent() -> None:
    with pytest.raises(KeyError):
        V2.pack(ProxyResultIPv4(*IPV4, protocol=SOCK_RAW))


@pytest.mark.parametrize(
    ("signature", "valid"),
    [
        (SIGNATURE[:8], True),
        (WITH_CRC, True),
        (SIGNATURE[:7], False),
        (SIGNATURE[:11] + b"?", False),
        (b"PROXY TC", False),
    ],
)
def test_is_valid_needs_8_bytes_and_checks_up_to_12(signature: bytes, valid: bool) -> None:
    assert V2.is_valid(signature) is valid


@pytest.mark.parametrize(
    ("data", "begins"),
    [(b"", None), (SIGNATURE[:11], None), (SIGNATURE, True), (SIGNATURE + b"?", True), (b"\r\r", False)],
)
def test_a_connection_begins_with_a_header_when_all_twelve_bytes_are_there(data: bytes, begins: bool | None) -> None:
    assert V2.begins(data) is begins
