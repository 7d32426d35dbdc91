"""The hand-over on each kind of reactor, with real sockets, and what applications do in connectionMade."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.protocols.portforward import ProxyFactory
from zope.interface import implementer

from proxyprotocol.twisted import IProxiedTransport, ProxyProtocolWrapper
from tests.on_twisted.reactors import (
    CLIENT,
    DESTINATION,
    HEADER,
    App,
    AppFactory,
    Client,
    Log,
    connect,
    connected,
    listen,
    run,
    turns,
    until,
    watched,
    wrap,
)
from tests.vectors import single_bytes

# more than one read() returns
LONG = bytes(range(256)) * 1024


@implementer(IHalfCloseableProtocol)
class HalfCloseable(App):
    halves = ""

    def readConnectionLost(self) -> None:
        self.halves += "read "
        self.transport.write(b"answer")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        self.halves += "write "


def test_a_header_arrives_byte_by_byte(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = AppFactory(read=lambda app: app.transport.write(app.received))
    reads = []
    feed = ProxyProtocolWrapper.dataReceived

    def count(wrapper: ProxyProtocolWrapper, data: bytes) -> None:
        reads.append(data)
        feed(wrapper, data)

    monkeypatch.setattr(ProxyProtocolWrapper, "dataReceived", count)

    async def scenario() -> None:
        client = await connected(reactor, factory)
        client.transport.setTcpNoDelay(True)
        for number, byte in enumerate(single_bytes(HEADER), 1):
            assert factory.built == []
            client.transport.write(byte)
            await until(reactor, lambda: len(reads) == number)  # noqa: B023 (called in this iteration only)
        assert factory.built == [CLIENT]
        client.transport.write(b"data")
        await until(reactor, lambda: client.received == b"data")
        client.transport.loseConnection()
        await until(reactor, lambda: factory.app.lost)

    run(reactor, scenario())
    assert reads == single_bytes(HEADER)
    assert (factory.app.peer, factory.app.host, len(factory.app.lost)) == (CLIENT, DESTINATION, 1)


def test_the_transport_is_the_sockets_own(reactor: Any) -> None:
    factory = AppFactory()

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"data")
        await until(reactor, lambda: factory.apps)
        transport = factory.app.transport
        assert transport.protocol is factory.app
        assert transport.logstr == f"App,{transport.sessionno},192.0.2.1"
        assert IProxiedTransport(transport).getProxyPeer() == client.transport.getHost()
        for setting in (True, False):
            transport.setTcpNoDelay(setting)
            transport.setTcpKeepAlive(setting)
            assert (transport.getTcpNoDelay(), transport.getTcpKeepAlive()) == (setting, setting)
        assert isinstance(transport.getHandle(), socket.socket)
        assert transport.getHandle().getpeername()[1] == client.transport.getHost().port
        assert watched(transport) == []

    run(reactor, scenario())


def test_a_client_that_half_closes_after_its_request_still_gets_its_answer(reactor: Any) -> None:
    factory = AppFactory(kind=HalfCloseable)

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"request")
        client.transport.loseWriteConnection()
        await until(reactor, lambda: client.lost)
        assert client.received == b"answer"

    run(reactor, scenario())
    assert (factory.app.received, factory.app.halves, len(factory.app.lost)) == (b"request", "read ", 1)


def test_a_half_close_inside_the_header_ends_the_connection(reactor: Any, log: Log) -> None:
    factory = AppFactory(kind=HalfCloseable)

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER[:9])
        client.transport.loseWriteConnection()
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert (factory.built, [level for level, line in log.lines]) == ([], ["warn"])


def test_an_application_that_half_closes_still_receives_data(reactor: Any) -> None:
    @implementer(IHalfCloseableProtocol)
    class Listening(Client):
        ended = False

        def readConnectionLost(self) -> None:
            self.ended = True

        def writeConnectionLost(self) -> None:
            pass

    def begin(app: App) -> None:
        app.transport.write(b"greeting")
        app.transport.loseWriteConnection()

    factory = AppFactory(begin=begin, kind=HalfCloseable)
    client = Listening()

    async def scenario() -> None:
        port = listen(reactor, wrap(factory, clock=reactor))
        await connect(reactor, port, client)
        client.transport.write(HEADER)
        await until(reactor, lambda: client.ended)
        client.transport.write(b"last words")
        await until(reactor, lambda: factory.app.received == b"last words")
        client.transport.loseConnection()
        await until(reactor, lambda: factory.app.lost)

    run(reactor, scenario())
    assert client.received == b"greeting"
    assert factory.app.halves == "write read "


@pytest.mark.parametrize("when", ["begin", "read"])
def test_an_application_can_replace_its_protocol(reactor: Any, when: str) -> None:
    """An upgrade to WebSocket does this."""
    other = App()
    other.factory = AppFactory()
    factory = AppFactory(**{when: lambda app: setattr(app.transport, "protocol", other)})  # type: ignore[arg-type]

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"one ")
        await until(reactor, lambda: factory.apps and (factory.app.received or other.received))
        client.transport.write(b"two")
        await until(reactor, lambda: other.received.endswith(b"two"))
        client.transport.loseConnection()
        await until(reactor, lambda: other.lost)

    run(reactor, scenario())
    assert (factory.app.received, other.received) == ((b"", b"one two") if when == "begin" else (b"one ", b"two"))
    assert (len(factory.app.lost), len(other.lost)) == (0, 1)


@implementer(IPushProducer, IPullProducer)
class Source:
    """Produces a long text in pieces; as a push producer it pauses on request."""

    def __init__(self, app: App, streaming: bool) -> None:
        self.transport, self.left, self.paused, self.pauses = app.transport, LONG * 8, False, 0
        app.transport.registerProducer(self, streaming)
        if streaming:
            self.resumeProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            piece, self.left = self.left[:65536], self.left[65536:]
            self.transport.write(piece)
            if not self.transport.streamingProducer:
                break
        if not self.left and not self.paused:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def stopProducing(self) -> None:
        self.left = b""


@pytest.mark.parametrize("streaming", [True, False], ids=["push", "pull"])
def test_a_producer_registered_in_connectionMade_delivers_everything(reactor: Any, streaming: bool) -> None:
    sources: list[Source] = []
    factory = AppFactory(begin=lambda app: sources.append(Source(app, streaming)))

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"data")
        await until(reactor, lambda: client.lost)
        assert client.received == LONG * 8

    run(reactor, scenario())
    assert factory.app.received == (b"data" if not streaming else factory.app.received)
    assert bool(sources[0].pauses) == streaming


def test_twisteds_port_forwarding_loses_no_byte_after_a_header(reactor: Any) -> None:
    """It pauses in connectionMade until its own connection is made, and cannot store data before."""
    behind = AppFactory(read=lambda app: app.transport.write(app.received[-4:]))

    async def scenario() -> None:
        forwarding = ProxyFactory("127.0.0.1", listen(reactor, behind).getHost().port)
        forwarding.noisy = False
        forwarding.protocol.noisy = False
        client = await connected(reactor, forwarding, HEADER + LONG)
        await until(reactor, lambda: behind.apps and len(behind.app.received) == len(LONG))
        assert behind.app.received == LONG
        await until(reactor, lambda: client.received.endswith(LONG[-4:]))
        client.transport.loseConnection()
        await until(reactor, lambda: behind.app.lost)

    run(reactor, scenario())


def test_a_long_request_arrives_whole_and_in_order(reactor: Any) -> None:
    factory = AppFactory()

    async def scenario() -> None:
        await connected(reactor, factory, HEADER + LONG)
        await until(reactor, lambda: factory.apps and len(factory.app.received) >= len(LONG))

    run(reactor, scenario())
    assert factory.app.received == LONG


def test_connectionLost_is_called_once_after_the_last_data(reactor: Any) -> None:
    factory = AppFactory()

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"data")
        client.transport.loseConnection()
        await until(reactor, lambda: factory.apps and factory.app.lost)
        await turns(reactor)

    run(reactor, scenario())
    assert (factory.app.received, len(factory.app.lost)) == (b"data", 1)


def test_twisteds_own_protocols_work(reactor: Any) -> None:
    class Echo(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(data)

    class EchoFactory(AppFactory):
        def buildProtocol(self, addr: Any) -> Protocol:
            return Echo()

    async def scenario() -> None:
        client = await connected(reactor, EchoFactory(), HEADER + b"data")
        await until(reactor, lambda: client.received == b"data")

    run(reactor, scenario())
