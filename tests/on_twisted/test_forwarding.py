"""Transports that cannot be handed over: the wrapper stays, and is the application's transport."""

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
    """Keeps its protocol where nobody knows."""

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
    """Stands in front of another, and answers with that one's attributes: also with its protocol."""

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


def test_the_client_is_known_in_connectionMade(transport: Any, factory: AppFactory) -> None:
    transport.receive(*single_bytes(HEADER))

    assert factory.built == [CLIENT]
    assert (factory.app.peer, factory.app.host) == (CLIENT, DESTINATION)
    assert isinstance(factory.app.transport, ProxyProtocolWrapper)


def test_the_real_transports_answers_stay(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER)

    assert (transport.getPeer(), transport.getHost()) == (PROXY, HERE)
    assert (transport._reader.getPeer(), transport._reader.getHost()) == (CLIENT, DESTINATION)


def test_where_the_header_names_no_client_the_real_addresses_are_given(transport: Any, factory: AppFactory) -> None:
    transport.receive(v2(LOCAL, 0x00))

    assert (factory.app.peer, factory.app.host) == (PROXY, HERE)


def test_data_goes_both_ways(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER + b"one", b"two")
    factory.app.transport.write(b"three")
    factory.app.transport.writeSequence([b"four", b"five"])

    assert factory.app.received == b"onetwo"
    assert transport.value() == b"threefourfive"


def test_what_the_header_said_is_known(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER)

    result = proxy_result(factory.app.transport)
    assert result is not None
    assert result.peername == ("192.0.2.1", 1000)
    assert IProxiedTransport(factory.app.transport).getProxyPeer() == PROXY


def test_losing_and_aborting_go_through(transport: Any, factory: AppFactory) -> None:
    transport.receive(HEADER)
    factory.app.transport.loseConnection()
    assert (transport.disconnecting, factory.app.transport.disconnecting) == (True, True)
    factory.app.transport.abortConnection()
    assert transport.disconnected


def test_producers_go_through(transport: Any, factory: AppFactory) -> None:
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


def test_a_half_close_is_passed_on_to_an_application_that_wants_it() -> None:
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


def test_a_half_close_is_not_offered_to_an_application_that_knows_none(transport: Any) -> None:
    transport.receive(HEADER)

    assert not IHalfCloseableProtocol.providedBy(transport._reader)


def test_the_end_is_told_once(transport: Any, factory: AppFactory, log: Log) -> None:
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


def test_a_transport_in_front_of_another_does_not_swallow_the_connection(factory: AppFactory) -> None:
    """It answers with the other's protocol, and what is set on it the other never sees."""
    below: Any = MemoryTransport()
    protocol = wrap(factory).buildProtocol(PROXY)
    below.protocol = protocol
    protocol.makeConnection(DelegatingTransport(below))
    below.receive(HEADER + b"one", b"two")

    assert (factory.app.peer, factory.app.received) == (CLIENT, b"onetwo")
    factory.app.transport.write(b"three")
    assert below.value() == b"three"


def test_a_transport_without_attributes_of_its_own_will_do(factory: AppFactory) -> None:
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
def test_a_users_own_wrapper_stays_what_it_is(factory: AppFactory, slots: dict[str, Any]) -> None:
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


def test_a_transport_that_calls_its_protocol_the_wrapped_one_is_handed_over(factory: AppFactory) -> None:
    """As Twisted's own layers do, without being one of them."""

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


def test_a_plain_memory_transport_will_do() -> None:
    factory = AppFactory()
    transport: Any = StringTransport(hostAddress=HERE, peerAddress=PROXY)
    accept(wrap(factory), transport).protocol.dataReceived(HEADER)

    assert factory.app.peer == CLIENT
