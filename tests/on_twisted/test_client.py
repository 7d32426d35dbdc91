"""The client's endpoint on real reactors: the header comes first, then the wrapper is gone."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv6Address
from typing import Any

import pytest
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    TCP6ClientEndpoint,
    TCP6ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.error import ConnectingCancelledError, ConnectionRefusedError, NoProtocol
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface.verify import verifyObject

from proxyprotocol import (
    ProxyProtocolNoop,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
)
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.twisted import ProxyProtocolClientEndpoint, proxy_result
from tests.on_twisted.clients import LOCAL, NAMED, HalfCloseable, endpoint_of, failing, peers, saying
from tests.on_twisted.reactors import (
    App,
    AppFactory,
    BrokenFactory,
    Log,
    RefusingFactory,
    listen,
    run,
    turns,
    until,
)

RESULTS = {
    "IPv4": NAMED,
    "IPv6": ProxyResultIPv6((IPv6Address("2001:db8::1"), 1), (IPv6Address("2001:db8::2"), 2)),
    "UNIX": ProxyResultUnix("/run/client", "/run/server"),
    "TLVs": ProxyResultIPv4(NAMED.source, NAMED.dest, tlv=ProxyProtocolTLV(authority="app.example", unique_id=b"1")),
}


def test_the_class_is_an_endpoint(reactor: Any) -> None:
    endpoint = ProxyProtocolClientEndpoint(TCP4ClientEndpoint(reactor, "127.0.0.1", 1))

    assert verifyObject(IStreamClientEndpoint, endpoint)


def test_the_header_comes_first_and_shares_a_segment_with_the_applications_first_data(reactor: Any) -> None:
    server, client = peers(read=lambda app: app.transport.write(b"welcome")), AppFactory(begin=saying(b"hello"))

    async def scenario() -> None:
        app = await endpoint_of(reactor, listen(reactor, server)).connect(client)
        assert app is client.app
        await until(reactor, lambda: client.app.received)

    run(reactor, scenario())
    assert server.app.segments == [LOCAL + b"hello"]
    assert client.app.received == b"welcome"


def test_the_header_is_sent_even_if_the_application_waits_for_its_server(reactor: Any) -> None:
    server, client = peers(), AppFactory()

    async def scenario() -> None:
        await endpoint_of(reactor, listen(reactor, server)).connect(client)
        await until(reactor, lambda: server.apps and server.app.received)

    run(reactor, scenario())
    assert server.app.segments == [LOCAL]


def test_no_code_of_the_package_stays_on_the_connection(reactor: Any) -> None:
    server, client = peers(), AppFactory()

    async def scenario() -> None:
        port = listen(reactor, server)
        app: Any = await endpoint_of(reactor, port).connect(client)
        await until(reactor, lambda: server.apps)
        transport = app.transport
        assert transport.protocol is app
        assert type(transport).__module__ == "twisted.internet.tcp"
        assert transport.logstr == "App,client"
        assert (app.peer, app.host) == (port.getHost(), server.app.peer)
        assert client.built == [port.getHost()]
        assert proxy_result(transport) is None
        # the instance has no methods of its own either
        assert not {"write", "getPeer", "getHost", "stopReading", "dataReceived"} & vars(transport).keys()

    run(reactor, scenario())


@pytest.mark.parametrize("pp", [ProxyProtocolV1(), ProxyProtocolV2(), ProxyProtocolV2(checksum=False)])
@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_the_header_says_what_result_says(reactor: Any, pp: Any, result: ProxyResult) -> None:
    if isinstance(pp, ProxyProtocolV1) and isinstance(result, ProxyResultUnix):
        result = NAMED  # version 1 cannot say LOCAL: see below
    server = peers()

    async def scenario() -> None:
        await endpoint_of(reactor, listen(reactor, server), result, pp=pp).connect(AppFactory(begin=saying(b"hello")))
        await until(reactor, lambda: server.apps and server.app.received)

    run(reactor, scenario())
    assert server.app.segments == [pp.pack(result) + b"hello"]


def test_the_noop_codec_sends_nothing(reactor: Any) -> None:
    server = peers()

    async def scenario() -> None:
        endpoint = endpoint_of(reactor, listen(reactor, server), pp=ProxyProtocolNoop())
        await endpoint.connect(AppFactory(begin=saying(b"hello")))
        await until(reactor, lambda: server.apps and server.app.received)

    run(reactor, scenario())
    assert server.app.segments == [b"hello"]


# A client that speaks for itself


def test_version_1_names_the_connections_own_two_addresses(reactor: Any) -> None:
    server = peers()

    async def scenario() -> None:
        port = listen(reactor, server)
        app: Any = await endpoint_of(reactor, port, pp=ProxyProtocolV1()).connect(AppFactory())
        await until(reactor, lambda: server.apps and server.app.received)
        ports = f"{app.host.port} {port.getHost().port}"
        assert server.app.segments == [f"PROXY TCP4 127.0.0.1 127.0.0.1 {ports}\r\n".encode()]

    run(reactor, scenario())


def test_version_1_names_the_connections_own_two_ipv6_addresses(reactor: Any) -> None:
    server = peers()

    async def scenario() -> None:
        port: Any = await TCP6ServerEndpoint(reactor, 0, 50, "::1").listen(server)
        plain = TCP6ClientEndpoint(reactor, "::1", port.getHost().port)
        app: Any = await ProxyProtocolClientEndpoint(plain, pp=ProxyProtocolV1()).connect(AppFactory())
        await until(reactor, lambda: server.apps and server.app.received)
        ports = f"{app.host.port} {port.getHost().port}"
        assert server.app.segments == [f"PROXY TCP6 ::1 ::1 {ports}\r\n".encode()]

    run(reactor, scenario())


@pytest.mark.parametrize(
    ("pp", "header"), [(ProxyProtocolV1(), b"PROXY UNKNOWN\r\n"), (ProxyProtocolV2(), LOCAL)], ids=["v1", "v2"]
)
def test_a_client_on_a_unix_socket_names_no_address(reactor: Any, pp: Any, header: bytes) -> None:
    server = peers()
    name = f"\0proxyprotocol-client-{os.getpid()}"

    async def scenario() -> None:
        await UNIXServerEndpoint(reactor, name).listen(server)
        plain = UNIXClientEndpoint(reactor, name)
        app: Any = await ProxyProtocolClientEndpoint(plain, pp=pp).connect(AppFactory(begin=saying(b"hello")))
        assert app.transport.protocol is app
        await until(reactor, lambda: server.apps and server.app.received)

    run(reactor, scenario())
    assert server.app.segments == [header + b"hello"]


def test_a_result_function_that_returns_none_lets_the_client_speak_for_itself(reactor: Any) -> None:
    server = peers()

    async def scenario() -> None:
        await endpoint_of(reactor, listen(reactor, server), lambda transport: None).connect(AppFactory())
        await until(reactor, lambda: server.apps and server.app.received)

    run(reactor, scenario())
    assert server.app.segments == [LOCAL]


# Errors


WRONG: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "LOCAL in version 1": (ProxyResultLocal(), ProxyProtocolV1(), ValueError, "cannot say LOCAL"),
    "UNIX in version 1": (RESULTS["UNIX"], ProxyProtocolV1(), KeyError, "UNIX"),
    "a path that is too long": (ProxyResultUnix("/" + "x" * 108, ""), None, ValueError, "does not fit"),
    "a function that raises": (failing, None, ZeroDivisionError, "in the result function"),
    "a function that returns no result": (lambda transport: "192.0.2.1", None, TypeError, "must return a ProxyResult"),
}


@pytest.mark.parametrize(("result", "pp", "error", "sentence"), WRONG.values(), ids=WRONG)
def test_a_header_that_cannot_be_written_fails_the_connection(
    reactor: Any, result: Any, pp: Any, error: type[Exception], sentence: str
) -> None:
    """The caller gets the real exception, and the log does not. The server and the application see nothing."""
    server, client = peers(), AppFactory()

    async def scenario() -> None:
        with pytest.raises(error, match=sentence):
            await endpoint_of(reactor, listen(reactor, server), result, pp=pp).connect(client)
        await until(reactor, lambda: server.apps and server.app.lost)

    run(reactor, scenario())
    assert (server.app.received, client.apps) == (b"", [])


def test_wrong_arguments_are_refused_at_once(reactor: Any) -> None:
    plain = TCP4ClientEndpoint(reactor, "127.0.0.1", 1)
    with pytest.raises(TypeError, match="result must be a ProxyResult or a function that returns one, not 'v2'"):
        ProxyProtocolClientEndpoint(plain, "v2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"pp must be a codec, such as .*, not 'v2'"):
        ProxyProtocolClientEndpoint(plain, pp="v2")  # type: ignore[arg-type]
    other: Any
    for other in ("tcp:h:1", None, AppFactory(), TCP4ServerEndpoint(reactor, 0)):
        with pytest.raises(
            TypeError, match=r"endpoint must be a client endpoint, such as clientFromString\(\) returns, "
        ):
            ProxyProtocolClientEndpoint(other)


def test_a_second_header_is_refused(reactor: Any) -> None:
    endpoint = ProxyProtocolClientEndpoint(TCP4ClientEndpoint(reactor, "127.0.0.1", 1))
    with pytest.raises(TypeError, match="already sends a header"):
        ProxyProtocolClientEndpoint(endpoint)


def test_a_refused_connection_fails_as_without_the_wrapper(reactor: Any) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            await ProxyProtocolClientEndpoint(TCP4ClientEndpoint(reactor, "127.0.0.1", port)).connect(AppFactory())

    run(reactor, scenario())


def test_cancelling_connect_cancels_the_connection(reactor: Any) -> None:
    server, client = peers(), AppFactory()

    async def scenario() -> None:
        connecting = endpoint_of(reactor, listen(reactor, server)).connect(client)
        connecting.cancel()
        with pytest.raises(ConnectingCancelledError):
            await connecting
        await turns(reactor)

    run(reactor, scenario())
    assert client.built == []
    assert [app.received for app in server.apps] in ([], [b""])


@pytest.mark.parametrize(("factory", "error"), [(RefusingFactory(), NoProtocol), (BrokenFactory(), ZeroDivisionError)])
def test_a_factory_that_returns_none_fails_the_connection(
    reactor: Any, factory: AppFactory, error: type[Exception]
) -> None:
    server = peers()

    async def scenario() -> None:
        with pytest.raises(error):
            await endpoint_of(reactor, listen(reactor, server)).connect(factory)
        await until(reactor, lambda: server.apps and server.app.lost)

    run(reactor, scenario())
    assert server.app.received == b""


def test_an_error_in_connectionMade_is_logged_and_drops_the_connection(reactor: Any, log: Log) -> None:
    def broken(app: Any) -> None:
        raise ZeroDivisionError("in connectionMade")

    server, client = peers(), AppFactory(begin=broken)

    async def scenario() -> None:
        endpoint_of(reactor, listen(reactor, server)).connect(client)
        await until(reactor, lambda: client.apps and client.app.lost)

    run(reactor, scenario())
    assert log.flush(ZeroDivisionError) == 1


# Features of Twisted that must still work


def test_half_close_still_works(reactor: Any) -> None:
    server = peers(begin=lambda app: app.transport.loseWriteConnection())
    client = AppFactory(kind=HalfCloseable)

    async def scenario() -> None:
        await endpoint_of(reactor, listen(reactor, server)).connect(client)
        await until(reactor, lambda: server.apps and server.app.lost)

    run(reactor, scenario())
    assert server.app.received == LOCAL + b"still here"
    assert client.app.ended == 1


def test_the_header_is_sent_even_if_the_application_loses_the_connection_at_once(reactor: Any) -> None:
    server = peers()

    async def scenario() -> None:
        port = listen(reactor, server)
        app = await endpoint_of(reactor, port).connect(AppFactory(begin=lambda app: app.transport.loseConnection()))
        assert isinstance(app, App)
        await until(reactor, lambda: server.apps and server.app.lost)

    run(reactor, scenario())
    assert server.app.received == LOCAL


def test_an_endpoint_can_connect_several_times(reactor: Any) -> None:
    server, client = peers(), AppFactory()

    async def scenario() -> None:
        endpoint = endpoint_of(reactor, listen(reactor, server))
        first, second = endpoint.connect(client), endpoint.connect(client)
        assert {await first, await second} == set(client.apps)
        await until(reactor, lambda: [app.received for app in server.apps] == [LOCAL, LOCAL])

    run(reactor, scenario())


def test_a_host_name_is_resolved_as_without_the_wrapper(reactor: Any) -> None:
    server = peers()

    async def scenario() -> None:
        plain = HostnameEndpoint(reactor, "127.0.0.1", listen(reactor, server).getHost().port)
        app: Any = await ProxyProtocolClientEndpoint(plain).connect(AppFactory(begin=saying(b"hello")))
        assert app.transport.protocol is app
        await until(reactor, lambda: server.apps and server.app.received)

    run(reactor, scenario())
    assert server.app.segments == [LOCAL + b"hello"]


def test_the_factory_is_started_and_stopped_with_the_connection(reactor: Any, log: Log) -> None:
    events: list[str] = []

    class Told(AppFactory):
        def startFactory(self) -> None:
            events.append("start")

        def stopFactory(self) -> None:
            events.append("stop")

    async def scenario() -> None:
        client = Told()
        app: Any = await endpoint_of(reactor, listen(reactor, AppFactory())).connect(client)
        assert (events, client.numPorts) == (["start"], 1)
        app.transport.loseConnection()
        await until(reactor, lambda: events == ["start", "stop"])

    run(reactor, scenario())
    # the application's factory is not noisy, and the wrapper logs nothing either
    assert [event for event in log.events if "factory" in event] == []
