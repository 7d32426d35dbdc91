"""The wrapper in memory: it reads the header in any pieces, starts the application, and is gone."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolNegotiationFactory
from twisted.internet.task import Clock
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.protocols.policies import ThrottlingFactory, TimeoutFactory, WrappingFactory
from zope.interface import implementer

from proxyprotocol import HeaderPolicy, ProxyProtocolNoop, ProxyProtocolV1, ProxyProtocolV2, Receiver
from proxyprotocol.twisted import ProxyProtocolWrapper, ProxyProtocolWrapperFactory, proxy_result
from tests.on_twisted import reactors
from tests.on_twisted.reactors import (
    CLIENT,
    DESTINATION,
    HEADER,
    PROXY,
    App,
    AppFactory,
    Log,
    MemoryTransport,
    accept,
    wrap,
)
from tests.vectors import PROXY as PROXY_COMMAND
from tests.vectors import VECTORS, Vector, describe, single_bytes, splits, tlv, v2

PAYLOAD = b"GET / HTTP/1.0\r\n\r\n"
V2_HEADER = v2(PROXY_COMMAND, 0x11, bytes.fromhex("c0000201 c6336402 03e8 07d0"))
HEADERS = pytest.mark.parametrize("header", [HEADER, V2_HEADER], ids=["v1", "v2"])

every_vector = pytest.mark.parametrize("vector", VECTORS, ids=str)


@every_vector
def test_a_header_in_one_piece_starts_the_application(vector: Vector) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory))

    transport.receive(vector.header + PAYLOAD)

    result = proxy_result(transport)
    assert result is not None
    assert describe(result) == describe(vector.result)
    assert factory.app.received == PAYLOAD


@every_vector
def test_the_last_byte_of_a_header_starts_the_application(vector: Vector) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, max_header=65551))

    transport.receive(*single_bytes(vector.header[:-1]))
    assert (factory.built, factory.apps) == ([], [])
    transport.receive(vector.header[-1:])
    assert len(factory.built) == len(factory.apps) == 1

    transport.receive(*single_bytes(PAYLOAD))
    assert factory.app.received == PAYLOAD
    result = proxy_result(transport)
    assert result is not None
    assert describe(result) == describe(vector.result)


@HEADERS
def test_any_chunking_delivers_the_data_after_the_header(header: bytes) -> None:
    for first, second in splits(header + PAYLOAD):
        factory = AppFactory()
        transport = accept(wrap(factory))

        transport.receive(first)
        assert len(factory.apps) == (len(first) >= len(header))
        transport.receive(second)

        assert (factory.app.peer, factory.app.host) == (CLIENT, DESTINATION)
        assert factory.app.received == PAYLOAD


def test_buildProtocol_gets_the_clients_address_once() -> None:
    factory = AppFactory()
    transport = accept(wrap(factory))
    assert factory.built == []

    transport.receive(HEADER)

    assert factory.built == [CLIENT]


def test_a_header_alone_delivers_no_data() -> None:
    factory = AppFactory()
    accept(wrap(factory)).receive(HEADER)

    assert factory.app.reads == 0


def test_data_after_the_header_arrives_in_one_call() -> None:
    factory = AppFactory()
    accept(wrap(factory)).receive(HEADER[:9], HEADER[9:] + PAYLOAD)

    assert factory.app.reads == 1


def test_the_application_gets_the_connections_own_transport() -> None:
    factory = AppFactory()
    transport = accept(wrap(factory))
    transport.receive(HEADER)

    assert factory.app.transport is transport
    assert transport.protocol is factory.app


def test_nothing_stays_between_the_transport_and_the_application() -> None:
    factory = AppFactory()
    transport = accept(wrap(factory))
    wrapper = weakref.ref(transport.protocol)
    gc.disable()
    try:
        transport.receive(HEADER + PAYLOAD)
        assert wrapper() is None, "the wrapper is still referred to, or is in a cycle"
    finally:
        gc.enable()


@pytest.mark.parametrize("pieces", [[b"GET /"], [b"P", b"OST /"], [V2_HEADER[:9], b"?"]])
def test_nothing_stays_of_an_optional_header_that_did_not_come(pieces: list[bytes]) -> None:
    """Once the parser's error, for a header that did not come, held wrapper and transport in its traceback."""
    transport = accept(wrap(AppFactory(), policy=HeaderPolicy.OPTIONAL))
    wrapper = weakref.ref(transport.protocol)
    gc.disable()
    try:
        transport.receive(*pieces)
        assert wrapper() is None
    finally:
        gc.enable()


def test_a_hand_over_creates_no_reference_cycle() -> None:
    factory = AppFactory()
    transport = accept(wrap(factory))
    transport.receive(HEADER + PAYLOAD)
    factory.app.transport = None  # the application's own reference
    transport.protocol = None
    gone = weakref.ref(transport)
    gc.disable()
    try:
        del transport
        assert gone() is None
    finally:
        gc.enable()


def test_the_log_prefix_names_the_application_and_the_client() -> None:
    transport = accept(wrap(AppFactory()))
    transport.receive(HEADER)

    assert transport.logstr == "App,7,192.0.2.1"


def test_the_log_prefix_is_the_applications_own() -> None:
    class Named(reactors.App):
        def logPrefix(self) -> str:
            return "shop"

    transport = accept(wrap(AppFactory(kind=Named)))
    transport.receive(HEADER)

    assert transport.logstr == "shop,7,192.0.2.1"


def test_an_application_without_a_log_prefix_is_named_by_its_class() -> None:
    class Bare:
        def makeConnection(self, transport: Any) -> None:
            pass

    class BareFactory(AppFactory):
        def buildProtocol(self, addr: Any) -> Any:
            return Bare()

    transport = accept(wrap(BareFactory()))
    transport.receive(HEADER)

    assert transport.logstr == "Bare,7,192.0.2.1"


def test_a_transport_without_a_log_prefix_stays_without() -> None:
    transport = MemoryTransport()
    del transport.logstr
    accept(wrap(AppFactory()), transport).receive(HEADER)

    assert not hasattr(transport, "logstr")


def test_before_the_header_the_log_prefix_is_the_wrappers() -> None:
    assert wrap(AppFactory()).buildProtocol(PROXY).logPrefix() == "ProxyProtocolWrapper"


def test_connectionLost_is_called_once() -> None:
    factory = AppFactory()
    transport = accept(wrap(factory))
    transport.receive(HEADER)

    transport.lose()

    assert len(factory.app.lost) == 1


def test_a_served_connection_logs_nothing(log: Log) -> None:
    transport = accept(wrap(AppFactory()))
    transport.receive(HEADER + PAYLOAD)
    transport.lose()

    assert log.lines == []


def test_an_application_can_replace_the_protocol_in_connectionMade() -> None:
    other = AppFactory().buildProtocol(None)
    assert isinstance(other, reactors.App)
    factory = AppFactory(begin=lambda app: setattr(app.transport, "protocol", other))

    accept(wrap(factory)).receive(HEADER + PAYLOAD)

    assert (factory.app.received, other.received) == (b"", PAYLOAD)


def test_an_application_can_clear_the_protocol_slot_in_connectionMade() -> None:
    """Twisted's TCP transports do this if the connection ends at once."""
    factory = AppFactory(begin=lambda app: setattr(app.transport, "protocol", None))

    accept(wrap(factory)).receive(HEADER + PAYLOAD)

    assert factory.app.received == b""


@pytest.mark.parametrize("codec", [ProxyProtocolV1(), None], ids=["v1", "detect"])
def test_a_header_of_the_configured_version_is_read(codec: Any) -> None:
    factory = AppFactory()
    accept(wrap(factory, pp=codec)).receive(HEADER)

    assert factory.app.peer == CLIENT


def test_a_header_of_the_other_version_is_refused(log: Log) -> None:
    transport = accept(wrap(AppFactory(), pp=ProxyProtocolV2()))
    transport.receive(HEADER)

    assert (transport.aborts, len(log.lines)) == (1, 1)


def test_a_codec_that_reads_nothing_starts_the_application_at_once() -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, pp=ProxyProtocolNoop()))

    assert factory.app.peer == PROXY
    transport.receive(HEADER)
    assert factory.app.received == HEADER
    assert proxy_result(transport) is None


def test_max_header_counts_the_whole_header() -> None:
    header = v2(PROXY_COMMAND, 0x11, bytes(12), tlv(4, bytes(10)))
    factory = AppFactory()
    accept(wrap(factory, max_header=len(header))).receive(header)
    assert len(factory.apps) == 1

    transport = accept(wrap(AppFactory(), max_header=len(header) - 1))
    transport.receive(header[:16])
    assert transport.aborts == 1


def test_a_receiver_replaces_the_keywords() -> None:
    receiver = Receiver(policy=HeaderPolicy.SKIP)
    factory = AppFactory()
    wrapping = wrap(factory, receiver=receiver)
    accept(wrapping)

    assert wrapping.listener.receiver is receiver
    assert factory.app.peer == PROXY


def test_a_receiver_and_its_keywords_exclude_each_other() -> None:
    with pytest.raises(TypeError, match="timeout="):
        ProxyProtocolWrapperFactory(AppFactory(), receiver=Receiver(), timeout=1)


def test_a_wrong_keyword_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="timeout"):
        ProxyProtocolWrapperFactory(AppFactory(), timeout=0)
    with pytest.raises(TypeError, match=r"unknown keyword timeuot; did you mean timeout\?"):
        ProxyProtocolWrapperFactory(AppFactory(), timeuot=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"unknown keyword tls_timout; did you mean tls_timeout\?"):
        ProxyProtocolWrapperFactory(AppFactory(), tls_timout=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("what", [App, AppFactory, App(), None, "tcp:80"], ids=lambda what: type(what).__name__)
def test_a_non_factory_is_refused_at_once(what: Any) -> None:
    with pytest.raises(TypeError, match="wrapped_factory must be a factory, which builds protocols, not "):
        ProxyProtocolWrapperFactory(what)


SECOND = {
    "ours": ProxyProtocolWrapperFactory,
    "haproxy:": HAProxyWrappingFactory,
    "ours below a layer": lambda factory: WrappingFactory(ProxyProtocolWrapperFactory(factory)),
    "haproxy: below a layer": lambda factory: WrappingFactory(HAProxyWrappingFactory(factory)),
}


@pytest.mark.parametrize("reading", SECOND.values(), ids=SECOND)
def test_a_factory_that_reads_a_header_is_not_wrapped_again(reading: Any) -> None:
    # the outer header would choose whom we trust for the inner one
    with pytest.raises(TypeError, match=r"^The factory already reads a header, and a connection has only one$"):
        ProxyProtocolWrapperFactory(reading(AppFactory()))


def test_the_applications_factory_is_started_and_stopped_with_ours() -> None:
    factory = AppFactory()
    wrapping = wrap(factory)
    wrapping.doStart()
    assert factory.numPorts == 1
    wrapping.doStop()
    assert factory.numPorts == 0


def test_a_factory_that_limits_connections_works_outside_and_inside() -> None:
    for around in (True, False):
        factory = AppFactory()
        limited: Any = ThrottlingFactory(wrap(factory) if around else factory)
        transport = accept(limited if around else wrap(limited))
        transport.receive(HEADER + PAYLOAD)

        assert (factory.built, factory.app.peer, factory.app.received) == ([CLIENT], CLIENT, PAYLOAD)
        assert limited.connectionCount == 1
        factory.app.transport.write(b"answer")
        assert transport.value() == b"answer"
        transport.lose()
        assert (len(factory.app.lost), limited.connectionCount) == (1, 0)


def test_a_factory_that_ends_idle_connections_works_outside_and_inside() -> None:
    for around in (True, False):
        clock, factory = Clock(), AppFactory()
        idle: Any = TimeoutFactory(wrap(factory) if around else factory, 30)
        idle.callLater = clock.callLater
        transport = accept(idle if around else wrap(idle))
        transport.receive(HEADER)
        clock.advance(20)
        transport.receive(PAYLOAD)
        clock.advance(20)

        assert (factory.app.received, transport.disconnecting) == (PAYLOAD, False)
        clock.advance(10)
        assert transport.disconnecting
        transport.lose()


def test_a_read_after_the_header_runs_no_code_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory))
    transport.receive(HEADER)

    def called(wrapper: ProxyProtocolWrapper, data: bytes) -> None:
        raise AssertionError("the wrapper is still in the way")

    monkeypatch.setattr(ProxyProtocolWrapper, "dataReceived", called)
    transport.receive(PAYLOAD)

    assert factory.app.received == PAYLOAD


def test_the_wrapper_itself_does_not_support_half_close() -> None:
    """A stream that ends inside the header is a lost connection."""
    assert not IHalfCloseableProtocol.providedBy(wrap(AppFactory()).buildProtocol(PROXY))


def test_the_factory_offers_the_applications_protocols() -> None:
    """TLS around the header asks for them. TLS after it asks the application's factory itself."""

    @implementer(IProtocolNegotiationFactory)
    class Negotiating(AppFactory):
        def acceptableProtocols(self) -> list[bytes]:
            return [b"h2"]

    assert IProtocolNegotiationFactory(wrap(Negotiating())).acceptableProtocols() == [b"h2"]
    assert not IProtocolNegotiationFactory.providedBy(wrap(AppFactory()))
