"""DatagramReceiver: what happens to a datagram, and what the log says about it."""

from __future__ import annotations

import gc
import weakref
from random import Random
from typing import Any

import pytest

from proxyprotocol import (
    HeaderPolicy,
    ProxyProtocol,
    ProxyProtocolChecksumError,
    ProxyProtocolDetect,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolNoop,
    ProxyProtocolSyntaxError,
    ProxyProtocolUntrustedError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyProtocolWantRead,
    ProxyResult,
    Receiver,
    TrustedProxies,
    unpack_datagram,
)
from proxyprotocol.datagram import DatagramReceiver
from proxyprotocol.receiver import describe_refusal
from proxyprotocol.result import ProxyResultLocal
from proxyprotocol.typing import SockAddr
from tests.core.test_fuzz import mutated
from tests.vectors import (
    IPV4_BLOCK,
    IPV6_BLOCK,
    PROXY,
    SIGNATURE,
    VERSION_1,
    VERSION_2,
    Vector,
    checksum,
    describe,
    splits,
    tlv,
    v2,
)

SENDER, OTHER, HERE = ("10.1.2.3", 50000), ("10.1.2.4", 50000), ("10.9.8.7", 53)
CLIENT, CLIENT6 = ("192.0.2.1", 1000), ("2001:db8::1", 1000, 0, 0)
HEADER, HEADER6 = v2(PROXY, 0x12, IPV4_BLOCK), v2(PROXY, 0x22, IPV6_BLOCK)
OPTIONAL, IGNORE, SKIP = HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE, HeaderPolicy.SKIP


def receiver(max_clients: int = 3, client_timeout: float = 60, **keywords: Any) -> DatagramReceiver:
    return DatagramReceiver(Receiver(**keywords), max_clients=max_clients, client_timeout=client_timeout)


@pytest.mark.parametrize("vector", VERSION_2, ids=str)
@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, OPTIONAL, IGNORE])
def test_the_client_is_the_one_that_the_header_names(vector: Vector, policy: HeaderPolicy) -> None:
    datagram = receiver(policy=policy).receive(vector.header + b"query", SENDER, HERE, 0)
    assert datagram.result is not None
    assert describe(datagram.result) == describe(vector.result)
    assert (datagram.payload, datagram.sender) == (b"query", SENDER)
    # LOCAL and UNSPEC name no client
    named = None if policy is IGNORE else vector.result.peername
    assert datagram.client == (SENDER if named is None else named)


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n", SIGNATURE[:-1], b"query", SIGNATURE[:-1] + b"!" + HEADER[12:], VERSION_1[0].header + b"query"],
)
def test_under_optional_a_datagram_without_the_signature_is_data(data: bytes) -> None:
    assert receiver(policy=OPTIONAL).receive(data, SENDER, HERE, 0) == (data, SENDER, None, SENDER)


@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, OPTIONAL, IGNORE])
def test_after_the_signature_an_error_is_an_error(policy: HeaderPolicy) -> None:
    datagrams = receiver(policy=policy, max_header=40)
    for data, kind in (
        (SIGNATURE, ProxyProtocolSyntaxError),
        (HEADER[:-1], ProxyProtocolSyntaxError),
        (v2(PROXY, 0x13, IPV4_BLOCK), ProxyProtocolSyntaxError),
        (v2(PROXY, 0x12, IPV4_BLOCK, b"\1"), ProxyProtocolSyntaxError),
        (v2(PROXY, 0x12, IPV4_BLOCK, checksum("deadbeef")), ProxyProtocolChecksumError),
        (v2(PROXY, 0x12, IPV4_BLOCK, tlv(4, bytes(10))), ProxyProtocolLimitError),
    ):
        with pytest.raises(ProxyProtocolError) as caught:
            datagrams.receive(data, SENDER, HERE, 0)
        assert type(caught.value) is kind
        assert datagrams.result_for(CLIENT, 0) is None  # the client is not remembered


@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, IGNORE])
@pytest.mark.parametrize("data", [b"", b"\r\n", b"query", VERSION_1[0].header])
def test_a_missing_required_header_is_an_error(policy: HeaderPolicy, data: bytes) -> None:
    with pytest.raises(ProxyProtocolSyntaxError):
        receiver(policy=policy).receive(data, SENDER, HERE, 0)


@pytest.mark.parametrize("pp", [None, ProxyProtocolDetect(), ProxyProtocolV2()])
def test_a_version_1_header_has_its_own_message(pp: ProxyProtocol | None) -> None:
    with pytest.raises(ProxyProtocolSyntaxError, match="version 1, which is only for streams: let the proxy send"):
        receiver(pp=pp).receive(VERSION_1[0].header, SENDER, HERE, 0)


def test_the_message_for_an_incomplete_header_has_both_lengths() -> None:
    for beginning, rest in splits(HEADER):
        if rest:
            needed = 16 if len(beginning) < 16 else len(HEADER)
            with pytest.raises(ProxyProtocolSyntaxError, match=f"has {len(beginning)} bytes, .* at least {needed}$"):
                receiver().receive(beginning, SENDER, HERE, 0)


@pytest.mark.parametrize("keywords", [{"policy": SKIP}, {"pp": ProxyProtocolNoop()}])
def test_if_no_header_is_expected_it_is_data(keywords: dict[str, Any]) -> None:
    datagrams = receiver(**keywords)
    assert datagrams.receive(HEADER, SENDER, HERE, 0) == (HEADER, SENDER, None, SENDER)
    assert datagrams.reply_to(CLIENT, 0) == CLIENT


def test_a_sender_that_is_not_trusted_is_refused_whatever_it_sends() -> None:
    seen: list[tuple[SockAddr, SockAddr]] = []

    def policy(sender: SockAddr, local: SockAddr) -> HeaderPolicy:
        seen.append((sender, local))
        return HeaderPolicy.REJECT

    datagrams = receiver(policy=policy)
    assert datagrams.needs_local
    for data in (HEADER, b"query", b""):
        with pytest.raises(ProxyProtocolUntrustedError):
            datagrams.receive(data, SENDER, HERE, 0)
    assert seen == [(SENDER, HERE)] * 3
    assert datagrams.reply_to(CLIENT, 0) == CLIENT


def test_only_a_policy_function_needs_the_local_address() -> None:
    assert not receiver().needs_local
    assert receiver(policy=TrustedProxies(["10.0.0.0/8"])).needs_local


def test_a_codec_without_version_2_is_refused_at_once() -> None:
    for pp in (ProxyProtocolV1(), ProxyProtocolDetect(ProxyProtocolV1())):
        with pytest.raises(ValueError, match=r"Version 1 is only for streams: .* not <proxyprotocol"):
            receiver(pp=pp)


class Own(ProxyProtocol):
    """A user's codec."""

    def is_valid(self, signature: bytes) -> bool:
        return signature.startswith(b"OWN HEAD")

    def unpack(self, data: bytes) -> ProxyResult:
        if len(data) < 8:
            raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(8 - len(data)))
        if not self.is_valid(data):
            raise ProxyProtocolSyntaxError("not my own")
        return ProxyResultLocal()

    def pack(self, result: ProxyResult) -> bytes:
        return b"OWN HEAD"


@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, OPTIONAL])
def test_a_users_codec_may_be_combined_with_version_2(policy: HeaderPolicy) -> None:
    datagrams = receiver(pp=ProxyProtocolDetect(ProxyProtocolV1(), Own(), ProxyProtocolV2()), policy=policy)
    assert datagrams.receive(b"OWN HEAD", SENDER, HERE, 0).result == ProxyResultLocal()
    assert datagrams.receive(HEADER + b"query", SENDER, HERE, 0).client == CLIENT


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({"max_clients": 1.5}, TypeError, "max_clients must be a number of clients, not 1.5"),
        ({"max_clients": True}, TypeError, "not True"),
        ({"max_clients": 0}, ValueError, "max_clients must be at least 1, not 0"),
        ({"client_timeout": "60"}, TypeError, "client_timeout must be a number of seconds, not '60'"),
        ({"client_timeout": None}, TypeError, "not None"),
        ({"client_timeout": 0}, ValueError, "client_timeout must be a number of seconds above 0, not 0"),
        ({"client_timeout": float("nan")}, ValueError, "not nan"),
        ({"client_timeout": float("inf")}, ValueError, "not inf"),
    ],
)
def test_an_invalid_limit_is_rejected(keywords: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        receiver(**keywords)


# the log


def test_a_refused_datagram_leaves_nothing_for_the_garbage_collector() -> None:
    datagrams = receiver()

    def refused() -> weakref.ref[ProxyProtocolError]:
        try:
            datagrams.receive(SIGNATURE, SENDER, HERE, 0)
        except ProxyProtocolError as error:
            describe_refusal(error, SENDER, "a datagram")
            return weakref.ref(error)
        raise AssertionError("it was not refused")

    gc.disable()
    try:
        assert refused()() is None
    finally:
        gc.enable()


def outcome(data: bytes, datagrams: DatagramReceiver) -> tuple[ProxyResult, bytes] | type[ProxyProtocolError]:
    try:
        datagram = datagrams.receive(data, SENDER, HERE, 0)
    except ProxyProtocolError as error:
        return type(error)
    assert datagram.result is not None
    return datagram.result, datagram.payload


@pytest.mark.parametrize("chunk", range(5))
def test_a_mutated_datagram_gives_the_same_as_unpack_datagram(chunk: int) -> None:
    random = Random(chunk)
    required, optional = receiver(max_header=0xFFFF + 16), receiver(policy=OPTIONAL, max_header=0xFFFF + 16)
    for _ in range(1000):
        data = mutated(random)
        expected: Any
        try:
            expected = unpack_datagram(data)
        except ProxyProtocolError as error:
            expected = type(error)
        assert outcome(data, required) == expected
        if data.startswith(SIGNATURE):
            assert outcome(data, optional) == expected
        else:
            assert optional.receive(data, SENDER, HERE, 0) == (data, SENDER, None, SENDER)
