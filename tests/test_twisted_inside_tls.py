"""The header inside of TLS, for the rare sender that puts it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import ISSLTransport

from proxyprotocol.twisted import IProxiedTransport, proxy_result
from tests import _twisted, _twisted_tls
from tests._twisted import CLIENT, DESTINATION, HEADER, App, AppFactory, connect, run, turns, until
from tests._twisted_tls import CUTS, Files, TLSClient, answering

log, reactor = _twisted.log, _twisted.reactor
files = _twisted_tls.files
pytestmark = [pytest.mark.usefixtures("log"), _twisted_tls.OLD_WAYS]


async def inside(reactor: Any, files: Files, factory: Any, client: TLSClient) -> None:
    """Connect to a string that says so, and do the handshake."""
    endpoint = serverFromString(reactor, files.string("proxyprotocol:ssl:0:interface=127.0.0.1:ppInsideTLS=yes"))
    await connect(reactor, await endpoint.listen(factory), client)
    await until(reactor, lambda: client.ready)


@CUTS
def test_a_header_inside_of_tls_is_read_there(reactor: Any, files: Files, cut: Callable[[bytes], list[bytes]]) -> None:
    factory = AppFactory(read=answering)
    client = TLSClient(files.context())

    async def scenario() -> None:
        await inside(reactor, files, factory, client)
        client.say(*cut(HEADER), b"question")
        await until(reactor, lambda: client.received)
        transport = factory.app.transport
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


def test_a_header_in_front_of_tls_is_refused_where_it_must_be_inside(reactor: Any, files: Files) -> None:
    factory = AppFactory()
    client = TLSClient(files.context(), HEADER)

    async def scenario() -> None:
        endpoint = serverFromString(reactor, files.string("proxyprotocol:ssl:0:interface=127.0.0.1:ppInsideTLS=yes"))
        await connect(reactor, await endpoint.listen(factory), client)
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert (factory.built, client.ready) == ([], False)


def test_an_application_that_pauses_inside_of_tls_gets_everything_in_order(reactor: Any, files: Files) -> None:
    """TLS goes on with the records it has read, and would give the second to who has not yet got the first."""
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
def test_an_application_that_ends_a_paused_connection_inside_of_tls_is_told_of_the_end_once(
    reactor: Any, files: Files, end: str
) -> None:
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


def test_an_application_inside_of_tls_may_hand_the_connection_to_another_protocol(reactor: Any, files: Files) -> None:
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
