"""The Simple Proxy Protocol: bytes put together by hand from Cloudflare's description of the header."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyprotocol import (
    DatagramReceiver,
    HeaderPolicy,
    ProxyProtocolDetect,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolSPP,
    ProxyProtocolSyntaxError,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
    ProxyResultUnknown,
    Receiver,
    TrustedProxies,
    pack_datagram,
    unpack_datagram,
)
from proxyprotocol.errors import RefusalCode
from tests.vectors import IPV4_BLOCK, PROXY, VERSION_1, v2

# magic number, client's address, proxy's address, client's port, proxy's port
SPP = bytes.fromhex("56ec 00000000000000000000ffffcb007107 00000000000000000000ffffc6336409 162e 0035")
SPP6 = bytes.fromhex("56ec 20010db8000000000000000000000007 20010db8ffff00000000000000000009 162e 01bb")
MIXED = bytes.fromhex("56ec 00000000000000000000ffffcb007107 20010db8ffff00000000000000000009 162e 01bb")
RESULT = ProxyResultIPv4((IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 53), protocol=SOCK_DGRAM)
RESULT6 = ProxyResultIPv6(
    (IPv6Address("2001:db8::7"), 5678), (IPv6Address("2001:db8:ffff::9"), 443), protocol=SOCK_DGRAM
)
RESULT_MIXED = ProxyResultIPv6(
    (IPv6Address("::ffff:203.0.113.7"), 5678), (IPv6Address("2001:db8:ffff::9"), 443), protocol=SOCK_DGRAM
)
HEADERS = [(SPP, RESULT), (SPP6, RESULT6), (MIXED, RESULT_MIXED)]
CODEC = ProxyProtocolSPP()
SENDER, HERE = ("10.1.2.3", 50000), ("10.9.8.7", 53)
CLIENT = ("203.0.113.7", 5678)


@pytest.mark.parametrize(("header", "result"), HEADERS)
def test_the_header_names_the_client_and_the_proxy(header: bytes, result: ProxyResult) -> None:
    for payload in (b"", b"query", header, bytes(1400)):
        assert unpack_datagram(header + payload, CODEC) == (result, payload)
    assert CODEC.unpack(header) == result
    assert CODEC.is_valid(header)


@pytest.mark.parametrize(("header", "result"), HEADERS)
def test_a_result_is_packed_into_its_header(header: bytes, result: ProxyResult) -> None:
    assert pack_datagram(result, b"query", CODEC) == header + b"query"
    assert pack_datagram(result.replace(protocol=None), b"query", CODEC) == header + b"query"


@pytest.mark.parametrize(
    "result",
    [
        *(ProxyResultLocal(), ProxyResultUnknown(), ProxyResultUnix("/a", "/b"), ProxyResultUnix("", "")),
        *(RESULT.replace(protocol=SOCK_STREAM), RESULT6.replace(protocol=SOCK_STREAM)),
    ],
)
def test_what_is_not_a_client_of_udp_cannot_be_said(result: ProxyResult) -> None:
    with pytest.raises(ValueError, match="IPv4 and IPv6 clients of UDP, it cannot say"):
        CODEC.pack(result)


def test_every_truncated_header_is_refused_with_its_length() -> None:
    for length in range(len(SPP)):
        with pytest.raises(ProxyProtocolSyntaxError, match=f"has {length} bytes, but its header needs at least 38$"):
            unpack_datagram(SPP[:length], CODEC)
        with pytest.raises(ProxyProtocolIncompleteError) as incomplete:
            CODEC.unpack(SPP[:length])
        assert incomplete.value.want_read.want_bytes == 38 - length


@pytest.mark.parametrize(
    ("data", "offset", "code", "reason"),
    [
        (b"\x57" + SPP[1:], 0, RefusalCode.NO_HEADER, "There is no PROXY protocol header: the data begins with b'W"),
        (b"\x56\xed" + SPP[2:], 1, RefusalCode.NO_HEADER, "There is no PROXY protocol header: the data begins with"),
        (v2(PROXY, 0x12, IPV4_BLOCK), 0, RefusalCode.VERSION, "A version 2 header came, but only SPP is accepted"),
    ],
)
def test_a_wrong_header_is_refused_at_its_first_wrong_byte(
    data: bytes, offset: int, code: RefusalCode, reason: str
) -> None:
    with pytest.raises(ProxyProtocolSyntaxError) as refused:
        unpack_datagram(data, CODEC)
    assert (refused.value.offset, refused.value.code) == (offset, code)
    assert refused.value.reason.startswith(reason)


def test_where_version_2_is_expected_the_message_names_the_codec() -> None:
    with pytest.raises(ProxyProtocolSyntaxError, match="it may be the Simple Proxy Protocol, which ProxyProtocolSPP"):
        unpack_datagram(SPP + b"query")


PORTS = st.integers(0, 0xFFFF)


@given(*[st.tuples(st.ip_addresses(v=4), PORTS)] * 2, st.binary(max_size=60))
def test_ipv4_round_trip(source: Any, dest: Any, payload: bytes) -> None:
    result = ProxyResultIPv4(source, dest, protocol=SOCK_DGRAM)
    assert unpack_datagram(pack_datagram(result, payload, CODEC), CODEC) == (result, payload)


@given(*[st.tuples(st.ip_addresses(v=6, network="2000::/3"), PORTS)] * 2, st.binary())
def test_ipv6_round_trip(source: Any, dest: Any, payload: bytes) -> None:
    result = ProxyResultIPv6(source, dest, protocol=SOCK_DGRAM)
    assert unpack_datagram(pack_datagram(result, payload, CODEC), CODEC) == (result, payload)


@given(st.binary(min_size=36, max_size=60))
def test_every_header_is_written_again_byte_for_byte(rest: bytes) -> None:
    """An answer begins with the header of its question."""
    result, payload = unpack_datagram(SPP[:2] + rest, CODEC)
    assert pack_datagram(result, payload, CODEC) == SPP[:2] + rest


@given(
    st.sampled_from([header for header, _ in HEADERS]),
    st.lists(st.tuples(st.integers(0, 45), st.integers(0, 255)), max_size=4),
    st.integers(0, 46),
)
def test_mutated_and_truncated_input_raises_only_our_errors(
    header: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(header + b"payload!")
    for at, byte in changes:
        data[at] = byte
    datagrams = receiver()
    for take in (
        lambda: unpack_datagram(bytes(data[:length]), CODEC),
        lambda: CODEC.unpack(bytes(data[:length])),
        lambda: datagrams.receive(bytes(data[:length]), SENDER, HERE, 0),
    ):
        if data[:2] == SPP[:2] and length >= len(SPP):
            take()
        else:
            with pytest.raises(ProxyProtocolError):
                take()


# The datagrams of a socket


def receiver(**keywords: Any) -> DatagramReceiver:
    return DatagramReceiver(Receiver(CODEC, **keywords))


@pytest.mark.parametrize("header", [SPP, SPP6, MIXED])
@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, HeaderPolicy.IGNORE])
def test_an_answer_begins_with_the_header_of_its_question(header: bytes, policy: HeaderPolicy) -> None:
    datagrams = receiver(policy=policy)
    datagram = datagrams.receive(header + b"query", SENDER, HERE, 0)
    assert datagram.payload == b"query"
    assert datagrams.reply(b"answer", datagram.client, 1) == (header + b"answer", SENDER)
    with datagrams.answering(datagram):
        assert datagrams.reply(b"answer", datagram.client, 1000) == (header + b"answer", SENDER)
    assert datagrams.reply(b"answer", datagram.client, 1000) == (b"answer", None)


def test_an_answer_without_a_client_is_an_error_because_its_header_would_be_missing() -> None:
    with pytest.raises(ValueError, match="An answer after ProxyProtocolSPP needs the address of its client"):
        receiver().reply(b"answer", None, 0)
    assert DatagramReceiver(Receiver()).reply(b"answer", None, 0) == (b"answer", None)


def test_a_client_that_comes_directly_gets_no_header() -> None:
    datagrams = receiver(policy=TrustedProxies(["10.0.0.0/8"], otherwise=HeaderPolicy.SKIP))
    direct = datagrams.receive(SPP + b"data", ("192.0.2.1", 7), HERE, 0)
    assert (direct.payload, direct.result) == (SPP + b"data", None)
    with datagrams.answering(direct):
        assert datagrams.reply(b"answer", direct.client, 0) == (b"answer", ("192.0.2.1", 7))


@pytest.mark.parametrize(
    "policy", [HeaderPolicy.OPTIONAL, TrustedProxies(["10.0.0.0/8"], trusted=HeaderPolicy.OPTIONAL)]
)
def test_two_bytes_cannot_tell_a_header_from_data(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"ProxyProtocolSPP cannot tell a header from data, .*: use REQUIRE"):
        receiver(policy=policy)
    with pytest.raises(ValueError, match="ProxyProtocolSPP cannot be detected: use it alone"):
        ProxyProtocolDetect(ProxyProtocolV2(), CODEC)


def test_version_1_is_refused() -> None:
    with pytest.raises(ProxyProtocolSyntaxError, match="version 1, which is only for streams"):
        receiver().receive(VERSION_1[0].header, SENDER, HERE, 0)


def test_metrics_count_the_format() -> None:
    counted: list[Any] = []

    class Counter:
        def connected(self, listener: str) -> Any:
            return self

        def accepted(self, version: str | None) -> None:
            counted.append(version)

    datagrams = receiver(metrics=Counter())
    datagrams.receive(SPP, SENDER, HERE, 0)
    assert counted == ["spp"]
