"""TLS after the header, on real reactors."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from twisted.internet.endpoints import TCP4ServerEndpoint, serverFromString
from twisted.internet.interfaces import IHandshakeListener, INegotiated, ISSLTransport
from twisted.internet.task import Clock
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from proxyprotocol.twisted import IProxiedTransport, ProxyProtocolServerEndpoint, proxy_result
from tests.on_twisted import tls
from tests.on_twisted.reactors import (
    CLIENT,
    DESTINATION,
    HEADER,
    App,
    AppFactory,
    Client,
    Log,
    MemoryTransport,
    RefusingFactory,
    accept,
    connect,
    listen,
    run,
    turns,
    until,
    wrap,
)
from tests.on_twisted.tls import CUTS, SERVER_NAME, Files, TLSClient, answering, served

WHO = "192.0.2.1:1000, relayed by 10.1.2.3:50000 on 10.9.8.7:8080"

pytestmark = tls.OLD_WAYS


@CUTS
def test_a_string_reads_the_header_before_tls(reactor: Any, files: Files, cut: Callable[[bytes], list[bytes]]) -> None:
    """In the uncut stream, the ClientHello shares the header's segment."""
    factory = AppFactory(read=answering)
    client = TLSClient(files.context(), HEADER, cut)

    async def scenario() -> None:
        endpoint = serverFromString(reactor, files.string("proxyprotocol:ssl:0:interface=127.0.0.1"))
        await served(reactor, await endpoint.listen(factory), client, b"question")
        transport = factory.app.transport
        assert (transport.client, transport.hostname) == ((CLIENT.host, CLIENT.port), CLIENT.host)
        assert ISSLTransport.providedBy(transport)
        assert (transport.getPeer(), transport.getHost()) == (CLIENT, DESTINATION)
        assert IProxiedTransport(transport).getProxyPeer() == client.transport.getHost()
        assert IProxiedTransport(transport).getProxyResult() is proxy_result(transport) is not None
        client.transport.loseConnection()
        await until(reactor, lambda: factory.app.lost)

    run(reactor, scenario())
    assert factory.built == [CLIENT]
    assert (factory.app.peer, factory.app.host, client.received) == (CLIENT, DESTINATION, b"answer to question")
    assert len(factory.app.lost) == 1


def in_a_handshake(files: Files, clock: Clock, factory: AppFactory, **keywords: Any) -> tuple[Any, MemoryTransport]:
    wrapping = wrap(factory, tls=files.options(), clock=clock, **keywords)
    wrapping.doStart()
    transport = accept(wrapping)
    transport.receive(HEADER)
    return wrapping, transport


@pytest.mark.parametrize(("keywords", "seconds"), [({}, 10), ({"tls_timeout": 0.5}, 0.5)])
@pytest.mark.parametrize("sent", [[], [b"\x16\x03\x01"]], ids=["silent", "stalled"])
def test_a_late_handshake_is_refused(
    files: Files, clock: Clock, log: Log, keywords: dict[str, float], seconds: float, sent: list[bytes]
) -> None:
    _, transport = in_a_handshake(files, clock, AppFactory(), **keywords)
    transport.receive(*sent)
    clock.advance(seconds - 0.1)
    assert transport.aborts == 0

    clock.advance(0.1)
    assert transport.aborts == 1
    reason = f"the TLS handshake failed: it was not done within {seconds:g} seconds"
    assert log.lines == [("warn", f"Refused a connection from {WHO}: {reason}")]
    transport.lose()
    assert len(log.lines) == 1


def test_without_a_limit_a_handshake_can_take_any_time(files: Files, clock: Clock) -> None:
    _, transport = in_a_handshake(files, clock, AppFactory(), tls_timeout=None)
    clock.advance(1e6)
    assert transport.aborts == 0


def test_a_client_that_leaves_during_its_handshake_is_never_late(files: Files, clock: Clock, log: Log) -> None:
    _, transport = in_a_handshake(files, clock, AppFactory())
    transport.lose()
    clock.advance(60)
    reason = "the TLS handshake failed: the connection was lost"
    assert log.lines == [("debug", f"Refused a connection from {WHO}: {reason}")]
    assert transport.aborts == 0


def test_stopping_a_port_drops_connections_in_their_handshake(files: Files, clock: Clock, log: Log) -> None:
    wrapping, transport = in_a_handshake(files, clock, AppFactory())
    wrapping.doStop()
    assert (transport.aborts, log.lines) == (1, [])


def test_tls_timeout_must_be_above_0(files: Files) -> None:
    for make in (
        wrap,
        lambda factory, **keywords: ProxyProtocolServerEndpoint(TCP4ServerEndpoint(None, 0), **keywords),
    ):
        with pytest.raises(ValueError, match="tls_timeout must be a number of seconds above 0, not 0"):
            make(AppFactory(), tls=files.options(), tls_timeout=0)


@pytest.mark.parametrize("told", [True, False], ids=["", "with a Twisted that does not tell"])
def test_a_string_limits_the_handshake_only(
    reactor: Any, files: Files, log: Log, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    if not told:
        # a private method of Twisted: a newer Twisted may rename it, and must not lose a client then
        monkeypatch.delattr("proxyprotocol.twisted.tls._ServerTLS._checkHandshakeStatus")
    factory = AppFactory(read=answering)
    client, silent = TLSClient(files.context(), HEADER), Client()

    async def scenario() -> None:
        string = files.string("proxyprotocol:ssl:0:interface=127.0.0.1") + ":ppTLSTimeout=0.3"
        port = await serverFromString(reactor, string).listen(factory)
        await served(reactor, port, client, b"question")
        await connect(reactor, port, silent)
        silent.transport.write(HEADER)
        await until(reactor, lambda: silent.lost)
        assert (client.lost, factory.apps[0].lost) == ([], [])
        client.transport.loseConnection()

    run(reactor, scenario())
    assert [level for level, _ in log.lines] == ["warn"]


@pytest.mark.parametrize("how", ["factory", "endpoint"])
def test_a_factory_and_an_endpoint_do_tls_after_the_header(reactor: Any, files: Files, how: str) -> None:
    factory = AppFactory(read=answering)
    client = TLSClient(files.context(), HEADER)

    async def scenario() -> None:
        if how == "factory":
            port = listen(reactor, wrap(factory, clock=reactor, tls=files.options()))
        else:
            plain = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
            port = await ProxyProtocolServerEndpoint(plain, tls=files.options()).listen(factory)
        await served(reactor, port, client, b"question")
        certificate = factory.app.transport.getPeerCertificate().to_cryptography()
        assert certificate.subject.rfc4514_string() == "CN=client"

    run(reactor, scenario())
    assert (factory.app.peer, client.received) == (CLIENT, b"answer to question")


# the group ffdhe2048 of RFC 7919: generating one takes seconds
DH_PARAMETERS = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""


def rsa_certificate() -> bytes:
    """Return a key and a self-signed certificate, in PEM."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    now, lifetime = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1).not_valid_before(now - lifetime)
    certificate = builder.not_valid_after(now + lifetime).sign(key, SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def test_dh_parameters_of_a_string_are_used(reactor: Any, tmp_path: Path) -> None:
    """The client offers only DHE, which needs the parameters."""
    server, parameters = tmp_path / "server.pem", tmp_path / "dh.pem"
    server.write_bytes(rsa_certificate())
    parameters.write_text(DH_PARAMETERS)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("DHE-RSA-AES128-GCM-SHA256")
    factory, client = AppFactory(read=answering), TLSClient(context, HEADER)

    async def scenario() -> None:
        string = f"proxyprotocol:ssl:0:interface=127.0.0.1:privateKey={server}:dhParameters={parameters}"
        port = await serverFromString(reactor, string).listen(factory)
        await served(reactor, port, client, b"question")

    run(reactor, scenario())
    assert (factory.app.peer, client.received) == (CLIENT, b"answer to question")
    cipher = client.tls.cipher()
    assert cipher is not None
    assert cipher[0] == "DHE-RSA-AES128-GCM-SHA256"


@pytest.mark.parametrize("inside", [False, True], ids=["header first", "header inside"])
def test_a_browser_and_a_site_speak_http_2(reactor: Any, files: Files, inside: bool) -> None:
    """TLS around the header asks our factory for protocols, and would refuse a browser without an answer."""

    class WhoAmI(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            address = request.getClientAddress()
            return f"{request.clientproto.decode()} {address.host} {request.isSecure()}".encode()

    client = TLSClient(files.context("h2", "http/1.1"), b"" if inside else HEADER)
    http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))

    async def scenario() -> None:
        where = f"proxyprotocol:ssl:0:interface=127.0.0.1:ppInsideTLS={'yes' if inside else 'no'}"
        endpoint = serverFromString(reactor, files.string(where))
        site = Site(WhoAmI())  # type: ignore[no-untyped-call]
        site.noisy = False
        port = await endpoint.listen(site)
        http.initiate_connection()
        pseudo = {":method": "GET", ":path": "/", ":scheme": "https", ":authority": SERVER_NAME}
        http.send_headers(1, list(pseudo.items()), end_stream=True)
        await connect(reactor, port, client)
        await until(reactor, lambda: client.ready or client.lost)
        assert client.tls.selected_alpn_protocol() == "h2"
        client.say((HEADER if inside else b"") + http.data_to_send())
        answer = b""
        events: list[Any] = []
        while not any(isinstance(event, StreamEnded) for event in events):
            await until(reactor, lambda: client.received)
            received, client.received = client.received, b""
            events = http.receive_data(received)
            answer += b"".join(event.data for event in events if isinstance(event, DataReceived))
        assert answer == b"HTTP/2 192.0.2.1 True"

    run(reactor, scenario())


def test_tls_without_a_header_is_refused_with_a_hint(reactor: Any, files: Files, log: Log) -> None:
    factory = AppFactory()
    client = TLSClient(files.context())

    async def scenario() -> None:
        endpoint = serverFromString(reactor, files.string("proxyprotocol:ssl:0:interface=127.0.0.1"))
        await connect(reactor, await endpoint.listen(factory), client)
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    ((level, line),) = log.lines
    assert (level, factory.built) == ("warn", [])
    assert "this is TLS, which must come after the header" in line


def test_a_factory_that_returns_none_closes_the_connection_after_the_header(
    reactor: Any, files: Files, log: Log
) -> None:
    """Twisted itself wraps TLS around None, which fails with a traceback."""
    factory = RefusingFactory()
    client = TLSClient(files.context(), HEADER)

    async def scenario() -> None:
        await connect(reactor, listen(reactor, wrap(factory, clock=reactor, tls=files.options())), client)
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert (factory.built, log.lines) == ([CLIENT], [])


class Wire(MemoryTransport):
    """Return the client's end of a connection in memory."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def take(self) -> bytes:
        data: bytes = self.value()  # type: ignore[no-untyped-call]
        self.clear()  # type: ignore[no-untyped-call]
        return data


def test_tls_uses_the_clock_of_the_factory(files: Files) -> None:
    """Newer Twisted delays small writes until the clock advances."""
    clock = Clock()
    client, wire = TLSClient(files.context(), HEADER), Wire()
    client.makeConnection(wire)  # type: ignore[no-untyped-call]
    server = accept(wrap(AppFactory(read=answering), clock=clock, tls=files.options()), Wire())

    def exchange() -> None:
        while data := wire.take():
            server.receive(data)
            clock.advance(0)
            if answer := server.take():
                client.dataReceived(answer)

    exchange()
    client.say(b"question")
    exchange()
    assert client.received == b"answer to question"


def test_an_application_learns_of_the_handshake(reactor: Any, files: Files) -> None:
    @implementer(IHandshakeListener)
    class Listening(App):
        negotiated: Any = ()

        def handshakeCompleted(self) -> None:
            self.negotiated = INegotiated(self.transport).negotiatedProtocol

    factory = AppFactory(kind=Listening, read=answering)
    client = TLSClient(files.context(), HEADER)

    async def scenario() -> None:
        port = listen(reactor, wrap(factory, clock=reactor, tls=files.options()))
        await served(reactor, port, client, b"question")

    run(reactor, scenario())
    assert factory.app.negotiated is None


def begin_tls(files: Files) -> Callable[[Any], None]:
    return lambda app: app.transport.startTLS(files.options())


@CUTS
def test_an_application_can_start_tls_in_connectionMade(
    reactor: Any, files: Files, cut: Callable[[bytes], list[bytes]]
) -> None:
    """The ClientHello shares the header's segment, and is not lost."""
    factory = AppFactory(begin=begin_tls(files), read=answering)
    client = TLSClient(files.context(), HEADER, cut)

    async def scenario() -> None:
        port = listen(reactor, wrap(factory, clock=reactor))
        await served(reactor, port, client, b"question")
        transport = factory.app.transport
        assert ISSLTransport.providedBy(transport)
        assert transport.getPeerCertificate() is not None
        assert (transport.getPeer(), transport.getHost()) == (CLIENT, DESTINATION)
        assert IProxiedTransport(transport).getProxyPeer() == client.transport.getHost()
        assert proxy_result(transport) is not None

    run(reactor, scenario())
    assert (factory.app.received, client.received) == (b"question", b"answer to question")


@pytest.mark.parametrize("paused", [False, True], ids=["as it begins", "after a pause"])
def test_plain_data_before_tls_fails_the_handshake(reactor: Any, files: Files, paused: bool) -> None:
    """The data came with the header, and must not look like data from TLS."""
    factory = AppFactory(begin=(lambda app: app.transport.pauseProducing()) if paused else begin_tls(files))
    client = TLSClient(files.context(), HEADER + b"INJECTED\r\n")

    async def scenario() -> None:
        await connect(reactor, listen(reactor, wrap(factory, clock=reactor)), client)
        await until(reactor, lambda: factory.apps)
        if paused:
            await turns(reactor)
            begin_tls(files)(factory.app)
            factory.app.transport.resumeProducing()
        await until(reactor, lambda: client.lost and factory.app.lost)

    run(reactor, scenario())
    assert (factory.app.received, client.ready) == (b"", False)


def test_an_application_can_pause_and_start_tls_later(reactor: Any, files: Files) -> None:
    factory = AppFactory(begin=lambda app: app.transport.pauseProducing(), read=answering)
    client = TLSClient(files.context(), HEADER)

    async def scenario() -> None:
        await connect(reactor, listen(reactor, wrap(factory, clock=reactor)), client)
        await until(reactor, lambda: factory.apps)
        await turns(reactor)
        factory.app.transport.startTLS(files.options())
        factory.app.transport.resumeProducing()
        await until(reactor, lambda: client.ready)
        client.say(b"question")
        await until(reactor, lambda: client.received)

    run(reactor, scenario())
    assert client.received == b"answer to question"
