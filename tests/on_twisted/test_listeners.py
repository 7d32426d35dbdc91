"""What each listener of Twisted logs: its start, its refusals with their fields, and not too many of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from twisted.internet import defer
from twisted.internet.endpoints import TCP4ServerEndpoint, serverFromString
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from proxyprotocol.metrics import ProxyProtocolMetrics
from proxyprotocol.trustfile import TrustedProxiesFile
from proxyprotocol.twisted import ProxyProtocolServerEndpoint
from tests.on_twisted import datagrams, tls
from tests.on_twisted.reactors import (
    HEADER,
    AppFactory,
    Log,
    MemoryTransport,
    accept,
    connect,
    listen,
    run,
    until,
    wrap,
)
from tests.on_twisted.tls import Files, TLSClient

pytestmark = tls.OLD_WAYS

EVERYBODY = "from everybody: anyone who can connect can claim any address; name your proxies with "


def tcp(reactor: Any) -> Any:
    return TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")


async def by_listen_tcp(reactor: Any, factory: Any, **keywords: Any) -> Any:
    return listen(reactor, wrap(factory, clock=reactor, **keywords))


async def by_endpoint(reactor: Any, factory: Any, **keywords: Any) -> Any:
    return await ProxyProtocolServerEndpoint(tcp(reactor), **keywords).listen(factory)


async def by_string(reactor: Any, factory: Any, options: str = "") -> Any:
    return await serverFromString(reactor, f"proxyprotocol:tcp:0:interface=127.0.0.1{options}").listen(factory)


# Start lines.


@pytest.mark.parametrize(
    ("listening", "keywords", "line"),
    [
        (by_listen_tcp, {"trusted": ["10.0.0.0/8"]}, ("info", "Reads version 1 and 2 headers from 10.0.0.0/8")),
        (
            by_listen_tcp,
            {},
            ("warn", f'Reads version 1 and 2 headers {EVERYBODY}trusted=..., or say trusted="any"'),
        ),
        (
            by_endpoint,
            {"trusted": "10.0.0.0/8, !10.9.0.0/16"},
            ("info", "Reads version 1 and 2 headers on 127.0.0.1:PORT from 10.0.0.0/8, !10.9.0.0/16"),
        ),
        (
            by_endpoint,
            {},
            ("warn", f'Reads version 1 and 2 headers on 127.0.0.1:PORT {EVERYBODY}trusted=..., or say trusted="any"'),
        ),
        (
            by_endpoint,
            {"trusted": "any"},
            ("info", "Reads version 1 and 2 headers on 127.0.0.1:PORT from everybody, as trusted says"),
        ),
        (
            by_string,
            {"options": ":ppVersion=v2"},
            ("warn", f"Reads version 2 headers on 127.0.0.1:PORT {EVERYBODY}ppTrusted=..., or say ppTrusted=any"),
        ),
        (
            by_string,
            {"options": ":ppTrusted=Any"},
            ("info", "Reads version 1 and 2 headers on 127.0.0.1:PORT from everybody, as ppTrusted says"),
        ),
        (
            by_string,
            {"options": ":ppTrusted=unix,!10.0.0.1,10.0.0.0/8:ppUntrusted=direct"},
            (
                "info",
                "Reads version 1 and 2 headers on 127.0.0.1:PORT from unix, !10.0.0.1, 10.0.0.0/8, and serves all "
                "others without a header",
            ),
        ),
    ],
)
def test_a_listener_says_once_what_it_reads_and_from_whom(
    reactor: Any, log: Log, listening: Callable[..., Any], keywords: dict[str, Any], line: tuple[str, str]
) -> None:
    ports: list[Any] = []

    async def scenario() -> None:
        ports.append((await listening(reactor, AppFactory(), **keywords)).getHost().port)

    run(reactor, scenario())
    assert log.all_lines == [(line[0], line[1].replace("PORT", str(ports[0])))]


def test_a_unix_socket_is_named(reactor: Any, log: Log, short_path: Path) -> None:
    async def scenario() -> None:
        await serverFromString(reactor, f"proxyprotocol:unix:{short_path}/s:ppTrusted=unix").listen(AppFactory())

    run(reactor, scenario())
    assert log.all_lines == [("info", f"Reads version 1 and 2 headers on UNIX socket '{short_path}/s' from unix")]


def test_a_port_without_an_address_has_no_name(log: Log) -> None:
    class Pipes(TCP4ServerEndpoint):
        def listen(self, factory: Any) -> Any:
            class Port:
                def getHost(self) -> object:
                    return object()

            return defer.succeed(Port())

    pipes = Pipes(MemoryReactorClock(), 0)  # type: ignore[no-untyped-call]
    ProxyProtocolServerEndpoint(pipes, trusted="::1").listen(AppFactory())
    assert log.all_lines == [("info", "Reads version 1 and 2 headers from ::1")]


def test_a_factory_on_two_ports_says_it_once(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        wrapping = wrap(AppFactory(), clock=reactor, trusted="::1")
        for _ in range(2):
            listen(reactor, wrapping)

    run(reactor, scenario())
    assert log.all_lines == [("info", "Reads version 1 and 2 headers from ::1")]


def test_the_first_connection_says_where_a_factory_listens(reactor: Any, log: Log) -> None:
    counters, clients = ProxyProtocolMetrics(registry := CollectorRegistry()), list[Any]()

    async def scenario() -> None:
        wrapping = wrap(AppFactory(), clock=reactor, trusted="::1", metrics=counters)
        ports = [listen(reactor, wrapping) for _ in range(2)]
        for port in ports + ports:
            clients.append(await connect(reactor, port))
            await until(reactor, lambda: clients[-1].lost)
        places = [f"127.0.0.1:{port.getHost().port}" for port in ports]
        text = "Reads version 1 and 2 headers on {} from ::1"
        assert log.starts[1:] == [("info", text.format(place)) for place in places]
        assert [f" on {place}: " in line for place, (_, line) in zip(places + places, log.lines, strict=True)] == [
            True
        ] * 4
        for place in places:
            assert registry.get_sample_value("proxyprotocol_connections_total", {"listener": place}) == 2

    run(reactor, scenario())


def test_a_string_can_name_a_file(log: Log, tmp_path: Path) -> None:
    (tmp_path / "proxies").write_text("10.0.0.0/8  # the balancers\n")
    reactor = MemoryReactorClock()
    serverFromString(reactor, f"proxyprotocol:tcp:80:ppTrusted=@{tmp_path}/proxies").listen(AppFactory())
    factory: Any = reactor.tcpServers[0][1]
    assert isinstance(factory.listener.receiver.policy, TrustedProxiesFile)
    assert log.all_lines == [("info", "Reads version 1 and 2 headers on 0.0.0.0:80 from 10.0.0.0/8")]


def test_datagrams_start_with_a_line_and_refuse_with_fields(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        port = datagrams.listen(reactor, datagrams.App(), clock=Clock(), trusted="10.0.0.0/8")
        where = f"127.0.0.1:{port.getHost().port}"
        assert log.all_lines == [("info", f"Reads version 2 headers on {where} from 10.0.0.0/8")]
        sender = datagrams.peer_of(reactor, port)
        sender.transport.write(b"?")
        await until(reactor, lambda: log.lines)
        here = sender.transport.getHost().port
        assert log.lines == [
            (
                "warn",
                f"Refused a datagram from 127.0.0.1:{here} on {where}: The peer is not one of the trusted proxies; if "
                "it is your proxy, add it to trusted",
            )
        ]
        assert log.fields == {
            "listener": where,
            "reason": "untrusted",
            "network_peer_address": "127.0.0.1",
            "network_peer_port": here,
        }

    run(reactor, scenario())


# Refusals.


@pytest.mark.parametrize(
    ("listening", "keywords", "spelt"),
    [
        (by_listen_tcp, {"trusted": ["10.0.0.0/8"]}, "trusted"),
        (by_endpoint, {"trusted": ["10.0.0.0/8"]}, "trusted"),
        (by_string, {"options": ":ppTrusted=10.0.0.0/8"}, "ppTrusted"),
    ],
)
def test_a_refusal_names_the_peer_the_listener_and_the_setting(
    reactor: Any, log: Log, listening: Callable[..., Any], keywords: dict[str, Any], spelt: str
) -> None:
    async def scenario() -> None:
        port = await listening(reactor, AppFactory(), **keywords)
        client = await connect(reactor, port)
        here, there = client.transport.getHost().port, port.getHost().port
        await until(reactor, lambda: client.lost)
        assert log.lines == [
            (
                "warn",
                f"Refused a connection from 127.0.0.1:{here} on 127.0.0.1:{there}: The peer is not one of the trusted "
                f"proxies; if it is your proxy, add it to {spelt}",
            )
        ]
        assert log.fields == {
            "listener": f"127.0.0.1:{there}",
            "reason": "untrusted",
            "network_peer_address": "127.0.0.1",
            "network_peer_port": here,
        }

    run(reactor, scenario())


def test_the_wrong_version_is_told_as_such(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        client = await connect(reactor, await by_string(reactor, AppFactory(), ":ppVersion=v2:ppTrusted=any"))
        client.transport.write(HEADER)
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    ((_, line),) = log.lines
    assert line.endswith(": A version 1 header came, but only version 2 is accepted here (at byte 0); see ppVersion")
    assert log.fields["reason"] == "version"


def test_a_second_header_is_warned_of(reactor: Any, log: Log) -> None:
    factory = AppFactory()

    async def scenario() -> None:
        client = await connect(reactor, await by_string(reactor, factory, ":ppTrusted=any"))
        client.transport.write(HEADER + HEADER + b"data")
        await until(reactor, lambda: factory.apps)
        here = client.transport.getHost().port
        ((level, line),) = log.lines
        assert level == "warn"
        assert line.startswith(f"A second PROXY protocol header follows the first from 127.0.0.1:{here} on 127.0.0.1:")
        assert line.endswith("probably two proxies in a chain send one each; let only one of them do it")

    run(reactor, scenario())
    assert factory.app.received == HEADER + b"data"


def test_no_more_than_ten_lines_a_second_and_a_summary(clock: Clock, log: Log) -> None:
    wrapping = wrap(AppFactory(), clock=clock, timeout=None)
    for _ in range(10_000):
        accept(wrapping).receive(b"GET / HTTP/1.0\r\n\r\n")
    assert len(log.lines) == 10
    clock.advance(1)
    text = "Refused 9,990 more connections within a second on 10.9.8.7:8080: 9,990 no_header"
    assert log.lines[10:] == [("warn", text)]
    assert log.fields == {"listener": "10.9.8.7:8080", "refusals": {"no_header": 9990}}
    accept(wrapping).receive(b"?")
    assert (len(log.lines), clock.getDelayedCalls()) == (12, [])  # no timer is left


def test_the_last_summary_comes_when_the_port_stops(clock: Clock, log: Log) -> None:
    wrapping = wrap(AppFactory(), clock=clock)
    wrapping.doStart()
    for _ in range(12):
        accept(wrapping).receive(b"?")
    wrapping.doStop()
    assert log.lines[10:] == [("warn", "Refused 2 more connections within a second on 10.9.8.7:8080: 2 no_header")]
    assert clock.getDelayedCalls() == []


# Handshakes after the header.


def test_a_failed_handshake_names_the_client_and_the_proxy(reactor: Any, files: Files, log: Log) -> None:
    async def scenario() -> None:
        string = files.string("proxyprotocol:ssl:0:interface=127.0.0.1") + ":ppTrusted=any"
        port = await serverFromString(reactor, string).listen(AppFactory())
        client = await connect(reactor, port)
        client.transport.write(HEADER + b"GET / HTTP/1.0\r\n\r\n")
        await until(reactor, lambda: log.lines)
        here, there = client.transport.getHost().port, port.getHost().port
        reason = "the TLS handshake failed: http request"
        assert log.lines == [
            (
                "warn",
                f"Refused a connection from 192.0.2.1:1000, relayed by 127.0.0.1:{here} on 127.0.0.1:{there}: {reason}",
            )
        ]
        assert log.fields == {
            "listener": f"127.0.0.1:{there}",
            "reason": "tls",
            "network_peer_address": "127.0.0.1",
            "network_peer_port": here,
            "client_address": "192.0.2.1",
            "client_port": 1000,
        }

    run(reactor, scenario())


@pytest.mark.parametrize("by", ["the client", "the application"])
def test_a_connection_that_ends_in_its_handshake_is_no_warning(reactor: Any, files: Files, log: Log, by: str) -> None:
    ends: list[Any] = []
    factory = AppFactory(lambda app: app.transport.loseConnection() if by == "the application" else ends.append(app))

    async def scenario() -> None:
        string = files.string("proxyprotocol:ssl:0:interface=127.0.0.1") + ":ppTrusted=any"
        client = await connect(reactor, await serverFromString(reactor, string).listen(factory))
        client.transport.write(HEADER)
        if by == "the client":
            await until(reactor, lambda: ends)
            client.transport.loseConnection()
            await until(reactor, lambda: log.lines)
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert [level for level, _ in log.lines] == (["debug"] if by == "the client" else [])


def test_a_handshake_that_succeeds_is_not_logged(reactor: Any, files: Files, log: Log) -> None:
    client = TLSClient(files.context(), HEADER)

    async def scenario() -> None:
        string = files.string("proxyprotocol:ssl:0:interface=127.0.0.1") + ":ppTrusted=any"
        await connect(reactor, await serverFromString(reactor, string).listen(AppFactory()), client)
        await until(reactor, lambda: client.ready)
        client.transport.loseConnection()
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert log.lines == []


def test_the_addresses_of_an_unknown_kind_are_named_so(log: Log) -> None:
    class Odd:
        """An address of a foreign transport."""

    odd: IAddress = Odd()  # type: ignore[assignment]
    accept(wrap(AppFactory()), MemoryTransport(odd, odd)).receive(b"?")
    ((_, line),) = log.lines
    assert line.startswith("Refused a connection from an unknown address: There is no PROXY protocol header")
