"""The header inside TLS, for the rare sender that puts it there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import ISSLTransport

from proxyprotocol.twisted import IProxiedTransport, proxy_result
from tests.on_twisted import tls
from tests.on_twisted.reactors import (
    CLIENT,
    DESTINATION,
    HEADER,
    App,
    AppFactory,
    Log,
    RefusingFactory,
    connect,
    run,
    turns,
    until,
    wrap,
)
from tests.on_twisted.tls import CUTS, Files, TLSClient, answering

pytestmark = tls.OLD_WAYS


INSIDE = "proxyprotocol:ssl:0:interface=127.0.0.1:ppInsideTLS=yes"


async def inside(reactor: Any, files: Files, factory: Any, client: TLSClient) -> None:
    """Connect to a server with ppInsideTLS=yes, and do the handshake."""
    await connect(reactor, await serverFromString(reactor, files.string(INSIDE)).listen(factory), client)
    await until(reactor, lambda: client.ready)


@CUTS
def test_a_header_inside_tls_is_read(reactor: Any, files: Files, cut: Callable[[bytes], list[bytes]]) -> None:
    factory = AppFactory(read=answering)
    client = TLSClient(files.context())

    async def scenario() -> None:
        await inside(reactor, files, factory, client)
        client.say(*cut(HEADER), b"question")
        await until(reactor, lambda: client.received)
        transport = factory.app.transport
        assert (transport.client, transport.hostname) == ((CLIENT.host, CLIENT.port), CLIENT.host)
        assert ISSLTransport.providedBy(transport)
        assert (transport.getPeer(), transport.getHost()) == (CLIENT, DESTINATION)
        assert IProxiedTransport(transport).getProxyPeer() == client.transport.getHost()
        assert proxy_result(transport) is not None
        socket_transport = factory.app.transport.transport
        assert socket_transport.logstr == f"App ({type(transport).__name__}),{socket_transport.sessionno},192.0.2.1"
        client.transport.loseConnection()
        await until(reactor, lambda: factory.app.lost)

    run(reactor, scenario())
    assert (factory.built, client.received, len(factory.app.lost)) == ([CLIENT], b"answer to question", 1)


async def by_string(reactor: Any, files: Files, factory: Any) -> Any:
    return await serverFromString(reactor, files.string(INSIDE)).listen(factory)


async def by_listen_ssl(reactor: Any, files: Files, factory: Any) -> Any:
    return reactor.listenSSL(0, wrap(factory, clock=reactor), files.options(), interface="127.0.0.1")


WAYS = pytest.mark.parametrize("listening", [by_string, by_listen_ssl], ids=["ppInsideTLS=yes", "listenSSL"])


@WAYS
def test_a_header_before_tls_is_refused_with_inside_tls(reactor: Any, files: Files, listening: Any, log: Log) -> None:
    """Once it was logged at debug level, like a health check."""
    factory = AppFactory()
    client = TLSClient(files.context(), HEADER)

    async def scenario() -> None:
        await connect(reactor, await listening(reactor, files, factory), client)
        await until(reactor, lambda: client.lost and log.lines)

    run(reactor, scenario())
    assert (factory.built, client.ready) == ([], False)
    ((level, line),) = log.lines
    assert level == "warn"
    option = "ppInsideTLS" if listening is by_string else "inside_tls"
    assert re.fullmatch(
        r"Refused a connection from 127\.0\.0\.1:\d+ on 127\.0\.0\.1:\d+: TLS around the header failed "
        rf"\(Error\(.*\)\)\. Most senders put the header in front of TLS: leave out {option}, and listenSSL",
        line,
    )


@WAYS
def test_a_peer_that_closes_before_its_handshake_is_logged_at_debug_level(
    reactor: Any, files: Files, listening: Any, log: Log
) -> None:
    """TCP health checks do this."""
    factory = AppFactory()

    async def scenario() -> None:
        client = await connect(reactor, await listening(reactor, files, factory))
        client.transport.loseConnection()
        await until(reactor, lambda: log.lines)

    run(reactor, scenario())
    ((level, line),) = log.lines
    assert (level, factory.built) == ("debug", [])
    assert "before the first byte" in line


class Stubborn(TLSClient):
    """A client that does not answer when the server ends TLS."""

    def dataReceived(self, data: bytes) -> None:
        if not self.ready:
            super().dataReceived(data)


@WAYS
def test_a_rejected_connection_does_not_wait_for_the_end_of_tls(reactor: Any, files: Files, listening: Any) -> None:
    """TLS would wait for ever for the client's answer: the deadline has ended, and no application sets one."""
    factory, client = RefusingFactory(), Stubborn(files.context())

    async def scenario() -> None:
        await connect(reactor, await listening(reactor, files, factory), client)
        await until(reactor, lambda: client.ready)
        client.say(HEADER)
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert factory.built == [CLIENT]


def test_an_application_that_pauses_inside_tls_gets_everything_in_order(reactor: Any, files: Files) -> None:
    """TLS continues with the records it has read, and would deliver the second before the first."""
    factory = AppFactory(begin=lambda app: app.transport.pauseProducing())
    client = TLSClient(files.context())

    async def scenario() -> None:
        await inside(reactor, files, factory, client)
        client.say(HEADER + b"one ", b"two ", b"three ")
        await until(reactor, lambda: factory.apps)
        await turns(reactor)
        assert factory.app.received == b""
        factory.app.transport.resumeProducing()
        await until(reactor, lambda: factory.app.received)
        client.say(b"four")
        await until(reactor, lambda: factory.app.received.endswith(b"four"))

    run(reactor, scenario())
    assert factory.app.received == b"one two three four"


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
def test_ending_a_paused_connection_inside_tls_calls_connectionLost_once(reactor: Any, files: Files, end: str) -> None:
    factory = AppFactory(begin=lambda app: app.transport.pauseProducing())
    client = TLSClient(files.context())

    async def scenario() -> None:
        await inside(reactor, files, factory, client)
        client.say(HEADER + b"one ", b"two")
        await until(reactor, lambda: factory.apps)
        getattr(factory.app.transport, end)()
        client.transport.abortConnection()
        factory.app.transport.abortConnection()
        await until(reactor, lambda: factory.app.lost)
        await turns(reactor)

    run(reactor, scenario())
    assert (factory.app.received, len(factory.app.lost)) == (b"", 1)


def test_an_application_inside_tls_can_replace_its_protocol(reactor: Any, files: Files) -> None:
    other = App()
    other.factory = AppFactory()

    def begin(app: App) -> None:
        app.transport.wrappedProtocol = other

    client = TLSClient(files.context())

    async def scenario() -> None:
        await inside(reactor, files, AppFactory(begin=begin), client)
        client.say(HEADER + b"one ", b"two")
        await until(reactor, lambda: other.received.endswith(b"two"))
        client.transport.abortConnection()
        await until(reactor, lambda: other.lost)

    run(reactor, scenario())
    assert other.received == b"one two"
