"""Datagrams through Twisted: the application sees the client, and answers go to the proxy."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.interfaces import IMulticastTransport, IUDPTransport
from twisted.internet.protocol import AbstractDatagramProtocol
from twisted.internet.task import Clock

from proxyprotocol import HeaderPolicy, ProxyProtocolSPP, ProxyProtocolV1, ProxyProtocolV2, Receiver, TrustedProxies
from proxyprotocol.twisted import IProxiedDatagramTransport, ProxyProtocolDatagramWrapper
from tests.core.test_spp import SPP, SPP6
from tests.on_twisted.datagrams import CLIENT, HEADER, App, Peer, ask, keep_quiet, listen, peer_of
from tests.on_twisted.reactors import Log, run, turns, until
from tests.vectors import IPV4_BLOCK, IPV6_BLOCK, LOCAL, PROXY, paths, tlv, v2

CLIENT6 = ("2001:db8::1", 1000)
HEADER6 = v2(PROXY, 0x22, IPV6_BLOCK)


def test_the_application_sees_the_client_and_its_answer_goes_to_the_proxy(reactor: Any) -> None:
    async def scenario() -> None:
        app = App()
        port = listen(reactor, app)
        proxy = peer_of(reactor, port)
        assert await ask(reactor, proxy, HEADER + b"a", HEADER6 + b"b") == [b"re: a", b"re: b"]
        assert app.datagrams == [(b"a", CLIENT), (b"b", CLIENT6)]
        assert [result.sockname for result in app.results if result] == [
            ("198.51.100.2", 2000),
            ("2001:db8:ffff::2", 2000, 0, 0),
        ]
        assert app.transport.getHost() == port.getHost()
        await port.stopListening()
        assert app.events == [("start", True), ("stop", False)]

    run(reactor, scenario())


def test_an_answer_to_the_simple_proxy_protocol_begins_with_the_same_header(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        app = App()
        port = listen(reactor, app, pp=ProxyProtocolSPP(), trusted=["127.0.0.1"])
        proxy = peer_of(reactor, port)
        assert await ask(reactor, proxy, SPP + b"a", SPP6 + b"b") == [SPP + b"re: a", SPP6 + b"re: b"]
        app.transport.writeSequence([b"la", b"ter"], ("203.0.113.7", 5678))
        await until(reactor, lambda: proxy.received[2:] == [SPP + b"later"])
        assert app.datagrams == [(b"a", ("203.0.113.7", 5678)), (b"b", ("2001:db8::7", 5678))]
        with pytest.raises(ValueError, match="needs the address of its client"):
            app.transport.write(b"for nobody")
        proxy.transport.write(SPP[:37])
        await until(reactor, lambda: len(log.lines) == 1)
        await port.stopListening()

    run(reactor, scenario())
    assert log.starts[0][1].startswith("Reads Simple Proxy Protocol headers on 127.0.0.1:")
    assert log.lines[0][1].endswith("The datagram has 37 bytes, but its header needs at least 38")


@pytest.fixture
def ipv6() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"there is no ::1 on this machine: {error}")


@pytest.mark.usefixtures("ipv6")
def test_an_ipv6_port_serves_clients_of_both_families(reactor: Any) -> None:
    async def scenario() -> None:
        app = App()
        proxy = peer_of(reactor, listen(reactor, app, "::1"))
        # Twisted's own write() from this port to the second client would raise an error
        assert await ask(reactor, proxy, HEADER6 + b"a", HEADER + b"b") == [b"re: a", b"re: b"]
        assert app.datagrams == [(b"a", CLIENT6), (b"b", CLIENT)]
        proxy = peer_of(reactor, listen(reactor, App(), "::1", pp=ProxyProtocolSPP(), trusted=["::1"]))
        assert await ask(reactor, proxy, SPP6 + b"a", SPP + b"b") == [SPP6 + b"re: a", SPP + b"re: b"]

    run(reactor, scenario())


@pytest.mark.parametrize("header", [v2(LOCAL, 0x00), v2(PROXY, 0x00), v2(LOCAL, 0x12, IPV4_BLOCK)])
def test_a_proxy_that_speaks_for_itself_counts_as_the_client(reactor: Any, header: bytes) -> None:
    async def scenario() -> None:
        app = App()
        proxy = peer_of(reactor, listen(reactor, app))
        assert await ask(reactor, proxy, header + b"check") == [b"re: check"]
        here = proxy.transport.getHost()
        assert app.datagrams == [(b"check", (here.host, here.port))]
        assert app.results != [None]

    run(reactor, scenario())


def test_getProxyResult_returns_the_rest_of_the_header(reactor: Any) -> None:
    async def scenario() -> None:
        app = App()
        wrapper = ProxyProtocolDatagramWrapper(app)
        port = reactor.listenUDP(0, wrapper, interface="127.0.0.1")
        proxy = peer_of(reactor, port)
        await ask(reactor, proxy, v2(PROXY, 0x12, IPV4_BLOCK, tlv(0xE5, b"shop")) + b"a")
        assert [result and result.tlv[0xE5] for result in app.results] == [b"shop"]
        # a later answer works too
        result = IProxiedDatagramTransport(app.transport).getProxyResult(CLIENT)
        assert result is not None
        assert result.tlv[0xE5] == b"shop"
        assert app.transport.getProxyResult(("192.0.2.1", 1)) is None

    run(reactor, scenario())


def test_a_late_answer_goes_to_the_last_proxy_of_the_client(reactor: Any) -> None:
    async def scenario() -> None:
        app = App(keep_quiet)
        port = listen(reactor, app)
        first, second = peer_of(reactor, port), peer_of(reactor, port)
        first.transport.write(HEADER + b"a")
        await until(reactor, lambda: len(app.datagrams) == 1)
        app.transport.write(b"one", CLIENT)
        await until(reactor, lambda: first.received == [b"one"])
        second.transport.write(HEADER + b"b")
        await until(reactor, lambda: len(app.datagrams) == 2)
        app.transport.writeSequence([b"t", b"wo"], CLIENT)
        await until(reactor, lambda: second.received == [b"two"])
        assert first.received == [b"one"]

    run(reactor, scenario())


def test_an_immediate_answer_goes_to_the_proxy_of_the_current_datagram(reactor: Any) -> None:
    async def scenario() -> None:
        port = listen(reactor, App())
        proxies = [peer_of(reactor, port) for _ in range(2)]
        for turn in range(20):
            for number, proxy in enumerate(proxies):
                proxy.transport.write(HEADER + f"{number} {turn}".encode())
        await until(reactor, lambda: [len(proxy.received) for proxy in proxies] == [20, 20])
        for number, proxy in enumerate(proxies):
            assert proxy.received == [f"re: {number} {turn}".encode() for turn in range(20)]

    run(reactor, scenario())


def test_a_direct_client_is_answered_directly_even_after_a_proxy_spoke_for_it(reactor: Any) -> None:
    async def scenario() -> None:
        port = listen(reactor, App(), policy=HeaderPolicy.OPTIONAL)
        proxy, direct = peer_of(reactor, port), peer_of(reactor, port)
        number = direct.transport.getHost().port.to_bytes(2, "big")
        header = v2(PROXY, 0x12, socket.inet_aton("127.0.0.1"), IPV4_BLOCK[4:8], number, IPV4_BLOCK[10:])
        assert await ask(reactor, proxy, header + b"a") == [b"re: a"]
        assert await ask(reactor, direct, b"b") == [b"re: b"]
        assert len(proxy.received) == 1

    run(reactor, scenario())


def test_an_unknown_address_is_written_to_directly_if_clients_may_come_directly(reactor: Any) -> None:
    async def scenario() -> None:
        app = App(keep_quiet)
        port = listen(reactor, app, policy=HeaderPolicy.OPTIONAL)
        stranger = peer_of(reactor, port)
        here = stranger.transport.getHost()
        app.transport.write(b"hello", (here.host, here.port))
        await until(reactor, lambda: stranger.received == [b"hello"])

    run(reactor, scenario())


def test_a_late_answer_never_bypasses_the_proxy(reactor: Any, log: Log) -> None:
    """Once it did: one forged datagram made the application send to any address."""

    async def scenario() -> None:
        app, clock = App(keep_quiet), Clock()
        port = listen(reactor, app, clock=clock, client_timeout=60)
        proxy, named = peer_of(reactor, port), peer_of(reactor, port)
        here = named.transport.getHost()
        number = here.port.to_bytes(2, "big")
        proxy.transport.write(
            v2(PROXY, 0x12, socket.inet_aton("127.0.0.1"), IPV4_BLOCK[4:8], number, IPV4_BLOCK[10:]) + b"a"
        )
        await until(reactor, lambda: app.datagrams == [(b"a", (here.host, here.port))])
        client = app.datagrams[0][1]
        app.transport.write(b"in time", client)
        clock.advance(60)
        app.transport.write(b"late", client)
        app.transport.writeSequence([b"later"], client)
        # the peer got a later datagram, so an earlier one would have arrived
        proxy.transport.write(v2(LOCAL, 0x00) + b"b")
        await until(reactor, lambda: len(app.datagrams) == 2)
        app.transport.write(b"last", app.datagrams[1][1])
        await until(reactor, lambda: proxy.received == [b"in time", b"last"])
        await turns(reactor)
        assert named.received == []
        assert log.lines == [("debug", f"No proxy is known for 127.0.0.1:{here.port}: its answer is dropped")] * 2

    run(reactor, scenario())


def test_a_client_is_forgotten_after_a_time_or_for_a_newer_client(reactor: Any) -> None:
    async def scenario() -> None:
        app, clock = App(), Clock()
        port = listen(reactor, app, clock=clock, max_clients=2, client_timeout=60)
        proxy = peer_of(reactor, port)

        def known() -> list[bool]:
            clients = [("192.0.2.1", number) for number in (1, 2, 3)]
            return [app.transport.getProxyResult(client) is not None for client in clients]

        def header(number: int) -> bytes:
            return v2(PROXY, 0x12, IPV4_BLOCK[:8], number.to_bytes(2, "big"), IPV4_BLOCK[10:])

        await ask(reactor, proxy, header(1) + b"1")
        clock.advance(40)
        await ask(reactor, proxy, header(2) + b"2")
        assert known() == [True, True, False]
        clock.advance(30)
        assert known() == [False, True, False]
        await ask(reactor, proxy, header(1) + b"1", header(2) + b"2", header(3) + b"3")
        assert known() == [False, True, True]

    run(reactor, scenario())


@pytest.mark.parametrize(
    ("header", "client"),
    [(HEADER6, "[2001:db8::1]:1000"), (v2(PROXY, 0x32, paths(b"/client", b"/server")), "UNIX socket '/client'")],
    ids=["IPv6", "UNIX"],
)
@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (HeaderPolicy.REQUIRE, ": its answer is dropped"),
        (HeaderPolicy.OPTIONAL, ", and its address family is not the socket's"),
    ],
    ids=["REQUIRE", "OPTIONAL"],
)
def test_a_late_answer_to_a_forgotten_client_of_another_family_is_dropped(
    reactor: Any, header: bytes, client: str, policy: HeaderPolicy, reason: str, log: Log
) -> None:
    """Twisted's own port would raise an error into the application."""

    async def scenario() -> None:
        app, clock = App(), Clock()
        port = listen(reactor, app, clock=clock, client_timeout=60, policy=policy)
        proxy = peer_of(reactor, port)
        await ask(reactor, proxy, header + b"question")
        ((_, address),) = app.datagrams
        clock.advance(60)
        app.transport.write(b"late", address)
        await ask(reactor, proxy, HEADER + b"next")
        assert proxy.received[-1] == b"re: next"
        assert log.lines == [("debug", f"No proxy is known for {client}{reason}")]

    run(reactor, scenario())


# Errors of the application, and its transport


def test_an_error_of_the_application_is_logged_and_the_next_datagram_arrives(reactor: Any, log: Log) -> None:
    def received(app: App, data: bytes, addr: Any) -> None:
        if data == b"bad":
            raise ZeroDivisionError("the application's")
        app.transport.write(data, addr)

    async def scenario() -> None:
        app = App(received)
        port = listen(reactor, app, policy=HeaderPolicy.OPTIONAL)
        proxy, other = peer_of(reactor, port), peer_of(reactor, port)
        proxy.transport.write(HEADER + b"bad")
        assert await ask(reactor, other, HEADER + b"good") == [b"good"]
        assert log.flush(ZeroDivisionError) == 1
        # the failed datagram is no longer the current one
        app.transport.write(b"late", CLIENT)
        await until(reactor, lambda: other.received == [b"good", b"late"])

    run(reactor, scenario())


def test_the_transport_differs_from_the_port_only_in_where_it_sends(reactor: Any) -> None:
    async def scenario() -> None:
        app = App()
        wrapper = ProxyProtocolDatagramWrapper(app)
        port = reactor.listenMulticast(0, wrapper, interface="127.0.0.1")
        for interface in (IUDPTransport, IMulticastTransport, IProxiedDatagramTransport):
            assert interface.providedBy(app.transport)
        app.transport.setTTL(3)
        assert port.getTTL() == 3
        assert app.transport.socket is port.socket
        await app.transport.stopListening()
        assert app.events == [("start", True), ("stop", False)]

    run(reactor, scenario())


def test_a_connected_port_writes_to_its_proxy_with_and_without_an_address(reactor: Any) -> None:
    async def scenario() -> None:
        app = App()
        port = listen(reactor, app)
        proxy = peer_of(reactor, port)
        here = proxy.transport.getHost()
        app.transport.connect(here.host, here.port)
        assert await ask(reactor, proxy, HEADER + b"a") == [b"re: a"]
        app.transport.write(b"unasked")
        app.transport.writeSequence([b"again"])
        await until(reactor, lambda: proxy.received[1:] == [b"unasked", b"again"])

    run(reactor, scenario())


# The polling reactors close a port after such a refusal, with or without the wrapper.
@pytest.mark.parametrize("reactor", ["select", "asyncio"], indirect=True)
def test_connectionRefused_reaches_the_application(reactor: Any) -> None:
    async def scenario() -> None:
        app = App()
        port = listen(reactor, app)
        proxy = peer_of(reactor, port)
        here = proxy.transport.getHost()
        app.transport.connect(here.host, here.port)
        await proxy.transport.stopListening()
        app.transport.write(b"gone")
        await until(reactor, lambda: "refused" in app.events)

    run(reactor, scenario())


def test_the_log_names_the_application_alone(reactor: Any, log: Log) -> None:
    class Bare(AbstractDatagramProtocol):
        pass

    async def scenario() -> None:
        for app, name in ((App(), "App"), (Bare(), "Bare")):
            wrapper = ProxyProtocolDatagramWrapper(app)
            port = reactor.listenUDP(0, wrapper, interface="127.0.0.1")
            assert port.logPrefix() == f"{name} (UDP)"
            await port.stopListening()

    run(reactor, scenario())
    started = [event["log_text"] for event in log.events if "protocol <" in event.get("log_text", "")]
    assert [text.partition(" <")[0] for text in started] == ["Starting protocol", "Stopping protocol"] * 2
    assert not [text for text in started if "Wrapper" in text]


def test_a_wrapper_can_listen_again(reactor: Any) -> None:
    async def scenario() -> None:
        app = App()
        app.noisy = False
        wrapper = ProxyProtocolDatagramWrapper(app)
        for _ in range(2):
            port = reactor.listenUDP(0, wrapper, interface="127.0.0.1")
            assert await ask(reactor, peer_of(reactor, port), HEADER + b"a") == [b"re: a"]
            await port.stopListening()
        assert [event[0] for event in app.events] == ["start", "stop"] * 2

    run(reactor, scenario())


def test_datagrams_of_unix_sockets_work(reactor: Any, short_path: Path) -> None:
    async def scenario() -> None:
        app, proxy = App(), Peer()
        app.noisy = False
        path = str(short_path / "app")
        wrapper = ProxyProtocolDatagramWrapper(app, policy=TrustedProxies(["unix"]))
        reactor.listenUNIXDatagram(path, wrapper)
        ours = reactor.listenUNIXDatagram(str(short_path / "proxy"), proxy)
        ours.write(HEADER + b"a", path)
        ours.write(v2(PROXY, 0x32, paths(b"/client", b"/x")) + b"b", path)
        ours.write(v2(LOCAL, 0x00) + b"c", path)
        await until(reactor, lambda: proxy.received == [b"re: a", b"re: b", b"re: c"])
        assert app.datagrams == [(b"a", CLIENT), (b"b", "/client"), (b"c", os.fsdecode(ours.getHost().name))]

    run(reactor, scenario())


def test_an_answer_to_a_proxy_without_an_address_is_dropped(reactor: Any, short_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        app.noisy = False
        path = str(short_path / "app")
        reactor.listenUNIXDatagram(path, ProxyProtocolDatagramWrapper(app))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
            nameless.sendto(HEADER + b"a", path)
        await until(reactor, lambda: app.datagrams == [(b"a", CLIENT)])
        await turns(reactor)  # the answer is dropped; an error would be in the log

    run(reactor, scenario())


# arguments


def test_the_keywords_are_those_of_every_adapter(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        app = App()
        port = listen(reactor, app, receiver=Receiver(ProxyProtocolV2(), max_header=30, timeout=None), clock=Clock())
        proxy = peer_of(reactor, port)
        proxy.transport.write(v2(PROXY, 0x12, IPV4_BLOCK, tlv(4)))
        assert await ask(reactor, proxy, HEADER + b"a") == [b"re: a"]
        assert ["The header has 31 bytes where max_header allows 30" in line for _, line in log.lines] == [True]

    run(reactor, scenario())


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({"pp": ProxyProtocolV1()}, ValueError, "Version 1 is only for streams"),
        ({"receiver": Receiver(), "max_header": 30}, TypeError, "max_header= cannot be given with it"),
        ({"max_client": 30}, TypeError, "unknown keyword max_client; did you mean max_clients[?]"),
        ({"max_headers": 30}, TypeError, "unknown keyword max_headers; did you mean max_header[?]"),
        ({"max_clients": 0}, ValueError, "max_clients must be at least 1"),
        ({"client_timeout": -1}, ValueError, "client_timeout must be a number of seconds above 0"),
    ],
)
def test_wrong_keywords_raise_an_error_at_once(keywords: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ProxyProtocolDatagramWrapper(App(), **keywords)


def test_a_wrapped_protocol_is_refused() -> None:
    with pytest.raises(TypeError, match="already reads a header"):
        ProxyProtocolDatagramWrapper(ProxyProtocolDatagramWrapper(App()))
