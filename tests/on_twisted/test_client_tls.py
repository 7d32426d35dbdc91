"""TLS after the header that a client sends, for every way to request TLS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.endpoints import SSL4ClientEndpoint, TCP4ClientEndpoint, TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import (
    IHandshakeListener,
    INegotiated,
    IProtocolNegotiationFactory,
    ISSLTransport,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import Certificate, CertificateOptions, optionsForClientTLS, trustRootFromCertificates
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from proxyprotocol import ProxyProtocolV1
from proxyprotocol.twisted import ProxyProtocolClientEndpoint, ProxyProtocolServerEndpoint
from tests.on_twisted import tls
from tests.on_twisted.clients import LOCAL, NAMED, endpoint_of, failing, peers
from tests.on_twisted.reactors import (
    CLIENT,
    DESTINATION,
    App,
    AppFactory,
    BrokenFactory,
    RefusingFactory,
    listen,
    run,
    until,
    wrap,
)
from tests.on_twisted.tls import SERVER_NAME, Files, answering

pytestmark = tls.OLD_WAYS

CONTEXT = object()
CLIENT_HELLO = b"\x16\x03\x01"  # the start of a handshake record
Context = Callable[[Files], Any]


def options(files: Files) -> Any:
    """Return the TLS settings of a client that checks the server's name."""
    root = Certificate.loadPEM(files.root.read_bytes())
    return optionsForClientTLS(
        SERVER_NAME, trustRoot=trustRootFromCertificates([root]), acceptableProtocols=[b"latin", b"greek"]
    )


def silent(files: Files) -> Any:
    """The same settings, without ALPN."""
    root = Certificate.loadPEM(files.root.read_bytes())
    return optionsForClientTLS(SERVER_NAME, trustRoot=trustRootFromCertificates([root]))


def unnamed(files: Files) -> Any:
    """An old-style context factory, which an ``ssl:`` string without ``hostname=`` uses."""
    root = Certificate.loadPEM(files.root.read_bytes())
    return CertificateOptions(trustRoot=trustRootFromCertificates([root]), acceptableProtocols=[b"latin", b"greek"])


def with_tls(reactor: Any, port: Any, tls: Any, *arguments: Any) -> ProxyProtocolClientEndpoint:
    return endpoint_of(reactor, port, *arguments, tls=tls)


def around_ssl(reactor: Any, port: Any, tls: Any, *arguments: Any) -> ProxyProtocolClientEndpoint:
    where = "127.0.0.1", port.getHost().port
    ssl = SSL4ClientEndpoint(reactor, *where, tls)
    return ProxyProtocolClientEndpoint(ssl, *arguments)


def around_wrap_client_tls(reactor: Any, port: Any, tls: Any, *arguments: Any) -> ProxyProtocolClientEndpoint:
    plain = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    return ProxyProtocolClientEndpoint(wrapClientTLS(tls, plain), *arguments)


WAYS = pytest.mark.parametrize("way", [with_tls, around_ssl, around_wrap_client_tls])


def served_with(files: Files) -> Any:
    """Return the TLS settings of a server that offers ALPN, and asks for no client certificate."""
    own = files.options()
    return CertificateOptions(
        privateKey=own.privateKey,
        certificate=own.certificate,
        extraCertChain=own.extraCertChain,
        acceptableProtocols=[b"greek"],
    )


async def served(reactor: Any, files: Files, server: Any) -> Any:
    """Return a port that reads the header and then does TLS."""
    tls = served_with(files)
    return await ProxyProtocolServerEndpoint(TCP4ServerEndpoint(reactor, 0, 50, "127.0.0.1"), tls=tls).listen(server)


@implementer(IHandshakeListener)
class Listening(App):
    """An application that listens for the end of the handshake."""

    negotiated: Any = None

    def handshakeCompleted(self) -> None:
        self.negotiated = INegotiated(self.transport).negotiatedProtocol
        self.transport.write(b"question")


@WAYS
@pytest.mark.parametrize("context", [options, unnamed])
def test_tls_starts_after_the_header(reactor: Any, files: Files, way: Any, context: Context) -> None:
    server, client = AppFactory(read=answering), AppFactory(kind=Listening)

    async def scenario() -> None:
        port = await served(reactor, files, server)
        app: Any = await way(reactor, port, context(files), NAMED).connect(client)
        assert app is client.app
        await until(reactor, lambda: app.received)
        assert ISSLTransport.providedBy(app.transport)
        transport: Any = app.transport
        assert transport.getPeerCertificate().to_cryptography().subject.rfc4514_string() == f"CN={SERVER_NAME}"
        assert (transport.getPeer(), transport.wrappedProtocol) == (port.getHost(), app)
        # nothing stays between TLS and the socket either
        assert transport.transport.protocol is transport

    run(reactor, scenario())
    assert (server.app.peer, server.app.host) == (CLIENT, DESTINATION)
    assert (client.app.negotiated, client.app.received) == (b"greek", b"answer to question")


@implementer(IProtocolNegotiationFactory)
class SpeakingFactory(AppFactory):
    """An application that offers its own protocols."""

    def acceptableProtocols(self) -> list[bytes]:
        return [b"greek"]


def test_alpn_works_as_without_the_wrapper(reactor: Any, files: Files) -> None:
    """Twisted 22.4 asks the factory too late, and 26.10 in time."""
    clients = [SpeakingFactory(kind=Listening) for _ in range(2)]

    async def scenario() -> None:
        bare = TLSMemoryBIOFactory(served_with(files), False, AppFactory(read=answering))
        plain = TCP4ClientEndpoint(reactor, "127.0.0.1", listen(reactor, bare).getHost().port)
        await wrapClientTLS(silent(files), plain).connect(clients[0])
        port = await served(reactor, files, AppFactory(read=answering))
        await with_tls(reactor, port, silent(files)).connect(clients[1])
        await until(reactor, lambda: all(client.app.received for client in clients))

    run(reactor, scenario())
    assert clients[0].app.negotiated == clients[1].app.negotiated


@WAYS
def test_the_client_hello_follows_the_header_in_the_same_segment(reactor: Any, files: Files, way: Any) -> None:
    server = peers()

    async def scenario() -> None:
        await way(reactor, listen(reactor, server), options(files)).connect(AppFactory())
        await until(reactor, lambda: server.apps and server.app.received)

    run(reactor, scenario())
    assert server.app.segments[0].startswith(LOCAL + CLIENT_HELLO)


def test_another_layer_of_tls_can_wrap_the_endpoint(reactor: Any, files: Files) -> None:
    server = AppFactory(read=answering)

    async def scenario() -> None:
        plain = endpoint_of(reactor, await served(reactor, files, server), NAMED)
        app: Any = await wrapClientTLS(options(files), plain).connect(AppFactory(kind=Listening))
        await until(reactor, lambda: app.received)
        assert app.received == b"answer to question"

    run(reactor, scenario())
    assert server.app.peer == CLIENT


def test_an_application_can_start_tls_in_connectionMade(reactor: Any, files: Files) -> None:
    server = AppFactory(read=answering)

    def begin(app: Any) -> None:
        app.transport.startTLS(options(files))
        app.transport.write(b"question")

    async def scenario() -> None:
        port = await served(reactor, files, server)
        app: Any = await endpoint_of(reactor, port, NAMED).connect(AppFactory(begin=begin))
        await until(reactor, lambda: app.received)
        assert app.received == b"answer to question"

    run(reactor, scenario())
    assert server.app.peer == CLIENT


@WAYS
def test_a_server_with_another_name_is_not_trusted(reactor: Any, files: Files, way: Any) -> None:
    server, client = AppFactory(), AppFactory()
    root = Certificate.loadPEM(files.root.read_bytes())
    other = optionsForClientTLS("other.example.com", trustRoot=trustRootFromCertificates([root]))

    async def scenario() -> None:
        await way(reactor, await served(reactor, files, server), other).connect(client)
        await until(reactor, lambda: client.app.lost)

    run(reactor, scenario())
    assert client.app.received == b""


# Errors


@WAYS
@pytest.mark.parametrize(("factory", "error"), [(RefusingFactory, NoProtocol), (BrokenFactory, ZeroDivisionError)])
def test_a_factory_that_returns_none_fails_the_connection(
    reactor: Any, files: Files, way: Any, factory: Callable[[], AppFactory], error: type[Exception]
) -> None:
    """Twisted itself wraps TLS around None, which fails with a traceback."""
    server = peers()

    async def scenario() -> None:
        with pytest.raises(error):
            await way(reactor, listen(reactor, server), options(files)).connect(factory())
        await until(reactor, lambda: server.apps and server.app.lost)

    run(reactor, scenario())
    assert server.app.received == b""


@WAYS
def test_a_header_that_cannot_be_written_fails_the_connection(reactor: Any, files: Files, way: Any) -> None:
    server, client = peers(), AppFactory()

    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError, match="in the result function"):
            await way(reactor, listen(reactor, server), options(files), failing).connect(client)
        await until(reactor, lambda: server.apps and server.app.lost)

    run(reactor, scenario())
    assert (server.app.received, client.apps) == (b"", [])


@implementer(IStreamClientEndpoint)
class ForeignEndpoint:
    """A foreign endpoint, which does TLS in its own way."""

    def __init__(self, plain: Any, tls: Any) -> None:
        self._plain, self._tls = plain, tls

    def connect(self, factory: Any) -> Any:
        layers = TLSMemoryBIOFactory(self._tls, True, factory)
        return self._plain.connect(layers).addCallback(lambda layer: layer.wrappedProtocol)


class OwnSSL(SSL4ClientEndpoint):
    """A subclass of one of Twisted's endpoints, which may do more."""


@pytest.mark.parametrize("kind", ["foreign", "relative"])
def test_a_foreign_endpoint_that_has_started_tls_is_refused(reactor: Any, files: Files, kind: str) -> None:
    server, client = peers(), AppFactory()

    async def scenario() -> None:
        tls, where = options(files), ("127.0.0.1", listen(reactor, server).getHost().port)
        plain = TCP4ClientEndpoint(reactor, *where)
        own: Any = OwnSSL(reactor, *where, tls)  # type: ignore[no-untyped-call]
        endpoint = ProxyProtocolClientEndpoint(ForeignEndpoint(plain, tls) if kind == "foreign" else own)
        with pytest.raises(TypeError, match=r"before TLS, but this endpoint has already started TLS.* tls="):
            await endpoint.connect(client)
        await until(reactor, lambda: server.apps and server.app.lost)

    run(reactor, scenario())
    # nothing was sent, not even a ClientHello
    assert (server.app.received, client.apps) == (b"", [])


@pytest.mark.parametrize("kind", ["ssl", "wrapClientTLS"])
def test_tls_requested_twice_is_refused(reactor: Any, files: Files, kind: str) -> None:
    where, tls = (reactor, "127.0.0.1", 1), options(files)
    ssl = SSL4ClientEndpoint(*where, tls)
    endpoint = ssl if kind == "ssl" else wrapClientTLS(tls, TCP4ClientEndpoint(*where))
    with pytest.raises(TypeError, match="already does TLS"):
        ProxyProtocolClientEndpoint(endpoint, tls=CONTEXT)


def test_a_second_header_inside_tls_is_refused(reactor: Any, files: Files) -> None:
    inner = ProxyProtocolClientEndpoint(TCP4ClientEndpoint(reactor, "127.0.0.1", 1))
    with pytest.raises(TypeError, match="already sends a header"):
        ProxyProtocolClientEndpoint(wrapClientTLS(options(files), inner), pp=ProxyProtocolV1())


def test_an_ssl_endpoint_connects_with_its_own_settings(reactor: Any) -> None:
    ssl = SSL4ClientEndpoint(reactor, "app.example", 443, CONTEXT, 7, ("10.0.0.1", 0))
    tcp: Any = ProxyProtocolClientEndpoint(ssl)._endpoint

    assert isinstance(tcp, TCP4ClientEndpoint)
    where = tcp._reactor, tcp._host, tcp._port, tcp._timeout, tcp._bindAddress
    assert where == (reactor, "app.example", 443, 7, ("10.0.0.1", 0))


SSL_ATTRIBUTES = ["_reactor", "_host", "_port", "_timeout", "_bindAddress", "_sslContextFactory"]


@pytest.mark.parametrize("attribute", [*SSL_ATTRIBUTES, "_wrappedEndpoint", "_wrapperFactory"])
def test_an_unknown_layout_of_twisteds_endpoints_raises_an_error(reactor: Any, files: Files, attribute: str) -> None:
    where = reactor, "127.0.0.1", 1
    endpoint: Any = wrapClientTLS(options(files), TCP4ClientEndpoint(*where))
    if attribute in SSL_ATTRIBUTES:
        endpoint = SSL4ClientEndpoint(*where, CONTEXT)
    delattr(endpoint, attribute)
    with pytest.raises(TypeError, match=f"keeps the context of an ssl: .* endpoint elsewhere .*{attribute}.* tls="):
        ProxyProtocolClientEndpoint(endpoint)


def test_a_server_that_expects_the_header_inside_tls_does_not_understand_the_client(reactor: Any, files: Files) -> None:
    """The header inside TLS is a different protocol, and neither must pass for the other."""
    server, client = AppFactory(), AppFactory()

    async def scenario() -> None:
        port = listen(reactor, TLSMemoryBIOFactory(files.options(), False, wrap(server, clock=reactor)))
        await with_tls(reactor, port, options(files)).connect(client)
        await until(reactor, lambda: client.app.lost)

    run(reactor, scenario())
    assert server.apps == []
