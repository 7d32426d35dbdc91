"""Version 2 in two parts, as in `proxy-protocol`: the fixed 16 bytes, then the rest."""

from __future__ import annotations

from socket import SOCK_DGRAM, SOCK_STREAM

import pytest

from proxyprotocol import (
    ProxyProtocolChecksumError,
    ProxyProtocolIncompleteError,
    ProxyProtocolSyntaxError,
    ProxyResultLocal,
    ProxyResultType,
    ProxyResultUnknown,
)
from proxyprotocol.v2 import ProxyProtocolV2Header
from tests.vectors import IPV4_BLOCK, PROXY, SIGNATURE, V2, VERSION_2, Vector, describe, tlv, v2
from tests.vectors import checksum as crc

WITH_CRC = v2(PROXY, 0x11, IPV4_BLOCK, crc("2ed13bfb"))


def fields(header: ProxyProtocolV2Header) -> tuple[object, ...]:
    return header.command, header.type, header.protocol, header.data_len


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        (b"\x21\x11\x00\x0c", ("proxy", ProxyResultType.IPv4, SOCK_STREAM, 12)),
        (b"\x20\x00\xff\xff", ("local", ProxyResultType.UNKNOWN, None, 65535)),
        (b"\x21\x32\x00\xd8", ("proxy", ProxyResultType.UNIX, SOCK_DGRAM, 216)),
        (b"\x2f\xff\x00\x00", (None, None, None, 0)),
    ],
)
def test_unpack_header_reads_the_fixed_part(fixed: bytes, expected: tuple[object, ...]) -> None:
    assert fields(V2.unpack_header(SIGNATURE + fixed + b"what follows")) == expected


def test_a_cut_fixed_part_and_a_wrong_one_raise_different_errors() -> None:
    with pytest.raises(ProxyProtocolIncompleteError) as caught:
        V2.unpack_header(SIGNATURE + b"\x21")
    assert caught.value.want_read.want_bytes == 3
    with pytest.raises(ProxyProtocolSyntaxError, match="version of a binary header is 2, not 3"):
        V2.unpack_header(SIGNATURE + b"\x31\x11\0\x0c")
    with pytest.raises(ProxyProtocolSyntaxError, match="no PROXY protocol header"):
        V2.unpack_header(b"GET /")


@pytest.mark.parametrize("vector", VERSION_2, ids=str)
def test_unpack_data_reads_the_rest_of_a_header(vector: Vector) -> None:
    fixed, data = vector.header[:16], vector.header[16:]
    assert describe(V2.unpack_data(V2.unpack_header(fixed), fixed, data)) == describe(vector.result)


def test_a_checksum_is_verified_only_if_the_fixed_part_is_given() -> None:
    wrong = IPV4_BLOCK + crc("deadbeef")
    header = ProxyProtocolV2Header("proxy", ProxyResultType.IPv4, SOCK_STREAM, len(wrong))
    assert V2.unpack_data(header, b"", wrong).tlv.crc32c == 0xDEADBEEF
    with pytest.raises(ProxyProtocolChecksumError):
        V2.unpack_data(header, WITH_CRC[:16], wrong)
    for family in (ProxyResultType.UNKNOWN, ProxyResultType.IPv6, None):
        local = V2.unpack_data(ProxyProtocolV2Header("local", family, None, 7), b"", crc("deadbeef"))
        assert (type(local), local.tlv.crc32c) == (ProxyResultLocal, 0xDEADBEEF)


@pytest.mark.parametrize(("command", "family"), [(None, ProxyResultType.IPv4), ("proxy", None)])
def test_an_impossible_fixed_part_is_rejected(command: str | None, family: ProxyResultType | None) -> None:
    with pytest.raises(ProxyProtocolSyntaxError):
        V2.unpack_data(ProxyProtocolV2Header(command, family, SOCK_STREAM, 12), b"", IPV4_BLOCK)


def test_a_fixed_part_without_addresses_means_an_unknown_client() -> None:
    # code written for `proxy-protocol` makes this header by hand
    result = V2.unpack_data(ProxyProtocolV2Header("proxy", None, None, 0), b"", b"")
    assert result == ProxyResultUnknown()
    # if the bytes of a header are given, they decide: an unknown family is rejected
    with pytest.raises(ProxyProtocolSyntaxError, match="family is one of 0 to 3, not 15"):
        V2.unpack_data(ProxyProtocolV2Header("proxy", None, None, 0), SIGNATURE + b"\x21\xff\0\0", b"")


def test_a_checksum_that_cannot_be_verified_does_not_distinguish_tlvs_from_addresses() -> None:
    header = ProxyProtocolV2Header("local", ProxyResultType.IPv4, SOCK_STREAM, 15)
    body = crc("deadbeef") + tlv(0x04, b"12") + tlv(0x01)
    assert bytes(V2.unpack_data(header, b"", body).tlv) == tlv(0x01)
