"""Transports that cannot be handed over: the wrapper stays as the application's transport."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, ITCPTransport, ITransport
from twisted.internet.testing import StringTransport
from zope.interface import directlyProvides, implementer, providedBy

from proxyprotocol import HeaderPolicy
from proxyprotocol.twisted import IProxiedTransport, ProxyProtocolWrapper, proxy_result
from tests.on_twisted.reactors import (
    CLIENT,
    DESTINATION,
    HEADER,
    HERE,
    PROXY,
    App,
    AppFactory,
    Log,
    MemoryTransport,
    accept,
    wrap,
)
from tests.vectors import LOCAL, single_bytes, v2


class OpaqueTransport(StringTransport):
    """Keeps its protocol in an unknown attribute."""

    def __init__(self) -> None:
        super().__init__(hostAddress=HERE, peerAddress=PROXY)  # type: ignore[no-untyped-call]
        self._reader: Any = None
        self.half_closed = 0

    def loseWriteConnection(self) -> None:
        self.half_closed += 1

    def receive(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._reader.dataReceived(piece)


class DelegatingTransport:
    """Forwards attribute access to another transport, also for ``protocol``."""

    def __init__(self, below: Any) -> None:
        self._below = below

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)


def attach(factory: Any, transport: Any) -> Any:
    """Connect a factory's protocol to a transport of an unknown kind."""
    protocol = factory.buildProtocol(transport.getPeer())
    transport._reader = protocol
    protocol.makeConnection(transport)
    return transport


@pytest.fixture
def factory() -> AppFactory:
    return AppFactory()


@pytest.fixture
def transport(factory: AppFactory) -> Any:
    return attach(wrap(factory), OpaqueTransport())


def test_connectionMade_sees_the_client(transport: Any, factory: AppFactory) -> None:
    transport.receive(*single_bytes(HEADER))

    assert factory.built == [CLIENT]
    assert (factory.app.peer, factory.app.host) == (CLIENT, DESTINATION)
    assert isinstance(factory.app.transport, ProxyProtocolWrapper)


def test_the_real_transport_keeps_its_addresses(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER)

    assert (transport.getPeer(), transport.getHost()) == (PROXY, HERE)
    assert (transport._reader.getPeer(), transport._reader.getHost()) == (CLIENT, DESTINATION)


def test_a_header_without_a_client_leaves_the_real_addresses(transport: Any, factory: AppFactory) -> None:
    transport.receive(v2(LOCAL, 0x00))

    assert (factory.app.peer, factory.app.host) == (PROXY, HERE)


def test_data_goes_both_ways(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER + b"one", b"two")
    factory.app.transport.write(b"three")
    factory.app.transport.writeSequence([b"four", b"five"])

    assert factory.app.received == b"onetwo"
    assert transport.value() == b"threefourfive"


def test_the_result_is_available(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER)

    result = proxy_result(factory.app.transport)
    assert result is not None
    assert result.peername == ("192.0.2.1", 1000)
    assert IProxiedTransport(factory.app.transport).getProxyPeer() == PROXY


def test_lose_and_abort_reach_the_real_transport(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER)
    factory.app.transport.loseConnection()
    assert (transport.disconnecting, factory.app.transport.disconnecting) == (True, True)
    factory.app.transport.abortConnection()
    assert transport.disconnected


def test_producers_reach_the_real_transport(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER)
    producer = object()
    factory.app.transport.registerProducer(producer, True)
    assert (transport.producer, transport.streaming) == (producer, True)
    factory.app.transport.unregisterProducer()
    assert transport.producer is None
    factory.app.transport.pauseProducing()
    assert transport.producerState == "paused"
    factory.app.transport.resumeProducing()
    assert transport.producerState == "producing"


def test_the_applications_transport_provides_what_the_real_one_does(transport: Any, factory: AppFactory) -> None:
    directlyProvides(transport, ITCPTransport)
    transport.receive(HEADER)

    assert ITransport.providedBy(factory.app.transport)
    assert IConsumer.providedBy(factory.app.transport)
    assert ITCPTransport.providedBy(factory.app.transport)
    assert set(providedBy(transport)) <= set(providedBy(factory.app.transport))


def test_an_application_that_supports_half_close_learns_of_it() -> None:
    @implementer(IHalfCloseableProtocol)
    class HalfCloseable(App):
        halves = ""

        def readConnectionLost(self) -> None:
            self.halves += "read "

        def writeConnectionLost(self) -> None:
            self.halves += "write "

    factory = AppFactory(kind=HalfCloseable)
    transport = attach(wrap(factory), OpaqueTransport())
    assert not IHalfCloseableProtocol.providedBy(transport._reader)
    transport.receive(HEADER)

    half_closeable = IHalfCloseableProtocol(transport._reader)
    factory.app.transport.loseWriteConnection()
    half_closeable.writeConnectionLost()
    half_closeable.readConnectionLost()
    assert (transport.half_closed, factory.app.halves) == (1, "write read ")


def test_half_close_is_not_offered_if_the_application_does_not_support_it(transport: Any) -> None:
    transport.receive(HEADER)

    assert not IHalfCloseableProtocol.providedBy(transport._reader)


def test_connectionLost_is_called_once(transport: Any, factory: AppFactory, log: Log) -> None:
    transport.receive(HEADER)
    transport._reader.connectionLost("reason")
    transport._reader.connectionLost("reason")

    assert factory.app.lost == ["reason"]
    assert log.lines == []


def test_the_log_prefix_names_both(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER)

    assert transport._reader.logPrefix() == "App (ProxyProtocolWrapper)"


def test_the_real_transports_log_prefix_names_both_and_the_client(factory: AppFactory) -> None:
    transport: Any = OpaqueTransport()
    transport.logstr = "ProxyProtocolWrapper,7,10.1.2.3"
    transport.sessionno = 7
    attach(wrap(factory), transport).receive(HEADER)

    assert transport.logstr == "App (ProxyProtocolWrapper),7,192.0.2.1"


def test_a_connection_without_a_header_is_forwarded_too(factory: AppFactory) -> None:
    transport = attach(wrap(factory, policy=HeaderPolicy.SKIP), OpaqueTransport())
    transport.receive(HEADER)

    assert (factory.app.peer, factory.app.host, factory.app.received) == (PROXY, HERE, HEADER)
    assert proxy_result(factory.app.transport) is None


def test_a_transport_that_proxies_another_does_not_swallow_the_connection(factory: AppFactory) -> None:
    """It returns the other transport's protocol, but attributes set on it never reach the other."""
    below: Any = MemoryTransport()
    protocol = wrap(factory).buildProtocol(PROXY)
    below.protocol = protocol
    protocol.makeConnection(DelegatingTransport(below))
    below.receive(HEADER + b"one", b"two")

    assert (factory.app.peer, factory.app.received) == (CLIENT, b"onetwo")
    factory.app.transport.write(b"three")
    assert below.value() == b"three"


def test_a_transport_without_a_dict_works(factory: AppFactory) -> None:
    class Slotted:
        __slots__ = ("_reader", "written")

        def getPeer(self) -> Any:
            return PROXY

        getHost = getPeer

        def write(self, data: bytes) -> None:
            self.written = data

    transport = attach(wrap(factory), Slotted())
    transport._reader.dataReceived(HEADER + b"one")
    factory.app.transport.write(b"two")

    assert (factory.app.peer, factory.app.received, transport.written) == (CLIENT, b"one", b"two")


@pytest.mark.parametrize("slots", [{}, {"__slots__": ("ended",)}], ids=["plain", "slots"])
def test_a_users_subclass_of_the_wrapper_keeps_its_methods(factory: AppFactory, slots: dict[str, Any]) -> None:
    def lost(wrapper: Any, reason: Any) -> None:
        wrapper.ended = reason
        ProxyProtocolWrapper.connectionLost(wrapper, reason)

    kind: Any = type("Own", (ProxyProtocolWrapper,), {"connectionLost": lost, **slots})
    wrapping = wrap(factory)
    wrapping.protocol = kind
    transport = attach(wrapping, OpaqueTransport())
    assert transport._reader.logPrefix() == "Own"
    transport.receive(HEADER)
    transport._reader.connectionLost("reason")

    assert isinstance(factory.app.transport, kind)
    assert (transport._reader.ended, factory.app.lost) == ("reason", ["reason"])


def test_a_transport_with_the_attribute_wrappedProtocol_is_handed_over(factory: AppFactory) -> None:
    """Twisted's own layers use this attribute, but the transport is not one of them."""

    class Layer(OpaqueTransport):
        wrappedProtocol: Any = None

    transport = Layer()
    transport.wrappedProtocol = wrap(factory).buildProtocol(PROXY)
    transport.wrappedProtocol.makeConnection(transport)
    transport.wrappedProtocol.dataReceived(HEADER + b"one")

    assert transport.wrappedProtocol is factory.app
    assert (factory.app.peer, factory.app.received) == (CLIENT, b"one")


def test_twisteds_own_memory_transports_are_handed_over() -> None:
    from twisted.test.iosim import FakeTransport

    factory = AppFactory()
    protocol: Any = wrap(factory).buildProtocol(PROXY)
    transport: Any = FakeTransport(protocol, isServer=True, hostAddress=HERE, peerAddress=PROXY)
    protocol.makeConnection(transport)
    transport.bufferReceived(HEADER + b"one")
    transport.bufferReceived(b"two")

    assert transport.protocol is factory.app
    assert (factory.app.peer, factory.app.received) == (CLIENT, b"onetwo")


def test_a_plain_memory_transport_works() -> None:
    factory = AppFactory()
    transport: Any = StringTransport(hostAddress=HERE, peerAddress=PROXY)
    accept(wrap(factory), transport).protocol.dataReceived(HEADER)

    assert factory.app.peer == CLIENT
