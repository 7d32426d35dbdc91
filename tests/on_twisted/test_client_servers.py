"""The client's endpoint with the package's own servers, also through a relay."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.endpoints import TCP4ServerEndpoint

from proxyprotocol import ProxyProtocolV1, ProxyProtocolV2, ProxyResult
from proxyprotocol.twisted import ProxyProtocolServerEndpoint, proxy_result
from tests.on_twisted.clients import NAMED, endpoint_of, peers, saying
from tests.on_twisted.reactors import CLIENT, DESTINATION, HEADER, AppFactory, connect, listen, run, until, wrap


@pytest.mark.parametrize("pp", [ProxyProtocolV1(), ProxyProtocolV2()], ids=["v1", "v2"])
def test_the_server_sees_the_named_client(reactor: Any, pp: Any) -> None:
    server, given = peers(), []

    def name(transport: Any) -> ProxyResult:
        given.append(transport)
        return NAMED

    async def scenario() -> None:
        port = listen(reactor, wrap(server, clock=reactor))
        app: Any = await endpoint_of(reactor, port, name, pp=pp).connect(AppFactory(begin=saying(b"hello")))
        await until(reactor, lambda: server.apps and server.app.received)
        assert given == [app.transport]

    run(reactor, scenario())
    assert (server.app.peer, server.app.host, server.app.received) == (CLIENT, DESTINATION, b"hello")


@pytest.mark.parametrize("pp", [ProxyProtocolV1(), ProxyProtocolV2()], ids=["v1", "v2"])
def test_the_server_sees_a_client_that_speaks_for_itself(reactor: Any, pp: Any) -> None:
    server = peers()

    async def scenario() -> None:
        port = listen(reactor, wrap(server, clock=reactor))
        app: Any = await endpoint_of(reactor, port, pp=pp).connect(AppFactory())
        await until(reactor, lambda: server.apps)
        assert (server.app.peer, server.app.host) == (app.host, port.getHost())

    run(reactor, scenario())


def test_a_relay_passes_on_the_client_of_its_header(reactor: Any) -> None:
    """The server after the relay sees the client of the header that the relay received."""
    last = peers()
    last_port = listen(reactor, wrap(last, clock=reactor))

    def pass_on(app: Any) -> None:
        endpoint = endpoint_of(reactor, last_port, lambda transport: proxy_result(app.transport))
        endpoint.connect(AppFactory(begin=saying(b"from the relay")))

    async def scenario() -> None:
        port = await ProxyProtocolServerEndpoint(TCP4ServerEndpoint(reactor, 0, 50, "127.0.0.1")).listen(relay)
        client = await connect(reactor, port)
        client.transport.write(HEADER)
        await until(reactor, lambda: last.apps and last.app.received)

    relay = AppFactory(begin=pass_on)
    run(reactor, scenario())
    assert (last.app.peer, last.app.host, last.app.received) == (CLIENT, DESTINATION, b"from the relay")
