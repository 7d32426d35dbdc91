"""The log of one listener: its start line, and how many lines refusals may cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from proxyprotocol import (
    HeaderPolicy,
    ProxyProtocolDetect,
    ProxyProtocolError,
    ProxyProtocolMissingError,
    ProxyProtocolNoop,
    ProxyProtocolSyntaxError,
    ProxyProtocolUntrustedError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    Receiver,
    TrustedProxies,
)
from proxyprotocol._adapters.listener import Listener, describe_start, logging_to  # every adapter logs through it
from proxyprotocol.errors import ProxyProtocolHookError, RefusalCode
from proxyprotocol.metrics import ProxyProtocolMetrics
from proxyprotocol.options import parse_receiver

PEER = ("10.0.0.1", 40000)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 50.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        self.timers.append((self.now + seconds, function))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for due, function in [*self.timers]:
            if due <= self.now:
                function()


class Lines(list[str]):
    def __call__(self, level: int, text: str, fields: Mapping[str, Any], error: BaseException | None = None) -> None:
        self.append(f"{logging.getLevelName(level)} {text}")


def syntax_error() -> ProxyProtocolSyntaxError:
    with pytest.raises(ProxyProtocolSyntaxError) as raised:
        ProxyProtocolV2().unpack(b"GET / HTTP/1")
    return raised.value


@pytest.mark.parametrize(
    ("receiver", "line"),
    [
        (
            Receiver(trusted=["10.0.0.0/8"]),
            "INFO Reads version 1 and 2 headers on 0.0.0.0:8080 from 10.0.0.0/8",
        ),
        (
            Receiver(ProxyProtocolV2(), trusted=[f"10.{n}.0.0/16" for n in range(9)]),
            "INFO Reads version 2 headers on 0.0.0.0:8080 from 10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16, "
            "10.4.0.0/16 and 4 more",
        ),
        (
            Receiver(ProxyProtocolV1(), policy=TrustedProxies(["::1"], otherwise=HeaderPolicy.SKIP)),
            "INFO Reads version 1 headers on 0.0.0.0:8080 from ::1, and serves all others without a header",
        ),
        (
            Receiver(),
            "WARNING Reads version 1 and 2 headers on 0.0.0.0:8080 from everybody: anyone who can connect can claim "
            'any address; name your proxies with trusted=..., or say trusted="any"',
        ),
        (
            parse_receiver({"policy": "optional"}, lambda option: f"PROXYPROTOCOL_{option.upper()}"),
            "WARNING Reads version 1 and 2 headers on 0.0.0.0:8080 from everybody, and serves everybody without "
            "a header: anyone who can connect can claim any address; name your proxies with PROXYPROTOCOL_TRUSTED=..., "
            "or say PROXYPROTOCOL_TRUSTED=any",
        ),
        (
            parse_receiver({"trusted": "any"}, lambda option: f"pp{option.title()}"),
            "INFO Reads version 1 and 2 headers on 0.0.0.0:8080 from everybody, as ppTrusted says",
        ),
        (
            Receiver(policy=HeaderPolicy.IGNORE),
            "INFO Reads version 1 and 2 headers on 0.0.0.0:8080 from everybody, and ignores the addresses in them",
        ),
        (Receiver(policy=HeaderPolicy.SKIP), "INFO Reads no PROXY protocol headers on 0.0.0.0:8080"),
        (Receiver(ProxyProtocolNoop()), "INFO Reads no PROXY protocol headers on 0.0.0.0:8080"),
        (
            Receiver(policy=HeaderPolicy.REJECT),
            "WARNING Refuses every connection on 0.0.0.0:8080: policy is REJECT",
        ),
        (
            Receiver(ProxyProtocolDetect(ProxyProtocolV1()), policy=lambda peer, local: HeaderPolicy.SKIP),
            "INFO Reads version 1 headers on 0.0.0.0:8080 from the peers that <function <lambda> at ",
        ),
    ],
)
def test_the_start_line_says_what_is_read_and_from_whom(receiver: Receiver, line: str) -> None:
    lines = Lines()
    Listener(receiver, lines, Clock()).start(("0.0.0.0", 8080))
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_a_listener_may_have_several_addresses_or_none() -> None:
    lines = Lines()
    listener = Listener(Receiver(trusted="any"), lines, Clock())
    listener.start(("0.0.0.0", 80), ("::", 80, 0, 0), "/run/app.sock")
    assert " on 0.0.0.0:80 and [::]:80 and UNIX socket '/run/app.sock' from" in lines[0]
    assert describe_start(Receiver(trusted="any"))[1] == "Reads version 1 and 2 headers from everybody, as trusted says"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ProxyProtocolUntrustedError(PEER),
            "The peer is not one of the trusted proxies; if it is your proxy, add it to ppTrusted",
        ),
        (
            syntax_error(),
            "There is no PROXY protocol header: the data begins with b'GET / HTTP/1' (at byte 0); "
            "if 10.0.0.1 is your proxy, make it send the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on); "
            "see ppPolicy",
        ),
    ],
)
def test_a_refusal_names_the_listener_the_peer_and_the_setting(error: Any, line: str) -> None:
    lines = Lines()
    listener = Listener(parse_receiver({"trusted": "::1"}, lambda option: f"pp{option.title()}"), lines, Clock())
    listener.start(("0.0.0.0", 8080))
    listener.refuse(error, PEER)
    assert lines[1] == f"WARNING Refused a connection from 10.0.0.1:40000 on 0.0.0.0:8080: {line}"


def test_ten_thousand_refusals_cost_ten_lines_and_a_summary_a_second() -> None:
    lines, clock = Lines(), Clock()
    listener = Listener(Receiver(), lines, clock)
    error = syntax_error()
    for number in range(10_000):
        listener.refuse(ProxyProtocolUntrustedError(PEER) if number % 10 == 0 else error, PEER)
        clock.advance(1 / 4096)
    clock.advance(1)
    assert len(lines) == 3 * (10 + 1)
    assert lines[10] == "WARNING Refused 4,086 more connections within a second: 3,677 no_header, 409 untrusted"
    assert sum(int(lines[at].split()[2].replace(",", "")) for at in (10, 21, 32)) == 10_000 - 30
    listener.refuse(error, PEER)
    assert len(lines) == 34


def test_the_end_of_a_server_tells_what_has_no_line_yet() -> None:
    lines, clock = Lines(), Clock()
    listener = Listener(Receiver(), lines, clock)
    for _ in range(12):
        listener.refuse(syntax_error(), PEER)
    listener.stop()
    assert lines[-1] == "WARNING Refused 2 more connections within a second: 2 no_header"
    assert not clock.timers
    listener.stop()
    assert len(lines) == 11


def test_health_checks_are_for_the_debug_level_and_take_nobody_s_line() -> None:
    lines = Lines()
    listener = Listener(Receiver(), lines, Clock())
    for _ in range(20):
        listener.refuse(ProxyProtocolMissingError(), PEER)
    listener.refuse(syntax_error(), PEER)
    assert [line.split()[0] for line in lines] == ["DEBUG"] * 20 + ["WARNING"]


def test_records_carry_fields(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener(Receiver(trusted="::1"), logging_to(logging.getLogger("test")), Clock())
    caplog.set_level("INFO")
    listener.start(("0.0.0.0", 8080))
    listener.refuse(syntax_error(), PEER)
    listener.refuse_handshake(TimeoutError("late"), ("203.0.113.7", 5678), PEER)
    listener.refuse(ProxyProtocolHookError("validate", ZeroDivisionError("oops")), "/run/proxy.sock")
    start, refusal, handshake, hook = caplog.records
    assert vars(start)["listener"] == "0.0.0.0:8080"
    expected = {
        "listener": "0.0.0.0:8080",
        "reason": "no_header",
        "network_peer_address": "10.0.0.1",
        "network_peer_port": 40000,
    }
    assert expected.items() <= vars(refusal).items()
    expected |= {"reason": "tls", "client_address": "203.0.113.7", "client_port": 5678}
    assert expected.items() <= vars(handshake).items()
    assert vars(hook)["network_peer_address"] == "UNIX socket '/run/proxy.sock'"
    assert hook.exc_info
    assert isinstance(hook.exc_info[1], ZeroDivisionError)


@pytest.mark.parametrize("hook", ["validate", "on_accepted", "on_refused"])
def test_an_exception_in_a_hook_is_an_error_with_its_traceback(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    """Once the traceback was dropped together with those of the peer's errors."""

    def broken(*arguments: object) -> bool:
        raise ZeroDivisionError("oops")

    keywords: Any = {hook: broken}
    listener = Listener(Receiver(**keywords), logging_to(logging.getLogger("test")), Clock())
    with pytest.raises(ProxyProtocolError) as raised:
        listener.receiver.connection(PEER, None).feed(b"?" if hook == "on_refused" else b"PROXY UNKNOWN\r\n")
    listener.refuse(raised.value, PEER)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert 'raise ZeroDivisionError("oops")' in logging.Formatter().format(record)
    assert isinstance(raised.value, ProxyProtocolHookError)
    assert raised.value.error.__traceback__ is None  # its frames hold the connection


def test_a_listener_without_a_name_gets_to_know_eight_addresses() -> None:
    """A transparent listener accepts on any address, and each name costs a line and counters."""
    lines, counters = Lines(), ProxyProtocolMetrics(registry := CollectorRegistry())
    listener = Listener(Receiver(trusted="any", metrics=counters), lines, Clock())
    names = [listener.at((f"192.0.2.{n % 10}", 80)).listener for n in range(20)]
    assert names == [*[f"192.0.2.{n}:80" for n in range(8)], "", ""] * 2
    assert len(lines) == 8
    for n in (3, 9):
        listener.refuse_handshake(TimeoutError("late"), PEER, PEER, (f"192.0.2.{n}", 80))
    for label in ("192.0.2.3:80", ""):
        labels = {"listener": label, "reason": "tls"}
        assert registry.get_sample_value("proxyprotocol_refusals_total", labels) == 1
    assert " on 192.0.2.9:80: the TLS handshake failed" in lines[-1]


def test_only_the_first_connection_asks_for_its_name_without_counters() -> None:
    listener = Listener(Receiver(trusted="any"), Lines(), Clock())
    assert listener.asks
    listener.at(("192.0.2.1", 80))
    assert not listener.asks
    listener.name(("192.0.2.1", 80))
    assert not listener.asks


def test_a_second_header_is_warned_of() -> None:
    lines = Lines()
    Listener(Receiver(), lines, Clock()).warn_of_second_header(PEER)
    assert lines == [
        "WARNING A second PROXY protocol header follows the first from 10.0.0.1:40000, and the application gets it as "
        "data: probably two proxies in a chain send one each; let only one of them do it"
    ]


@pytest.mark.parametrize("following", [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n"])
def test_a_connection_knows_whether_its_header_is_repeated(following: bytes) -> None:
    connection = Receiver().connection(None, None)
    connection.feed(b"PROXY UNKNOWN\r\n" + following)
    assert connection.repeated
    connection = Receiver(policy=HeaderPolicy.SKIP).connection(None, None)
    assert not connection.repeated


def test_a_failed_handshake_reaches_the_hook_and_the_counters() -> None:
    told: list[Any] = []
    registry = CollectorRegistry()
    receiver = Receiver(
        trusted="any",
        metrics=ProxyProtocolMetrics(registry),
        on_refused=lambda error, peer: told.append((error.code, str(error), peer)),
    )
    listener = Listener(receiver, Lines(), Clock())
    listener.start(("0.0.0.0", 8080))
    listener.refuse_handshake(TimeoutError("it was not done within 10 seconds"), ("203.0.113.7", 5678), PEER)
    assert told == [(RefusalCode.TLS, "it was not done within 10 seconds", PEER)]
    labels = {"listener": "0.0.0.0:8080", "reason": "tls"}
    assert registry.get_sample_value("proxyprotocol_refusals_total", labels) == 1


def test_a_hook_that_raises_at_a_failed_handshake_is_logged() -> None:
    def broken(error: object, peer: object) -> None:
        raise ZeroDivisionError

    lines = Lines()
    Listener(Receiver(on_refused=broken), lines, Clock()).refuse_handshake(TimeoutError("late"), PEER, PEER)
    assert [line.split(":")[0] for line in lines] == [
        "ERROR A hook raised ZeroDivisionError()",
        "WARNING Refused a connection from 10.0.0.1",
    ]


def start_of(receiver: Receiver, address: Any = ("0.0.0.0", 8080)) -> str:
    lines = Lines()
    Listener(receiver, lines, Clock()).start(address)
    return lines[0]


def test_networks_that_hold_everybody_are_a_warning() -> None:
    for networks, shown in ((["0.0.0.0/0", "::/0"], "0.0.0.0/0, ::/0"), ("::/0", "::/0")):
        assert start_of(Receiver(trusted=networks)) == (
            f"WARNING Reads version 1 and 2 headers on 0.0.0.0:8080 from {shown}: anyone who can connect can claim any "
            'address; name your proxies with trusted=..., or say trusted="any"'
        )


def test_a_list_without_a_network_is_a_warning() -> None:
    assert start_of(Receiver(trusted=[])) == "WARNING Refuses every connection on 0.0.0.0:8080: trusted names no proxy"
    line = start_of(Receiver(policy=TrustedProxies([], otherwise=HeaderPolicy.SKIP)))
    assert line.startswith("INFO Reads version 1 and 2 headers on 0.0.0.0:8080 from nobody, and serves all others")


def test_a_unix_listener_that_trusts_no_unix_peer_says_so() -> None:
    line = start_of(Receiver(trusted=["10.0.0.0/8"]), "/run/app.sock")
    assert line == (
        "WARNING Reads version 1 and 2 headers on UNIX socket '/run/app.sock' from 10.0.0.0/8, but refuses every "
        "connection to the UNIX socket: add unix to trusted"
    )
    assert start_of(Receiver(trusted=["10.0.0.0/8", "unix"]), "/run/app.sock").startswith("INFO ")
    lines = Lines()
    Listener(Receiver(trusted=["10.0.0.0/8"]), lines, Clock()).refuse(ProxyProtocolUntrustedError(""), "")
    assert lines[0].endswith("; if it is your proxy, add unix to trusted")


def test_a_hook_s_exception_is_one_line() -> None:
    def broken(error: object, peer: object) -> None:
        raise type("Odd", (Exception,), {"__repr__": lambda self: "a\nWARNING b" + "x" * 9000})

    lines = Lines()
    Listener(Receiver(on_refused=broken), lines, Clock()).refuse_handshake(TimeoutError("late"), PEER, PEER)
    assert lines[0].startswith("ERROR A hook raised a\\nWARNING bxxx")
    assert len(lines[0]) < 900
