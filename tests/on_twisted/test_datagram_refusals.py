"""Datagrams through Twisted: who may send them, and what happens to refused ones."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from proxyprotocol import HeaderPolicy, TrustedProxies
from proxyprotocol.twisted import ProxyProtocolDatagramWrapper
from tests.core.test_fuzz import mutated
from tests.on_twisted.datagrams import CLIENT, HEADER, App, Peer, ask, keep_quiet, listen, peer_of
from tests.on_twisted.reactors import Log, run, until
from tests.vectors import SIGNATURE, VERSION_1


def test_a_datagram_without_a_header_is_dropped_and_logged(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        app = App()
        port = listen(reactor, app, clock=Clock())
        proxy = peer_of(reactor, port)
        proxy.transport.write(b"\x1b[2J\n")
        await ask(reactor, proxy, HEADER + b"a")
        here = proxy.transport.getHost()
        assert app.datagrams == [(b"a", CLIENT)]
        assert log.lines == [
            (
                "warn",
                f"Refused a datagram from 127.0.0.1:{here.port} on 127.0.0.1:{port.getHost().port}: There is no PROXY "
                "protocol header: the data begins with b'\\x1b[2J\\n' (at byte 0); if 127.0.0.1 is your proxy, make it "
                "send the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on); see policy",
            )
        ]

    run(reactor, scenario())


def test_a_flood_does_not_fill_the_log(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        app, clock = App(), Clock()
        port = listen(reactor, app, clock=clock)
        proxy = peer_of(reactor, port)
        for _ in range(50):
            proxy.transport.write(b"flood")
        await ask(reactor, proxy, HEADER + b"a")
        assert len(log.lines) == 10
        clock.advance(1)
        where = f"127.0.0.1:{port.getHost().port}"
        summary = f"Refused 40 more datagrams within a second on {where}: 40 no_header"
        assert log.lines[10:] == [("warn", summary)]
        proxy.transport.write(HEADER[:-1])
        await ask(reactor, proxy, HEADER + b"b")
        assert log.lines[11][1].endswith("has 27 bytes, but its header needs at least 28")

    run(reactor, scenario())


def test_untrusted_senders_are_refused(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        app = App()
        port = listen(reactor, app, policy=TrustedProxies(["127.0.0.2"]))
        stranger, proxy = peer_of(reactor, port), Peer()
        reactor.listenUDP(0, proxy, interface="127.0.0.2")
        proxy.transport.connect(port.getHost().host, port.getHost().port)
        stranger.transport.write(HEADER + b"lie")
        assert await ask(reactor, proxy, HEADER + b"truth") == [b"re: truth"]
        assert app.datagrams == [(b"truth", CLIENT)]
        ((level, line),) = log.lines
        assert (
            level,
            line.endswith("The peer is not one of the trusted proxies; if it is your proxy, add it to trusted"),
        ) == ("warn", True)

    run(reactor, scenario())


def test_the_policy_function_gets_both_addresses(reactor: Any) -> None:
    async def scenario() -> None:
        asked = []

        def policy(sender: Any, local: Any) -> HeaderPolicy:
            asked.append((sender, local))
            return HeaderPolicy.REQUIRE

        port = listen(reactor, App(), policy=policy)
        proxy = peer_of(reactor, port)
        await ask(reactor, proxy, HEADER)
        addresses = [(end.getHost().host, end.getHost().port) for end in (proxy.transport, port)]
        assert asked == [tuple(addresses)]

    run(reactor, scenario())


@pytest.mark.parametrize(
    ("policy", "data", "payload", "believed"),
    [
        (HeaderPolicy.OPTIONAL, HEADER + b"a", b"a", True),
        (HeaderPolicy.OPTIONAL, b"plain", b"plain", False),
        (HeaderPolicy.OPTIONAL, VERSION_1[0].header, VERSION_1[0].header, False),
        (HeaderPolicy.IGNORE, HEADER + b"a", b"a", False),
        (HeaderPolicy.SKIP, HEADER + b"a", HEADER + b"a", False),
    ],
)
def test_each_policy_determines_the_client_and_the_payload(
    reactor: Any, policy: HeaderPolicy, data: bytes, payload: bytes, believed: bool
) -> None:
    async def scenario() -> None:
        app = App()
        sender = peer_of(reactor, listen(reactor, app, policy=policy))
        assert await ask(reactor, sender, data) == [b"re: " + payload]
        here = sender.transport.getHost()
        assert app.datagrams == [(payload, CLIENT if believed else (here.host, here.port))]
        assert (app.results == [None]) is (payload == data)

    run(reactor, scenario())


def test_any_bad_datagram_causes_only_a_log_line(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        app, random = App(keep_quiet), Random(0)
        port = listen(reactor, app)
        sender = peer_of(reactor, port)
        accepted, headers = 0, [data for data in (mutated(random) for _ in range(500)) if len(data) < 8000]
        for count, data in enumerate(headers):
            sender.transport.write(data)
            sender.transport.write(HEADER + b"%d" % count)
            # one by one, because the socket's buffer might overflow
            await until(reactor, lambda count=count: app.datagrams[-1:] == [(b"%d" % count, CLIENT)])  # type: ignore[misc]
            accepted += len(app.datagrams) - 1
            app.datagrams.clear()
        assert 50 < accepted < 400
        assert {level for level, _ in log.lines} == {"warn"}

    run(reactor, scenario())


def test_an_error_in_the_policy_function_is_logged_and_drops_the_datagram(reactor: Any, log: Log) -> None:
    def policy(sender: Any, local: Any) -> HeaderPolicy:
        raise ZeroDivisionError("the policy's")

    async def scenario() -> None:
        app = App()
        proxy = peer_of(reactor, listen(reactor, app, policy=policy))
        proxy.transport.write(HEADER)
        await until(reactor, lambda: log.flush(ZeroDivisionError))
        assert app.datagrams == []

    run(reactor, scenario())


def test_a_lone_signature_is_not_a_header(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        app = App()
        proxy = peer_of(reactor, listen(reactor, app, policy=HeaderPolicy.OPTIONAL))
        proxy.transport.write(SIGNATURE)
        await until(reactor, lambda: log.lines)
        assert app.datagrams == []

    run(reactor, scenario())


def test_a_second_header_in_a_datagram_is_warned_of(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        app = App()
        port = listen(reactor, app, trusted="any", clock=Clock())
        proxy = peer_of(reactor, port)
        await ask(reactor, proxy, HEADER + HEADER + b"a")
        assert app.datagrams == [(HEADER + b"a", CLIENT)]
        ((level, line),) = log.lines
        here = proxy.transport.getHost()
        where = f"from 127.0.0.1:{here.port} on 127.0.0.1:{port.getHost().port}"
        assert level == "warn"
        assert line.startswith(f"A second PROXY protocol header follows the first {where}, and the application gets it")

    run(reactor, scenario())


@pytest.mark.parametrize("wrong", [Factory(), App])
def test_only_a_protocol_for_datagrams_is_wrapped(wrong: Any) -> None:
    with pytest.raises(TypeError, match="wrapped_protocol must be a DatagramProtocol, not <"):
        ProxyProtocolDatagramWrapper(wrong, trusted="any")
