"""Server endpoints: around any other endpoint, and before TLS."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer
from zope.interface.verify import verifyObject

from proxyprotocol import HeaderPolicy, Receiver
from proxyprotocol.twisted import ProxyProtocolServerEndpoint, ProxyProtocolWrapperFactory
from tests.on_twisted import tls
from tests.on_twisted.reactors import CLIENT, DESTINATION, HEADER, AppFactory, Log, connect, run, until
from tests.on_twisted.tls import Files, TLSClient, answering, served

pytestmark = tls.OLD_WAYS

CONTEXT = object()


def listening(endpoint: ProxyProtocolServerEndpoint, reactor: Any) -> tuple[int, Any, int, str]:
    """Return what an endpoint passed to a reactor in memory: port, factory, backlog and interface."""
    endpoint.listen(AppFactory())
    (asked,) = reactor.tcpServers
    return asked  # type: ignore[no-any-return]


def test_the_class_is_an_endpoint() -> None:
    endpoint = ProxyProtocolServerEndpoint(TCP4ServerEndpoint(MemoryReactorClock(), 80))

    assert verifyObject(IStreamServerEndpoint, endpoint)


def test_the_endpoint_listens_as_the_wrapped_one_does() -> None:
    reactor = MemoryReactorClock()
    endpoint = ProxyProtocolServerEndpoint(TCP4ServerEndpoint(reactor, 8080, 7, "127.0.0.1"))
    port, factory, backlog, interface = listening(endpoint, reactor)

    assert (port, backlog, interface) == (8080, 7, "127.0.0.1")
    assert isinstance(factory, ProxyProtocolWrapperFactory)


def test_the_keywords_are_those_of_a_receiver() -> None:
    reactor = MemoryReactorClock()
    endpoint = ProxyProtocolServerEndpoint(
        TCP4ServerEndpoint(reactor, 80), policy=HeaderPolicy.IGNORE, timeout=3, max_header=200
    )

    assert listening(endpoint, reactor)[1].listener.receiver == Receiver(
        policy=HeaderPolicy.IGNORE, timeout=3, max_header=200
    )


def test_a_receiver_replaces_the_keywords() -> None:
    reactor, receiver = MemoryReactorClock(), Receiver()
    endpoint = ProxyProtocolServerEndpoint(TCP4ServerEndpoint(reactor, 80), receiver=receiver)

    assert listening(endpoint, reactor)[1].listener.receiver == receiver


def test_wrong_keywords_are_refused_before_listening() -> None:
    plain = TCP4ServerEndpoint(MemoryReactorClock(), 80)
    with pytest.raises(TypeError, match="policy="):
        ProxyProtocolServerEndpoint(plain, receiver=Receiver(), policy=HeaderPolicy.SKIP)
    with pytest.raises(TypeError, match=r"unknown keyword timeuot; did you mean timeout\?"):
        ProxyProtocolServerEndpoint(plain, timeuot=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="max_header"):
        ProxyProtocolServerEndpoint(plain, max_header=15)


def test_anything_but_a_server_endpoint_is_refused_at_once() -> None:
    other: Any
    for other in ("tcp:80", None, AppFactory(), TCP4ClientEndpoint(MemoryReactorClock(), "127.0.0.1", 80)):
        with pytest.raises(TypeError, match=r"^endpoint must be a server endpoint, such as serverFromString\(\) "):
            ProxyProtocolServerEndpoint(other)


def test_an_endpoint_serves_the_client_of_the_header(reactor: Any) -> None:
    factory = AppFactory(read=answering)

    async def scenario() -> None:
        port = await ProxyProtocolServerEndpoint(TCP4ServerEndpoint(reactor, 0, 50, "127.0.0.1")).listen(factory)
        client = await connect(reactor, port)
        client.transport.write(HEADER + b"question")
        await until(reactor, lambda: client.received == b"answer to question")

    run(reactor, scenario())
    assert (factory.built, factory.app.peer, factory.app.host) == ([CLIENT], CLIENT, DESTINATION)


def test_an_endpoint_serves_ipv6(reactor: Any) -> None:
    factory = AppFactory()

    async def scenario() -> None:
        port = await ProxyProtocolServerEndpoint(TCP6ServerEndpoint(reactor, 0, 50, "::1")).listen(factory)
        client = await connect(reactor, port)
        client.transport.write(b"PROXY UNKNOWN\r\n")
        await until(reactor, lambda: factory.apps)
        # as on a plain connection
        assert factory.app.peer == client.transport.getHost()

    run(reactor, scenario())


def test_an_endpoint_serves_a_unix_socket(reactor: Any) -> None:
    factory = AppFactory()
    name = f"\0proxyprotocol-endpoint-{os.getpid()}"

    async def scenario() -> None:
        port: Any = await ProxyProtocolServerEndpoint(UNIXServerEndpoint(reactor, name)).listen(factory)
        assert port.getHost() == UNIXAddress(name.encode())
        client = await connect(reactor, port)
        client.transport.write(HEADER)
        await until(reactor, lambda: factory.apps)

    run(reactor, scenario())
    assert factory.app.peer == CLIENT


def test_stopping_a_port_drops_connections_that_wait_for_a_header(reactor: Any, log: Log) -> None:
    async def scenario() -> None:
        port: Any = await ProxyProtocolServerEndpoint(TCP4ServerEndpoint(reactor, 0, 50, "127.0.0.1")).listen(
            AppFactory()
        )
        client = await connect(reactor, port)
        client.transport.write(HEADER[:9])
        refused = await connect(reactor, port)
        refused.transport.write(b"?")
        await until(reactor, lambda: log.lines)  # both connections are accepted now
        await port.stopListening()
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert len(log.lines) == 1


# TLS: the header comes first on the wire.


def test_an_ssl_endpoint_listens_without_tls() -> None:
    reactor = MemoryReactorClock()
    ssl = SSL4ServerEndpoint(reactor, 8443, CONTEXT, 7, "::1")
    endpoint = ProxyProtocolServerEndpoint(ssl)

    assert endpoint._tls is CONTEXT
    tcp: Any = endpoint._endpoint
    assert isinstance(tcp, TCP4ServerEndpoint)
    assert (tcp._reactor, tcp._port, tcp._backlog, tcp._interface) == (reactor, 8443, 7, "::1")


def test_inside_tls_keeps_an_ssl_endpoint_unchanged() -> None:
    reactor = MemoryReactorClock()
    ssl = SSL4ServerEndpoint(reactor, 8443, CONTEXT)
    ProxyProtocolServerEndpoint(ssl, inside_tls=True).listen(AppFactory())

    assert reactor.tcpServers == []
    ((port, factory, context, _, _),) = reactor.sslServers
    assert (port, context, type(factory)) == (8443, CONTEXT, ProxyProtocolWrapperFactory)


def test_tls_requested_twice_is_refused() -> None:
    ssl = SSL4ServerEndpoint(MemoryReactorClock(), 8443, CONTEXT)
    with pytest.raises(TypeError, match="already does TLS"):
        ProxyProtocolServerEndpoint(ssl, tls=CONTEXT)


PLAIN = ["tcp:80", "tcp6:80", "unix:/nowhere", "stdio"]


@pytest.mark.parametrize("description", PLAIN)
def test_inside_tls_without_tls_is_refused(description: str) -> None:
    """Otherwise a header in clear text would be accepted."""
    plain = serverFromString(MemoryReactorClock(), description)
    sentence = r"The endpoint does not do TLS: inside_tls= \(ppInsideTLS=yes\) needs an endpoint that does$"
    with pytest.raises(TypeError, match=f"^{sentence}"):
        ProxyProtocolServerEndpoint(plain, inside_tls=True)
    with pytest.raises(ValueError, match=rf"^{description} cannot be listened on: {sentence}"):
        serverFromString(MemoryReactorClock(), f"proxyprotocol:{description}:ppInsideTLS=yes")


@pytest.mark.parametrize("attribute", ["_reactor", "_port", "_backlog", "_interface", "_sslContextFactory"])
def test_an_unknown_layout_of_twisteds_endpoints_raises_an_error(attribute: str) -> None:
    ssl = SSL4ServerEndpoint(MemoryReactorClock(), 8443, CONTEXT)
    delattr(ssl, attribute)
    with pytest.raises(TypeError, match=f"keeps the context of an ssl: .* endpoint elsewhere .*{attribute}.* tls="):
        ProxyProtocolServerEndpoint(ssl)


@implementer(IStreamServerEndpoint)
class ForeignEndpoint:
    """A foreign endpoint, which may do TLS."""

    def __init__(self, reactor: Any, context: Any = None) -> None:
        self._reactor, self._context = reactor, context

    def listen(self, factory: Any) -> Any:
        if self._context is not None:
            factory = TLSMemoryBIOFactory(self._context, False, factory)
        return TCP4ServerEndpoint(self._reactor, 0, 50, "127.0.0.1").listen(factory)


def test_a_foreign_endpoint_without_tls_is_served(reactor: Any) -> None:
    factory = AppFactory()

    async def scenario() -> None:
        client = await connect(reactor, await ProxyProtocolServerEndpoint(ForeignEndpoint(reactor)).listen(factory))
        client.transport.write(HEADER)
        await until(reactor, lambda: factory.apps)

    run(reactor, scenario())
    assert factory.app.peer == CLIENT


@pytest.mark.parametrize("inside", [False, True])
def test_a_foreign_endpoint_that_does_tls_is_served_only_with_inside_tls(
    reactor: Any, files: Files, inside: bool, log: Log
) -> None:
    factory = AppFactory()
    client = TLSClient(files.context())

    async def scenario() -> None:
        endpoint = ProxyProtocolServerEndpoint(ForeignEndpoint(reactor, files.options()), inside_tls=inside)
        await connect(reactor, await endpoint.listen(factory), client)
        await until(reactor, lambda: client.ready or client.lost)
        if inside:
            client.say(HEADER)
        await until(reactor, lambda: factory.apps or client.lost)

    run(reactor, scenario())
    assert len(factory.apps) == inside
    if not inside:
        ((level, line),) = log.lines
        assert level == "warn"
        assert re.fullmatch(
            r"Refused a connection from 127\.0\.0\.1:\d+ on 127\.0\.0\.1:\d+: The header comes before TLS, but this "
            r"endpoint has already started TLS\. Use an endpoint without TLS, and pass the context as tls=; or set "
            r"inside_tls if the sender puts the header inside TLS",
            line,
        )


def test_a_second_header_is_refused() -> None:
    endpoint = ProxyProtocolServerEndpoint(TCP4ServerEndpoint(MemoryReactorClock(), 80))
    with pytest.raises(TypeError, match="already reads a header"):
        ProxyProtocolServerEndpoint(endpoint)


def test_tls_and_inside_tls_exclude_each_other() -> None:
    with pytest.raises(TypeError, match=r"tls= .* inside_tls="):
        ProxyProtocolServerEndpoint(TCP4ServerEndpoint(MemoryReactorClock(), 80), tls=CONTEXT, inside_tls=True)


class OwnSSL(SSL4ServerEndpoint):
    """A subclass of one of Twisted's endpoints, which may do more."""


def test_a_subclass_of_an_ssl_endpoint_is_not_split(reactor: Any, files: Files, log: Log) -> None:
    factory = AppFactory()
    client = TLSClient(files.context())

    async def scenario() -> None:
        own = OwnSSL(reactor, 0, files.options(), 50, "127.0.0.1")  # type: ignore[no-untyped-call]
        endpoint = ProxyProtocolServerEndpoint(own)
        await connect(reactor, await endpoint.listen(factory), client)
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert (factory.built, [level for level, line in log.lines]) == ([], ["warn"])


def test_a_tls_endpoint_listens_without_tls(reactor: Any, files: Files, tmp_path: Path, log: Log) -> None:
    for path in (files.key, files.certificate, files.chain):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    description = f"proxyprotocol:tls:{quoteStringArgument(str(tmp_path))}:port=0:interface=127.0.0.1"
    factory = AppFactory(read=answering)
    client = TLSClient(files.context(), HEADER)

    async def scenario() -> None:
        await served(reactor, await serverFromString(reactor, description).listen(factory), client, b"question")

    if importlib.util.find_spec("twisted.protocols._sni") is None:  # older Twisted has "tls:" only for clients
        with pytest.raises(ValueError, match="tls"):
            serverFromString(reactor, description)
    else:
        run(reactor, scenario())
        assert (factory.built, client.received, log.lines) == ([CLIENT], b"answer to question", [])


@pytest.mark.parametrize("reading", [ProxyProtocolWrapperFactory, HAProxyWrappingFactory])
def test_listen_fails_for_a_factory_that_reads_a_header(reading: Any) -> None:
    """The Deferred fails, as for every other error of ``listen``."""
    reactor = MemoryReactorClock()
    failures: list[Any] = []
    listening: Any = ProxyProtocolServerEndpoint(TCP4ServerEndpoint(reactor, 80)).listen(reading(AppFactory()))
    listening.addErrback(failures.append)

    assert [failure.type for failure in failures] == [TypeError]
    assert failures[0].getErrorMessage() == "The factory already reads a header, and a connection has only one"
    assert reactor.tcpServers == []


def test_twisteds_haproxy_endpoint_inside_ours_refuses_every_connection(reactor: Any, log: Log) -> None:
    """Twisted's own parser trusts every header, and the endpoint does not show that it reads one."""
    factory = AppFactory()

    async def scenario() -> None:
        haproxy = serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1")
        port = await ProxyProtocolServerEndpoint(haproxy, policy=HeaderPolicy.SKIP).listen(factory)
        for count in (1, 2):
            client = await connect(reactor, port)
            await until(reactor, lambda: client.lost)  # noqa: B023 (called in this iteration only)
            assert len(log.lines) == count

    run(reactor, scenario())
    assert factory.built == []
    assert {level for level, _ in log.lines} == {"warn"}
    for _, line in log.lines:
        assert line.startswith("Refused a connection from 127.0.0.1:")
        assert line.endswith(": This endpoint already reads a header, and a connection has only one")


def test_listening_through_twisteds_haproxy_endpoint_fails(reactor: Any) -> None:
    async def scenario() -> None:
        with pytest.raises(TypeError, match="The factory already reads a header, and a connection has only one"):
            await serverFromString(reactor, "haproxy:proxyprotocol:tcp:0:interface=127.0.0.1").listen(AppFactory())

    run(reactor, scenario())
