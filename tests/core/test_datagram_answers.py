"""DatagramReceiver: where answers go, and which clients it remembers."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy, TrustedProxies
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.typing import SockAddr
from tests.core.test_datagram_receiver import (
    CLIENT,
    CLIENT6,
    HEADER,
    HEADER6,
    HERE,
    IGNORE,
    OPTIONAL,
    OTHER,
    SENDER,
    SKIP,
    receiver,
)
from tests.vectors import IPV4_BLOCK, LOCAL, PROXY, paths, tlv, v2


def header(number: int) -> bytes:
    """Return a header whose client has this port."""
    return v2(PROXY, 0x12, IPV4_BLOCK[:8], number.to_bytes(2, "big"), IPV4_BLOCK[10:])


def client(number: int) -> tuple[str, int]:
    return CLIENT[0], number


def test_an_answer_goes_to_the_proxy_that_named_the_client() -> None:
    datagrams = receiver()
    datagrams.receive(HEADER, SENDER, HERE, 0)
    datagrams.receive(HEADER6, OTHER, HERE, 0)
    assert datagrams.reply_to(CLIENT, 0) == SENDER
    assert datagrams.reply_to(CLIENT6, 0) == OTHER
    assert datagrams.reply_to(CLIENT6[:2], 0) == OTHER  # as Twisted spells it
    assert datagrams.reply_to(["2001:db8::1", 1000], 0) == OTHER  # type: ignore[arg-type]
    assert datagrams.reply_to((*CLIENT6[:2], 7, 0), 0) == OTHER  # the flow does not identify a client


STRANGERS: list[SockAddr] = [("192.0.2.1", 1001), ("192.0.2.2", 1000), CLIENT6, (*CLIENT6[:3], 1), "/a", SENDER]
# policies that let clients in without a header, or may do so: a function may return anything
DIRECT: dict[str, Any] = {
    "OPTIONAL": OPTIONAL,
    "SKIP": SKIP,
    "trusted proxies, OPTIONAL": TrustedProxies(["10.0.0.0/8"], trusted=OPTIONAL),
    "others directly": TrustedProxies(["10.0.0.0/8"], otherwise=SKIP),
    "a function": lambda sender, local: HeaderPolicy.REQUIRE,
}
ONLY_PROXIES: dict[str, Any] = {
    "REQUIRE": HeaderPolicy.REQUIRE,
    "IGNORE": IGNORE,
    "trusted proxies": TrustedProxies(["10.0.0.0/8"]),
    "trusted proxies, IGNORE": TrustedProxies(["10.0.0.0/8"], trusted=IGNORE),
}


@pytest.mark.parametrize("policy", DIRECT.values(), ids=DIRECT)
def test_if_clients_may_come_directly_an_unknown_client_is_answered_directly(policy: Any) -> None:
    datagrams = receiver(policy=policy)
    datagrams.receive(HEADER, SENDER, HERE, 0)
    for address in STRANGERS:
        assert datagrams.reply_to(address, 0) == address
        assert datagrams.result_for(address, 0) is None


@pytest.mark.parametrize("policy", ONLY_PROXIES.values(), ids=ONLY_PROXIES)
def test_if_all_clients_come_through_proxies_an_unknown_client_gets_no_answer(policy: Any) -> None:
    """A header may name any address: a direct answer would go wherever a forger wants."""
    datagrams = receiver(policy=policy, client_timeout=60)
    datagram = datagrams.receive(HEADER, SENDER, HERE, 0)
    assert datagrams.reply_to(datagram.client, 0) == SENDER
    for address in (OTHER, *STRANGERS[:-1]):
        assert datagrams.reply_to(address, 0) is None
    # forgotten, except while its datagram is being answered
    assert datagrams.reply_to(datagram.client, 60) is None
    with datagrams.answering(datagram):
        assert datagrams.reply_to(datagram.client, 60) == SENDER


@pytest.mark.parametrize("data", [v2(LOCAL, 0x00, tlv(4)), v2(PROXY, 0x00, tlv(4)), v2(PROXY, 0x10, IPV4_BLOCK)])
def test_a_proxy_that_speaks_for_itself_is_answered_and_its_result_is_kept(data: bytes) -> None:
    datagrams = receiver()
    sender = ("fe80::1", 50000, 0, 3)
    datagram = datagrams.receive(data, sender, HERE, 0)
    assert datagrams.reply_to(sender, 0) == sender
    assert datagrams.result_for(sender, 0) == datagram.result
    # the same address on another link is another client
    assert datagrams.result_for((*sender[:3], 4), 0) is None


def test_clients_on_unix_sockets_are_known_by_their_paths() -> None:
    datagrams = receiver()
    datagrams.receive(v2(PROXY, 0x32, paths(b"/a", b"/b")), "/proxy", "/here", 0)
    datagrams.receive(v2(PROXY, 0x32, paths(b"/c", b"/b")), None, "/here", 0)
    assert datagrams.reply_to("/a", 0) == "/proxy"
    assert datagrams.reply_to("/c", 0) is None


def test_of_two_proxies_for_one_client_the_newest_wins() -> None:
    datagrams = receiver()
    first = datagrams.receive(HEADER, SENDER, HERE, 0)
    second = datagrams.receive(v2(PROXY, 0x12, IPV4_BLOCK, tlv(4)), OTHER, HERE, 0)
    assert datagrams.reply_to(CLIENT, 0) == OTHER
    assert datagrams.result_for(CLIENT, 0) == second.result != first.result


def test_an_immediate_answer_goes_to_the_sender_of_the_current_datagram() -> None:
    datagrams = receiver(policy=TrustedProxies(["10.0.0.0/8"], otherwise=SKIP))
    proxied = datagrams.receive(HEADER, SENDER, HERE, 0)
    direct = datagrams.receive(b"query", CLIENT, HERE, 0)
    assert (proxied.client, direct.client) == (CLIENT, CLIENT)
    with datagrams.answering(direct):
        assert (datagrams.reply_to(CLIENT, 0), datagrams.result_for(CLIENT, 0)) == (CLIENT, None)
        with datagrams.answering(proxied):
            assert datagrams.reply_to(CLIENT, 0) == SENDER
        assert datagrams.reply_to(CLIENT, 0) == CLIENT
    # the plain datagram, whose sender may be forged, has changed nothing
    assert (datagrams.reply_to(CLIENT, 0), datagrams.result_for(CLIENT, 0)) == (SENDER, proxied.result)


def test_an_older_datagram_can_be_answered_again() -> None:
    datagrams = receiver()
    first = datagrams.receive(HEADER, SENDER, HERE, 0)
    datagrams.receive(HEADER, OTHER, HERE, 0)
    with datagrams.answering(first):
        assert datagrams.reply_to(CLIENT, 0) == SENDER
    assert datagrams.reply_to(CLIENT, 0) == OTHER


def test_a_client_is_forgotten_in_time() -> None:
    datagrams = receiver(client_timeout=60)
    datagrams.receive(HEADER, SENDER, HERE, 100)
    assert datagrams.result_for(CLIENT, 159.9) is not None
    assert datagrams.result_for(CLIENT, 160) is None
    assert datagrams.reply_to(CLIENT, 160) is None


def test_datagrams_with_a_header_keep_a_client_known() -> None:
    datagrams = receiver(client_timeout=60)
    datagrams.receive(HEADER, SENDER, HERE, 100)
    datagrams.receive(HEADER, SENDER, HERE, 150)
    assert datagrams.reply_to(CLIENT, 209.9) == SENDER
    assert datagrams.reply_to(CLIENT, 210) is None


def test_neither_an_answer_nor_a_datagram_without_a_header_keeps_a_client_known() -> None:
    """They once did: one forged datagram then redirected all later answers to a client that comes directly."""
    datagrams = receiver(policy=OPTIONAL, client_timeout=60)
    datagrams.receive(HEADER, SENDER, HERE, 100)
    for now in (110, 130, 150, 159):
        direct = datagrams.receive(b"query", CLIENT, HERE, now)
        with datagrams.answering(direct):
            assert datagrams.reply_to(CLIENT, now) == CLIENT
        assert datagrams.reply_to(CLIENT, now) == SENDER
    assert datagrams.reply_to(CLIENT, 160) == CLIENT


def test_a_flood_of_clients_replaces_the_one_that_was_silent_for_longest() -> None:
    datagrams = receiver(max_clients=3)
    for number in (1, 2, 3):
        datagrams.receive(header(number), SENDER, HERE, number)
    datagrams.reply_to(client(2), 4)  # an answer does not count
    datagrams.receive(header(1), SENDER, HERE, 5)
    datagrams.receive(header(4), SENDER, HERE, 6)
    known = [number for number in range(1, 5) if datagrams.reply_to(client(number), 7) == SENDER]
    assert known == [1, 3, 4]


def count_parsed() -> int:
    """Count the parsed TLVs in this process."""
    gc.collect()
    return sum(type(kept) is ProxyProtocolTLV for kept in gc.get_objects())


def test_the_tlvs_that_an_application_asks_for_are_not_kept() -> None:
    """A result with parsed TLVs is three times as big, and there may be thousands of clients."""
    datagrams, before = receiver(max_clients=10), count_parsed()

    def ask(number: int) -> None:
        datagram = datagrams.receive(header(number), SENDER, HERE, 0)
        for result in (datagram.result, datagrams.result_for(client(number), 0)):
            assert result is not None
            assert not result.tlv

    for number in range(10):
        ask(number)
    assert datagrams.result_for(client(0), 0) is not None
    assert count_parsed() == before


def test_each_call_of_result_for_returns_a_result_of_its_own() -> None:
    datagrams = receiver()
    datagram = datagrams.receive(v2(PROXY, 0x12, IPV4_BLOCK, tlv(0xE5, b"shop")), SENDER, HERE, 0)
    first, second = datagrams.result_for(CLIENT, 0), datagrams.result_for(CLIENT, 0)
    assert first is not None
    assert first.tlv[0xE5] == b"shop"
    assert first == second == datagram.result
    assert len({id(result) for result in (first, second, datagram.result)}) == 3
    with datagrams.answering(datagram):
        assert datagrams.result_for(CLIENT, 0) is datagram.result


def test_no_more_clients_are_kept_than_allowed() -> None:
    datagrams = receiver(max_clients=100)
    for number in range(5000):
        datagrams.receive(header(number), SENDER, HERE, number / 1000)
    known = [number for number in range(5000) if datagrams.result_for(client(number), 5) is not None]
    assert known == list(range(4900, 5000))


class Sender(str):
    """A sender that a weak reference can watch."""

    __slots__ = ("__weakref__",)


def test_nothing_is_kept_of_a_forgotten_client() -> None:
    datagrams = receiver(max_clients=100, client_timeout=60)

    def receive(number: int) -> weakref.ref[Sender]:
        sender = Sender("/proxy")
        datagrams.receive(header(number), sender, HERE, number)
        return weakref.ref(sender)

    kept = [receive(number) for number in range(50)]
    datagrams.receive(HEADER6, SENDER, HERE, 80.5)
    assert [number for number in range(50) if kept[number]() is not None] == list(range(21, 50))


def test_a_clock_that_is_set_back_does_no_harm() -> None:
    datagrams = receiver(client_timeout=60)
    datagrams.receive(header(1), SENDER, HERE, 10_000)
    datagrams.receive(header(2), OTHER, HERE, 0)
    assert datagrams.reply_to(client(1), 0) == SENDER
    assert datagrams.reply_to(client(2), 1) == OTHER
