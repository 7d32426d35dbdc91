"""Datagrams: one header in front of each."""

from __future__ import annotations

from socket import SOCK_DGRAM, SOCK_STREAM

import pytest

from proxyprotocol import (
    ProxyProtocolChecksumError,
    ProxyProtocolSyntaxError,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
    pack_datagram,
    unpack_datagram,
)
from proxyprotocol.tlv import ProxyProtocolTLV
from tests.vectors import (
    IPV4,
    IPV4_BLOCK,
    IPV6,
    LOCAL,
    PROXY,
    V2_CRC,
    VERSION_1,
    VERSION_2,
    Vector,
    checksum,
    describe,
    splits,
    tlv,
    v2,
)


@pytest.mark.parametrize("vector", VERSION_2, ids=str)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_datagram_is_a_header_and_a_payload(vector: Vector, kind: type[bytes]) -> None:
    for payload in (b"", b"\0", b"query", VERSION_1[0].header, vector.header, tlv(4), bytes(1400)):
        result, rest = unpack_datagram(kind(vector.header + payload))
        assert (describe(result), rest) == (describe(vector.result), payload)
        assert type(rest) is bytes


@pytest.mark.parametrize("vector", VERSION_2, ids=str)
def test_an_incomplete_header_is_an_error(vector: Vector) -> None:
    for beginning, rest in splits(vector.header):
        if rest:
            with pytest.raises(ProxyProtocolSyntaxError):
                unpack_datagram(beginning)


def test_the_message_for_an_incomplete_header_has_both_lengths() -> None:
    header = v2(PROXY, 0x12, IPV4_BLOCK)
    for length, needed in ((0, 16), (15, 16), (16, 28), (27, 28)):
        with pytest.raises(
            ProxyProtocolSyntaxError, match=f"has {length} bytes, but its header needs at least {needed}$"
        ):
            unpack_datagram(header[:length])


@pytest.mark.parametrize("vector", VERSION_1, ids=str)
def test_version_1_is_refused(vector: Vector) -> None:
    with pytest.raises(ProxyProtocolSyntaxError, match=r"version 1, which is only for streams.* \(at byte 0\)$"):
        unpack_datagram(vector.header)


@pytest.mark.parametrize(
    "data", [b"\x12\x34\x01\0\0\1", v2(PROXY, 0x13, IPV4_BLOCK), v2(PROXY, 0x12, IPV4_BLOCK, b"\1")]
)
def test_a_missing_or_wrong_header_is_an_error(data: bytes) -> None:
    with pytest.raises(ProxyProtocolSyntaxError):
        unpack_datagram(data)


def test_a_wrong_checksum_is_an_error() -> None:
    with pytest.raises(ProxyProtocolChecksumError):
        unpack_datagram(v2(PROXY, 0x12, IPV4_BLOCK, checksum("deadbeef")) + b"query")


def test_the_payload_is_not_part_of_the_checksum_nor_of_the_tlvs() -> None:
    datagram = pack_datagram(ProxyResultIPv4(*IPV4), b"query" + tlv(0x05, b"id"))
    result, payload = unpack_datagram(datagram)
    assert list(result.tlv) == [0x03]
    assert payload == b"query" + tlv(0x05, b"id")


@pytest.mark.parametrize(
    "result",
    [
        ProxyResultIPv4(*IPV4),
        ProxyResultIPv6(*IPV6),
        ProxyResultUnix("/a", ""),
        ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(alpn=b"h2")),
    ],
)
def test_a_result_without_a_protocol_is_sent_as_dgram(result: ProxyResult) -> None:
    read, payload = unpack_datagram(pack_datagram(result, b"query"))
    assert (read.peername, read.sockname, read.protocol, payload) == (
        result.peername,
        result.sockname,
        SOCK_DGRAM,
        b"query",
    )


def test_a_result_with_a_protocol_keeps_it() -> None:
    read, _ = unpack_datagram(pack_datagram(ProxyResultIPv4(*IPV4, protocol=SOCK_STREAM), b""))
    assert read.protocol is SOCK_STREAM


@pytest.mark.parametrize(
    "vector", [vector for vector in VERSION_2 if vector.codec is V2_CRC and vector.written], ids=str
)
def test_a_result_is_packed_into_its_header(vector: Vector) -> None:
    assert pack_datagram(vector.result, b"query") == vector.header + b"query"


def test_a_sender_that_speaks_for_itself_sends_local() -> None:
    assert pack_datagram(ProxyResultLocal(), b"query") == v2(LOCAL, 0x00) + b"query"


def test_a_result_that_does_not_fit_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="108 are the most"):
        pack_datagram(ProxyResultUnix("/" * 109, ""), b"")
    with pytest.raises(ValueError, match="UNIQUE_ID"):
        pack_datagram(ProxyResultLocal(tlv=ProxyProtocolTLV(unique_id=bytes(129))), b"")
