"""Bad input aborts the connection at once, logs one line, and never reaches the application."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.logger import formatEventAsClassicLogText, globalLogPublisher

from proxyprotocol import (
    HeaderPolicy,
    ProxyProtocol,
    ProxyProtocolUntrustedError,
    ProxyProtocolV1,
    ProxyResult,
    TrustedProxies,
)
from proxyprotocol.typing import SockAddr
from tests.on_twisted import reactors
from tests.on_twisted.reactors import (
    HEADER,
    HERE,
    PROXY,
    AppFactory,
    BrokenFactory,
    Log,
    MemoryTransport,
    RefusingFactory,
    accept,
    connect,
    listen,
    run,
    turns,
    until,
    wrap,
)
from tests.vectors import IPV4_BLOCK, SIGNATURE, checksum, single_bytes, tlv, v2
from tests.vectors import PROXY as PROXY_COMMAND

CASES = json.loads((Path(__file__).parent.parent / "corpus" / "conformance.json").read_text())["cases"]

# the input, and the line in the log
BAD = {
    "no header": (b"GET / HTTP/1.0\r\n\r\n", "the data begins with b'G"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", "this is TLS, which must come after the header"),
    "a wrong first byte": (b"\x00", "at byte 0"),
    "a port too high": (b"PROXY TCP4 192.0.2.1 192.0.2.1 1 99999\r\n", "99999"),
    "a bare line feed": (b"PROXY TCP4 192.0.2.1\n", "at byte"),
    "a line too long": (b"PROXY UNKNOWN " + b"x" * 94, "107"),
    "version 3": (SIGNATURE + b"\x31", "version"),
    "an unknown command": (SIGNATURE + b"\x22", "command"),
    "an unknown family": (SIGNATURE + b"\x21\x41", "family"),
    "too long": (SIGNATURE + b"\x21\x11\xff\xff", "65551"),
    "too short for its family": (SIGNATURE + b"\x21\x11\x00\x0b", "11"),
    "a TLV that is cut": (v2(PROXY_COMMAND, 0x11, IPV4_BLOCK, b"\1\0"), "TLV"),
    "a wrong checksum": (v2(PROXY_COMMAND, 0x11, IPV4_BLOCK, checksum("00000000")), "CRC32C"),
    "a unique ID too long": (v2(PROXY_COMMAND, 0x11, IPV4_BLOCK, tlv(5, bytes(129))), "UNIQUE_ID"),
}
every_bad_header = pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)


@every_bad_header
def test_a_bad_header_aborts_the_connection_and_logs_one_line(data: bytes, reason: str, log: Log) -> None:
    for pieces in ([data], single_bytes(data)):
        factory = AppFactory()
        transport = accept(wrap(factory))
        transport.receive(*pieces)

        assert (transport.aborts, factory.built, transport.value()) == (1, [], b"")
        ((level, line),) = log.lines
        assert level == "warn"
        assert line.startswith("Refused a connection from 10.1.2.3:50000 on 10.9.8.7:8080: ")
        assert reason in line
        log.events.clear()


@every_bad_header
def test_data_after_a_refusal_is_ignored(data: bytes, reason: str, log: Log) -> None:
    factory = AppFactory()
    clock = Clock()
    transport = accept(wrap(factory, clock=clock))
    transport.receive(data, HEADER, b"GET / HTTP/1.0\r\n\r\n")
    clock.advance(60)
    transport.lose()

    assert (transport.aborts, factory.built, len(log.lines)) == (1, [], 1)


@pytest.mark.parametrize("case", [case for case in CASES if "context" not in case], ids=lambda case: case["name"])
def test_the_application_starts_only_for_good_headers_of_the_corpus(case: dict[str, Any], log: Log) -> None:
    data = b"".join(bytes.fromhex(part) * count for part, count in case.get("parts") or [(case["hex"], 1)])
    factory = AppFactory()
    transport = accept(wrap(factory, max_header=65551))
    transport.receive(data)

    assert len(factory.apps) == (case["expect"] == "ok")
    refusals = [line for _, line in log.lines if line.startswith("Refused ")]
    assert transport.aborts == len(refusals) == (case["expect"] == "error")
    if factory.apps:
        assert [line.partition(" header")[0] for _, line in log.lines] == ["A second PROXY protocol"] * (
            "then" in case["name"] and case["name"].endswith("is-payload")
        )
        assert factory.app.received == data[case["consumed"] :]


@given(st.binary(min_size=1, max_size=40))
def test_no_bytes_can_forge_a_log_line(data: bytes) -> None:
    log = Log()
    globalLogPublisher.addObserver(log)
    try:
        for beginning in (b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", SIGNATURE + b"\x21\x11\x00"):
            accept(wrap(AppFactory())).receive(beginning + data)
    finally:
        globalLogPublisher.removeObserver(log)
    for event in log.events:
        assert re.fullmatch(r"[ -~]+", (formatEventAsClassicLogText(event) or "").rstrip("\n"))


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        (PROXY, "10.1.2.3:50000"),
        (IPv6Address("TCP", "2001:db8::7", 50000), "[2001:db8::7]:50000"),
        (UNIXAddress(None), "an unnamed UNIX socket"),
        (UNIXAddress(b"\0a\nb"), r"UNIX socket '\x00a\nb'"),
    ],
    ids=str,
)
def test_the_log_names_the_real_peer(peer: IAddress, name: str, log: Log) -> None:
    accept(wrap(AppFactory()), MemoryTransport(peer)).receive(b"?")

    ((_, line),) = log.lines
    assert line.startswith(f"Refused a connection from {name} on 10.9.8.7:8080: ")


def test_a_peer_that_closes_before_its_first_byte_is_logged_at_debug_level(log: Log) -> None:
    factory = AppFactory()
    accept(wrap(factory)).lose()

    ((level, line),) = log.lines
    assert (level, factory.built) == ("debug", [])
    assert "before the first byte" in line


def test_an_end_without_an_optional_header_is_not_logged(log: Log) -> None:
    factory = AppFactory()
    accept(wrap(factory, policy=HeaderPolicy.OPTIONAL)).lose()

    assert (log.lines, factory.built) == ([], [])


@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE])
def test_an_end_anywhere_in_the_header_is_logged(policy: HeaderPolicy, log: Log) -> None:
    for at in range(1, len(HEADER)):
        factory = AppFactory()
        transport = accept(wrap(factory, policy=policy))
        transport.receive(HEADER[:at])
        transport.lose(ConnectionLost())

        ((level, line),) = log.lines
        assert (level, factory.built) == ("warn", [])
        assert "incomplete" in line
        log.events.clear()


def test_an_untrusted_peer_is_dropped_before_a_byte_is_read(log: Log) -> None:
    factory, clock = AppFactory(), Clock()
    transport = accept(wrap(factory, clock=clock, policy=TrustedProxies(["192.0.2.0/24"])))

    assert (transport.aborts, factory.built) == (1, [])
    assert log.lines == [
        (
            "warn",
            "Refused a connection from 10.1.2.3:50000 on 10.9.8.7:8080: The peer is not one of the trusted proxies; if "
            "it is your proxy, add it to trusted",
        )
    ]
    transport.receive(HEADER)
    transport.lose()
    assert (factory.built, len(log.lines), clock.getDelayedCalls()) == ([], 1, [])


def test_a_policy_function_can_refuse(log: Log) -> None:
    def policy(peer: SockAddr, local: SockAddr) -> HeaderPolicy:
        raise ProxyProtocolUntrustedError(peer)

    transport = accept(wrap(AppFactory(), policy=policy))

    assert (transport.aborts, len(log.lines)) == (1, 1)


def test_optional_refuses_a_bad_header_with_a_right_signature(log: Log) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, policy=HeaderPolicy.OPTIONAL))
    transport.receive(b"PROXY TCP5")

    assert (transport.aborts, factory.built, len(log.lines)) == (1, [], 1)


def test_a_transport_that_cannot_abort_is_closed(log: Log) -> None:
    """Twisted's transport for standard input and output is an example."""

    class Stdio(MemoryTransport):
        abortConnection: Any = property()

    transport = accept(wrap(AppFactory()), Stdio())
    transport.receive(b"?")

    assert (transport.disconnecting, len(log.lines)) == (True, 1)


def test_a_factory_that_returns_none_aborts_the_connection(log: Log) -> None:
    """loseConnection would make TLS below wait for its peer, without a deadline: see test_inside_tls."""
    factory = RefusingFactory()
    transport = accept(wrap(factory))
    transport.receive(HEADER + b"data", b"more")
    transport.lose()

    assert factory.built == [reactors.CLIENT]
    assert (transport.aborts, log.lines) == (1, [])


# Errors of the application: Twisted logs them and drops the connection, and the port goes on.


def raise_error(app: reactors.App) -> None:
    raise ZeroDivisionError("in connectionMade")


MISTAKES = {"buildProtocol": BrokenFactory, "connectionMade": lambda: AppFactory(begin=raise_error)}
every_mistake = pytest.mark.parametrize("broken", MISTAKES.values(), ids=MISTAKES)


@every_mistake
def test_an_error_of_the_application_drops_the_connection(broken: Any) -> None:
    transport = accept(wrap(broken()))
    with pytest.raises(ZeroDivisionError):
        transport.receive(HEADER + b"data")

    assert transport.aborts == 1


@every_mistake
def test_an_error_of_the_application_under_skip_drops_the_connection(broken: Any) -> None:
    transport = MemoryTransport()
    with pytest.raises(ZeroDivisionError):
        accept(wrap(broken(), policy=HeaderPolicy.SKIP), transport)

    assert transport.aborts == 1


@pytest.mark.parametrize("given", [None, "require"])
def test_a_policy_function_with_a_wrong_return_value_drops_the_connection(given: Any, log: Log) -> None:
    transport = MemoryTransport()
    accept(wrap(AppFactory(), policy=lambda peer, local: given), transport)
    assert transport.aborts == 1
    assert f"it must return a HeaderPolicy, not {given!r}" in log.lines[0][1]
    assert log.flush(TypeError) == 1


def broken_policy(peer: SockAddr, local: SockAddr) -> HeaderPolicy:
    raise ZeroDivisionError("in the policy")


ON_A_PORT = {
    "buildProtocol": (BrokenFactory, {}),
    "connectionMade": (MISTAKES["connectionMade"], {}),
    "buildProtocol, at once": (BrokenFactory, {"policy": HeaderPolicy.SKIP}),
    "connectionMade, at once": (MISTAKES["connectionMade"], {"policy": HeaderPolicy.SKIP}),
    "buildProtocol, at the time-out": (BrokenFactory, {"policy": HeaderPolicy.OPTIONAL, "timeout": 0.01}),
    "the policy": (AppFactory, {"policy": broken_policy}),
}


@pytest.mark.parametrize(("broken", "keywords"), ON_A_PORT.values(), ids=ON_A_PORT)
def test_a_port_goes_on_after_an_error_of_the_application(
    reactor: Any, broken: Any, keywords: dict[str, Any], log: Log
) -> None:
    data = b"" if keywords else HEADER + b"data"

    async def scenario() -> None:
        port = listen(reactor, wrap(broken(), clock=reactor, **keywords))
        for count in (1, 2):
            client = await connect(reactor, port)
            client.transport.write(data)
            await until(reactor, lambda: client.lost)  # noqa: B023 (called in this iteration only)
            assert (client.received, len(log.failures)) == (b"", count)

    run(reactor, scenario())
    assert log.flush(ZeroDivisionError) == 2


def test_connectionLost_follows_an_error_in_connectionMade(reactor: Any, log: Log) -> None:
    factory = AppFactory(begin=raise_error)

    async def scenario() -> None:
        client = await connect(reactor, listen(reactor, wrap(factory, clock=reactor)))
        client.transport.write(HEADER + b"data")
        await until(reactor, lambda: client.lost)
        await turns(reactor)

    run(reactor, scenario())
    assert (len(factory.app.lost), factory.app.received) == (1, b"")
    assert log.flush(ZeroDivisionError) == 1


def test_sixty_half_sent_headers_do_not_delay_a_good_one(reactor: Any) -> None:
    factory = AppFactory(read=lambda app: app.transport.write(b"answer"))

    async def scenario() -> None:
        port = listen(reactor, wrap(factory, clock=reactor, timeout=60))
        half_sent = [await connect(reactor, port) for _ in range(60)]
        for client in half_sent:
            client.transport.write(HEADER[:-1])
        good = await connect(reactor, port)
        started = reactor.seconds()
        good.transport.write(HEADER + b"question")
        await until(reactor, lambda: good.received == b"answer")
        assert reactor.seconds() - started < 1
        assert len(factory.apps) == 1
        assert not any(client.lost for client in half_sent)

    run(reactor, scenario())


def test_a_refused_peer_is_reset_at_once(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        client = await connect(reactor, listen(reactor, wrap(AppFactory(), clock=reactor)))
        client.transport.write(b"GET / HTTP/1.0\r\n\r\n")
        await until(reactor, lambda: client.lost)
        assert client.lost[0].check(ConnectionLost)  # a reset, not an orderly end

    run(reactor, scenario())
    assert [level for level, line in log.lines] == ["warn"]
    assert HERE.host not in log.lines[0][1]


def end_by(data: bytes, wrapping: Any, clock: Clock) -> Any:
    transport = accept(wrapping)
    transport.receive(data)
    transport.lose()
    return transport


def end_by_a_foreign_codec(wrapping: Any, clock: Clock) -> Any:
    """Its error is the cause of ours, and has its own traceback."""

    class Codec(ProxyProtocolV1):
        parse = ProxyProtocol.parse

        def unpack(self, data: bytes) -> ProxyResult:
            raise ValueError("not this")

    return end_by(b"?", wrap(AppFactory(), pp=Codec()), clock)


def late(wrapping: Any, clock: Clock) -> Any:
    transport = accept(wrapping)
    clock.advance(5)
    transport.lose()
    return transport


ENDS: dict[str, Callable[[Any, Clock], Any]] = {name: partial(end_by, data) for name, (data, _) in BAD.items()}
ENDS |= {
    "cut": partial(end_by, HEADER[:9]),
    "a health check": partial(end_by, b""),
    "late": late,
    "codec": end_by_a_foreign_codec,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_refused_connection_is_freed_when_it_ends(end: Any, log: Log) -> None:
    """Once an error's traceback held the connection, which held the error, until a garbage collection."""
    clock = Clock()
    gc.disable()
    try:
        gone = weakref.ref(end(wrap(AppFactory(), clock=clock), clock))
        log.events.clear()
        assert gone() is None
    finally:
        gc.enable()
