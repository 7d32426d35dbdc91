"""The hooks of a Receiver, and what its counters are told about each connection."""

from __future__ import annotations

import gc
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol.datagram import DatagramReceiver
from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolHookError,
    ProxyProtocolInvalidError,
    ProxyProtocolMissingError,
    ProxyProtocolSyntaxError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
    RefusalCode,
)
from proxyprotocol.policy import HeaderPolicy, TrustedProxies
from proxyprotocol.receiver import Receiver
from proxyprotocol.result import ProxyResult, ProxyResultIPv4
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

PEER = ("10.0.0.1", 40000)
LOCAL = ("10.0.0.2", 80)
RESULT = ProxyResultIPv4((IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 443))
V1 = ProxyProtocolV1().pack(RESULT)
V2 = ProxyProtocolV2().pack(RESULT)


class Events(list[Any]):
    """Hooks and counters that note what they are told."""

    def on_accepted(self, result: ProxyResult | None, peer: Any) -> None:
        client: Any = result and result.peername
        self.append(("accepted", client and client[0], peer))

    def on_refused(self, error: ProxyProtocolError, peer: Any) -> None:
        self.append(("refused", error.code, peer))

    def connected(self, listener: str) -> Events:
        self.append(("connected", listener))
        return self

    def handshake_failed(self, listener: str) -> None:
        self.append(("handshake failed", listener))

    def accepted(self, version: str | None) -> None:
        self.append(("counted", version))

    def refused(self, code: RefusalCode) -> None:
        self.append(("counted", code))


@pytest.fixture
def events() -> Events:
    return Events()


def watched(events: Events, **keywords: Any) -> Receiver:
    return Receiver(
        on_accepted=events.on_accepted, on_refused=events.on_refused, metrics=events, listener="here", **keywords
    )


@pytest.mark.parametrize(("header", "version"), [(V1, "v1"), (V2, "v2")])
@pytest.mark.parametrize("step", [1, 1000])
def test_an_accepted_header_is_told_once(events: Events, header: bytes, version: str, step: int) -> None:
    connection = watched(events).connection(PEER, LOCAL)
    begun = [connection.feed(header[at : at + step]) for at in range(0, len(header), step)]
    assert begun.index(True) == len(begun) - 1
    assert connection.eof()
    assert events == [("connected", "here"), ("accepted", "203.0.113.7", PEER), ("counted", version)]


@pytest.mark.parametrize(
    ("policy", "first"), [(HeaderPolicy.SKIP, None), (HeaderPolicy.OPTIONAL, b"GET /"), (HeaderPolicy.OPTIONAL, b"")]
)
def test_a_connection_without_a_header_is_accepted_without_a_result(
    events: Events, policy: HeaderPolicy, first: bytes | None
) -> None:
    connection = watched(events, policy=policy, validate=lambda result, peer: False).connection(PEER, LOCAL)
    if first:
        connection.feed(first)
    elif first is not None:
        connection.timed_out()
    assert connection.begun
    assert events[1:] == [("accepted", None, PEER), ("counted", None)]


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda connection: connection.feed(b"GET /"), ProxyProtocolSyntaxError),
        (lambda connection: connection.eof(), ProxyProtocolMissingError),
        (lambda connection: connection.timed_out(), ProxyProtocolTimeoutError),
    ],
)
def test_a_refusal_is_told_once_and_stays(
    events: Events, act: Callable[[Any], object], error: type[ProxyProtocolError]
) -> None:
    connection = watched(events).connection(PEER, LOCAL)
    with pytest.raises(error) as raised:
        act(connection)
    for again in (act, lambda connection: connection.feed(V2)):
        with pytest.raises(error):
            again(connection)
    assert events[1:] == [("refused", raised.value.code, PEER), ("counted", raised.value.code)]


def test_an_untrusted_peer_is_told(events: Events) -> None:
    with pytest.raises(ProxyProtocolUntrustedError):
        watched(events, trusted="192.0.2.0/24").connection(PEER, LOCAL)
    assert events[1:] == [("refused", RefusalCode.UNTRUSTED, PEER), ("counted", RefusalCode.UNTRUSTED)]


def test_a_connection_that_the_server_drops_is_counted_as_closed(events: Events) -> None:
    connection = watched(events).connection(PEER, LOCAL)
    connection.feed(V2[:5])
    del connection
    gc.collect()
    assert events[1:] == [("counted", RefusalCode.CLOSED)]


def test_validate_refuses_before_the_application_begins(events: Events) -> None:
    asked = []

    def validate(result: ProxyResult, peer: Any) -> bool:
        asked.append((result.tlv.aws_vpce_id, peer))
        return result.tlv.aws_vpce_id == "vpce-1"

    receiver = watched(events, validate=validate)
    connection = receiver.connection(PEER, LOCAL)
    with pytest.raises(ProxyProtocolInvalidError, match="validate function rejected the header"):
        connection.feed(V2 + b"GET /")
    with pytest.raises(ProxyProtocolInvalidError):
        connection.feed(b"")
    assert not connection.begun
    assert events[1:] == [("refused", RefusalCode.INVALID, PEER), ("counted", RefusalCode.INVALID)]
    assert asked == [(None, PEER)]


def test_validate_may_give_its_own_reason() -> None:
    def validate(result: ProxyResult, peer: Any) -> bool:
        raise ProxyProtocolInvalidError("The VPC endpoint is not ours")

    with pytest.raises(ProxyProtocolInvalidError, match=r"^The VPC endpoint is not ours$"):
        Receiver(validate=validate).connection(PEER, LOCAL).feed(V2)


def test_a_validate_that_forgets_to_return_refuses() -> None:
    validate: Any = lambda result, peer: None  # noqa: E731
    with pytest.raises(ProxyProtocolInvalidError):
        Receiver(validate=validate).connection(PEER, LOCAL).feed(V2)


@pytest.mark.parametrize("hook", ["validate", "on_accepted"])
def test_a_hook_that_raises_refuses_the_connection(events: Events, hook: str) -> None:
    def broken(result: object, peer: object) -> bool:
        raise ZeroDivisionError("oops")

    keywords: Any = {hook: broken}
    connection = Receiver(on_refused=events.on_refused, **keywords).connection(PEER, LOCAL)
    with pytest.raises(
        ProxyProtocolHookError, match=rf"^The server's {hook} function raised ZeroDivisionError\('oops'\)$"
    ):
        connection.feed(V2)
    assert not connection.begun
    assert events == [("refused", RefusalCode.HOOK, PEER)]


def test_an_on_refused_that_raises_still_refuses() -> None:
    def broken(error: object, peer: object) -> None:
        raise ZeroDivisionError

    connection = Receiver(on_refused=broken).connection(PEER, LOCAL)
    for _ in range(2):
        with pytest.raises(ProxyProtocolHookError, match="on_refused function raised ZeroDivisionError"):
            connection.feed(b"GET /")


def test_hooks_hold_for_datagrams(events: Events) -> None:
    refused: Any = lambda result, peer: False  # noqa: E731
    datagrams = DatagramReceiver(Receiver(validate=refused))
    with pytest.raises(ProxyProtocolInvalidError):
        datagrams.receive(V2 + b"query", PEER, LOCAL, 0)
    datagrams = DatagramReceiver(watched(events, policy=HeaderPolicy.OPTIONAL))
    assert datagrams.receive(V2 + b"query", PEER, LOCAL, 0).client == ("203.0.113.7", 5678)
    assert datagrams.receive(b"query", PEER, LOCAL, 0).client == PEER
    assert [event for event in events if event[0] == "accepted"] == [
        ("accepted", "203.0.113.7", PEER),
        ("accepted", None, PEER),
    ]


def test_a_hook_is_a_function() -> None:
    hook: Any = "print"
    with pytest.raises(TypeError, match="on_accepted must be a function, not 'print'"):
        Receiver(on_accepted=hook)


def test_trusted_is_short_for_a_policy() -> None:
    receiver = Receiver(trusted=["10.0.0.0/8"])
    assert isinstance(receiver.effective_policy, TrustedProxies)
    assert receiver.effective_policy(PEER, LOCAL) is HeaderPolicy.REQUIRE
    assert receiver.effective_policy(("192.0.2.1", 1), LOCAL) is HeaderPolicy.REJECT
    assert Receiver(trusted="10.0.0.0/8, unix", policy=HeaderPolicy.OPTIONAL).connection(PEER, LOCAL).undecided
    assert Receiver(trusted="any").connection(("192.0.2.1", 1), LOCAL).policy is HeaderPolicy.REQUIRE


def test_trusted_and_a_policy_function_contradict_each_other() -> None:
    for trusted in ("any", ["10.0.0.0/8"]):
        with pytest.raises(TypeError, match="both decide whom to trust"):
            Receiver(trusted=trusted, policy=TrustedProxies(["10.0.0.0/8"]))


def test_a_list_of_networks_is_no_policy() -> None:
    policy: Any = ["10.0.0.0/8"]
    with pytest.raises(TypeError, match=r"give networks as trusted=\['10.0.0.0/8'\]"):
        Receiver(policy=policy)


async def later(*arguments: Any) -> bool:
    return False


@pytest.mark.parametrize("hook", ["validate", "on_accepted", "on_refused"])
def test_a_coroutine_function_is_no_hook(hook: str) -> None:
    keywords: Any = {hook: later}
    with pytest.raises(TypeError, match=f"{hook} must be a plain function: no adapter waits"):
        Receiver(**keywords)


@pytest.mark.parametrize("verdict", [1, "yes", object()])
def test_a_validate_that_answers_later_lets_nobody_in(verdict: Any) -> None:
    connection = Receiver(validate=lambda result, peer: verdict).connection(PEER, LOCAL)
    with pytest.raises(ProxyProtocolHookError, match="must return True or False at once"):
        connection.feed(V2)
    assert not connection.begun


class Broken:
    """Counters that raise in one of their methods."""

    def __init__(self, method: str) -> None:
        self.method = method

    def connected(self, listener: str) -> Broken:
        return self.count("connected")

    def handshake_failed(self, listener: str) -> None:
        self.count("handshake_failed")

    def accepted(self, version: str | None) -> Broken:
        return self.count("accepted")

    def refused(self, code: RefusalCode) -> Broken:
        return self.count("refused")

    def count(self, method: str) -> Broken:
        if method == self.method:
            raise ZeroDivisionError
        return self


@pytest.mark.parametrize(("method", "data"), [("connected", V2), ("accepted", V2), ("refused", b"GET /")])
def test_counters_that_raise_refuse_the_connection(method: str, data: bytes) -> None:
    with pytest.raises(ProxyProtocolHookError, match="metrics function raised ZeroDivisionError"):
        Receiver(metrics=Broken(method)).connection(PEER, LOCAL).feed(data)


@pytest.mark.parametrize("metrics", [9100, "127.0.0.1:9100", True])
def test_an_address_is_no_counter(metrics: Any) -> None:
    with pytest.raises(TypeError, match="metrics must be an object that counts"):
        Receiver(metrics=metrics)


def test_a_copy_of_a_receiver_keeps_its_networks() -> None:
    """A copy with another policy trusted everybody."""
    receiver = Receiver(trusted=iter(["10.0.0.0/8"]))
    optional = replace(receiver, policy=HeaderPolicy.OPTIONAL)
    assert optional.connection(PEER, LOCAL).policy is HeaderPolicy.OPTIONAL
    with pytest.raises(ProxyProtocolUntrustedError):
        optional.connection(("192.0.2.1", 1), LOCAL)
    other = replace(receiver, trusted=["192.0.2.0/24"])
    assert other.connection(("192.0.2.1", 1), LOCAL).policy is HeaderPolicy.REQUIRE
    with pytest.raises(ProxyProtocolUntrustedError):
        other.connection(PEER, LOCAL)
    everybody = replace(receiver, trusted="any")
    assert everybody.connection(("192.0.2.1", 1), LOCAL).policy is HeaderPolicy.REQUIRE
    assert replace(everybody, listener="here").trusted == "any"


def test_a_copy_of_a_receiver_parses_no_network_again(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver(trusted=["10.0.0.0/8"])
    monkeypatch.setattr("proxyprotocol.policy.parse_network", None)
    assert replace(receiver, listener="here").effective_policy is receiver.effective_policy


def test_receivers_with_the_same_networks_are_equal() -> None:
    assert Receiver(trusted=["10.0.0.0/8"]) == Receiver(trusted="10.0.0.0/8")
    assert hash(Receiver(trusted=["10.0.0.0/8"])) == hash(Receiver(trusted="10.0.0.0/8"))
    assert Receiver(trusted=["10.0.0.0/8"]) != Receiver(trusted="10.0.0.0/9")


@pytest.mark.parametrize("policy", [HeaderPolicy.SKIP, HeaderPolicy.REJECT])
def test_a_policy_that_no_list_can_have_is_named_policy(policy: HeaderPolicy) -> None:
    with pytest.raises(
        ValueError, match=rf"^policy must be REQUIRE, OPTIONAL or IGNORE beside trusted=, not {policy.name}$"
    ):
        Receiver(trusted=["10.0.0.0/8"], policy=policy)


def test_a_policy_as_trusted_says_where_to_give_it(tmp_path: Path) -> None:
    trusted: Any = TrustedProxies(["10.0.0.0/8"])
    with pytest.raises(TypeError, match=r"; give it as policy=$"):
        Receiver(trusted=trusted)
    trusted = tmp_path
    with pytest.raises(TypeError, match=r"use policy=TrustedProxiesFile\(path\)$"):
        Receiver(trusted=trusted)


def test_a_list_is_no_receiver() -> None:
    receiver: Any = ["10.0.0.0/8"]
    with pytest.raises(
        TypeError, match=r"^receiver must be a Receiver, such as Receiver\(trusted=\[\.\.\.\]\), not \['10"
    ):
        Receiver.of(receiver, {})


class Later:
    async def __call__(self, *arguments: Any) -> bool:
        return False


@pytest.mark.parametrize("name", ["policy", "validate", "on_accepted", "on_refused"])
@pytest.mark.parametrize("function", [later, Later(), partial(later, 1)])
def test_nothing_that_answers_later_is_a_hook(name: str, function: Any) -> None:
    keywords: Any = {name: function}
    with pytest.raises(TypeError, match=f"^{name} must be a plain function: no adapter waits"):
        Receiver(**keywords)


def test_a_class_is_no_counter() -> None:
    metrics: Any = Events
    with pytest.raises(TypeError, match="metrics must be an object that counts"):
        Receiver(metrics=metrics)


@pytest.mark.parametrize("error", [CancelledError, GeneratorExit, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("hook", ["validate", "on_accepted"])
def test_a_hook_that_ends_the_program_refuses_once(events: Events, error: type[BaseException], hook: str) -> None:
    calls = []

    def end(result: object, peer: object) -> bool:
        calls.append(result)
        raise error

    keywords: Any = {hook: end}
    connection = Receiver(on_refused=events.on_refused, metrics=events, **keywords).connection(PEER, LOCAL)
    with pytest.raises(error):
        connection.feed(V2)
    with pytest.raises(ProxyProtocolHookError):
        connection.feed(b"")
    assert not connection.begun
    del connection
    gc.collect()
    assert events[1:] == [("refused", RefusalCode.HOOK, PEER), ("counted", RefusalCode.HOOK)]
    assert len(calls) == 1


@pytest.mark.parametrize("raised", [ZeroDivisionError, SystemExit])
def test_an_on_refused_that_raises_is_one_refusal_with_one_code(events: Events, raised: type[BaseException]) -> None:
    """The counters said no_header, and the log said hook."""

    def broken(error: object, peer: object) -> None:
        raise raised

    connection = Receiver(on_refused=broken, metrics=events).connection(PEER, LOCAL)
    with pytest.raises((ProxyProtocolHookError, raised)):
        connection.feed(b"GET /")
    with pytest.raises(ProxyProtocolHookError) as caught:
        connection.feed(b"")
    assert events[1:] == [("counted", caught.value.code)]
    assert caught.value.code is RefusalCode.HOOK
