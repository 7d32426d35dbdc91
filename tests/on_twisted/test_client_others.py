"""The client's endpoint around foreign endpoints, which may have any kind of transport."""

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
    """A foreign endpoint with a transport in memory."""

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
    """Return a transport, the protocol that it keeps in *slot*, and the application."""
    transport, client = MemoryTransport(), AppFactory(kind=Everything, begin=saying(b"hello"))
    results: list[Any] = []
    ProxyProtocolClientEndpoint(MemoryEndpoint(transport, attribute)).connect(client).addCallback(results.append)
    assert results == [client.app]
    assert transport.value() == LOCAL + b"hello"  # type: ignore[no-untyped-call]
    return transport, getattr(transport, attribute), client.app


@pytest.mark.parametrize("attribute", ["protocol", "wrappedProtocol"])
def test_a_foreign_transport_with_twisteds_protocol_attribute_is_handed_over(attribute: str) -> None:
    transport, kept, app = begun_in_memory(attribute)

    assert kept is app
    assert app.transport is transport


def test_events_of_an_unknown_kind_of_transport_are_forwarded() -> None:
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


def test_an_interface_that_the_application_lacks_is_not_provided() -> None:
    transport = MemoryTransport()
    ProxyProtocolClientEndpoint(MemoryEndpoint(transport, "_elsewhere")).connect(AppFactory())
    kept = vars(transport)["_elsewhere"]

    assert not IHalfCloseableProtocol.providedBy(kept)
    assert not IFileDescriptorReceiver.providedBy(kept)


def test_an_unknown_kind_of_transport_is_aborted_if_the_header_cannot_be_written() -> None:
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
    """An application that is not a Twisted Protocol and lacks logPrefix."""

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
    """A foreign endpoint that adds its own layer to every connection."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def connect(self, factory: Any) -> Any:
        class Layer(ProtocolWrapper):
            pass

        layers: Any = WrappingFactory(factory)
        layers.protocol, layers.noisy = Layer, False
        return self._plain.connect(layers).addCallback(lambda layer: layer.wrappedProtocol)


def test_a_foreign_layer_stays_in_place(reactor: Any) -> None:
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
