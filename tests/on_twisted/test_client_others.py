"""The client's endpoint around the endpoints of others, whose transports may be of any kind."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IFileDescriptorReceiver, IHalfCloseableProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer, providedBy

from proxyprotocol.twisted import ProxyProtocolClientEndpoint
from tests.on_twisted.clients import LOCAL, HalfCloseable, endpoint_of, failing, peers, saying
from tests.on_twisted.reactors import PROXY, App, AppFactory, MemoryTransport, listen, run, until


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """An endpoint of others, on a transport in memory."""

    def __init__(self, transport: Any, attribute: str) -> None:
        self._transport, self._attribute = transport, attribute

    def connect(self, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(PROXY)
        setattr(self._transport, self._attribute, protocol)
        protocol.makeConnection(self._transport)
        connected: Deferred[Any] = Deferred()
        connected.callback(protocol)
        return connected


@implementer(IHalfCloseableProtocol, IFileDescriptorReceiver)
class Everything(HalfCloseable):
    def fileDescriptorReceived(self, descriptor: int) -> None:
        self.descriptor = descriptor


def begun_in_memory(attribute: str) -> tuple[Any, Any, Any]:
    """A transport, the protocol that it keeps in this attribute, and the application."""
    transport, client = MemoryTransport(), AppFactory(kind=Everything, begin=saying(b"hello"))
    results: list[Any] = []
    ProxyProtocolClientEndpoint(MemoryEndpoint(transport, attribute)).connect(client).addCallback(results.append)
    assert results == [client.app]
    assert transport.value() == LOCAL + b"hello"  # type: ignore[no-untyped-call]
    return transport, getattr(transport, attribute), client.app


@pytest.mark.parametrize("attribute", ["protocol", "wrappedProtocol"])
def test_a_transport_of_others_is_handed_over_where_it_keeps_its_protocol_as_twisted_does(attribute: str) -> None:
    transport, kept, app = begun_in_memory(attribute)

    assert kept is app
    assert app.transport is transport


def test_what_a_transport_of_an_unknown_kind_brings_is_passed_on() -> None:
    transport, kept, app = begun_in_memory("_elsewhere")

    assert kept is not app
    assert app.transport is transport
    assert kept.logPrefix() == "Everything"
    assert {IHalfCloseableProtocol, IFileDescriptorReceiver} <= set(providedBy(kept))
    kept.dataReceived(b"data")
    kept.fileDescriptorReceived(7)
    kept.writeConnectionLost()
    kept.readConnectionLost()
    kept.connectionLost(None)
    assert (app.received, app.descriptor, app.ended, app.lost) == (b"data", 7, 11, [None])


def test_an_interface_that_the_application_has_not_is_not_made_up() -> None:
    transport = MemoryTransport()
    ProxyProtocolClientEndpoint(MemoryEndpoint(transport, "_elsewhere")).connect(AppFactory())
    kept = vars(transport)["_elsewhere"]

    assert not IHalfCloseableProtocol.providedBy(kept)
    assert not IFileDescriptorReceiver.providedBy(kept)


def test_a_transport_of_an_unknown_kind_is_aborted_where_there_is_no_header() -> None:
    transport, client = MemoryTransport(), AppFactory()
    failures: list[Any] = []
    connecting = ProxyProtocolClientEndpoint(MemoryEndpoint(transport, "_elsewhere"), failing).connect(client)
    connecting.addErrback(failures.append)
    kept = vars(transport)["_elsewhere"]
    kept.dataReceived(b"too late")
    kept.connectionLost(None)

    assert [failure.type for failure in failures] == [ZeroDivisionError]
    assert (transport.aborts, transport.value(), client.apps) == (1, b"", [])  # type: ignore[no-untyped-call]


class Bare:
    """An application that is no Twisted Protocol, and names itself nowhere."""

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport


def test_an_application_without_a_log_prefix_is_named_by_its_class(reactor: Any) -> None:
    class BareFactory(AppFactory):
        def buildProtocol(self, addr: Any) -> Any:
            return Bare()

    async def scenario() -> None:
        app: Any = await endpoint_of(reactor, listen(reactor, AppFactory())).connect(BareFactory())
        assert app.transport.logstr == "Bare,client"
        app.transport.protocol = Protocol()
        app.transport.abortConnection()

    run(reactor, scenario())


@implementer(IStreamClientEndpoint)
class LayeredEndpoint:
    """Somebody's endpoint that puts a layer of theirs on every connection."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def connect(self, factory: Any) -> Any:
        class Layer(ProtocolWrapper):
            pass

        layers: Any = WrappingFactory(factory)
        layers.protocol, layers.noisy = Layer, False
        return self._plain.connect(layers).addCallback(lambda layer: layer.wrappedProtocol)


def test_a_layer_of_others_is_left_in_its_place(reactor: Any) -> None:
    server = peers(read=lambda app: app.transport.write(b"welcome"))

    async def scenario() -> None:
        plain = LayeredEndpoint(TCP4ClientEndpoint(reactor, "127.0.0.1", listen(reactor, server).getHost().port))
        app: Any = await ProxyProtocolClientEndpoint(plain).connect(AppFactory(begin=saying(b"hello")))
        assert isinstance(app, App)
        assert type(app.transport).__name__ == "Layer"
        assert app.transport.wrappedProtocol is app
        await until(reactor, lambda: app.received)
        assert isinstance(app.transport.getPeer(), IPv4Address)

    run(reactor, scenario())
    assert server.app.segments == [LOCAL + b"hello"]
