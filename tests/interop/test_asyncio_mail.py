"""aiosmtpd speaks first: it does so after the header, and sees the client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from proxyprotocol.integrations.aiosmtpd import ProxyProtocolMixIn
from tests.on_asyncio.loops import CLIENT, CUTS, HEADER, LOOPS, Peer, connected

from ._applications import Application, Listener, Way, application, every_header, running
from ._certificates import SERVER_NAME, Certificates
from ._clients import MailClient, assert_bad_peers_are_dropped, converse
from ._programs import Address, wait_for
from ._proxies import HAProxy

# one worker runs all tests of this file, so that each server is started once
pytestmark = pytest.mark.xdist_group("asyncio-mail")


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Application]:
    """The server, with STARTTLS and with TLS from the start. It is started with its own probe."""
    command = application("aiosmtpd_mail", request.param, str(certificates.server))
    with running(command, tmp_path_factory.mktemp("mail"), 2) as server:
        yield server


@pytest.fixture(params=[0, 1], ids=["plain", "tls"])
def listener(request: pytest.FixtureRequest, server: Application, certificates: Certificates) -> Listener:
    """Both of its listeners in turn."""
    return Listener(server, server.ports[request.param], certificates.client_context() if request.param else None)


def assert_delivered(listener: Listener, way: Way, text: str, *, starttls: Any = None) -> None:
    """Send a message; its sender identifies it."""
    connection, sender = way.connect()
    if listener.context is not None:
        connection = listener.context.wrap_socket(connection, server_hostname=SERVER_NAME)
    with MailClient(connection) as client:
        if starttls is not None:
            client.starttls(context=starttls)
        client.sendmail("bob@example.org", "alice@example.com", text)
    assert listener.application.logged("message: ") == f"message: {sender.host} {sender.port} {text}"


@every_header
def test_a_message_shows_the_client(listener: Listener, header: Any) -> None:
    assert_delivered(listener, listener.way(header), "straight")


@every_header
@CUTS
def test_a_message_shows_the_client_however_its_bytes_are_cut(listener: Listener, header: Any, cut: Any) -> None:
    commands = b"EHLO a\r\nMAIL FROM:<b@example.org>\r\nRCPT TO:<a@example.com>\r\nDATA\r\ncut\r\n.\r\nQUIT\r\n"

    converse(listener.way(header), cut, commands, b"221 Bye\r\n", listener.context)

    _, sender = header
    assert listener.application.logged("message: ") == f"message: {sender.host} {sender.port} cut"


@every_header
def test_a_message_after_starttls_shows_the_client(
    server: Application, certificates: Certificates, header: Any
) -> None:
    listener = Listener(server, server.ports[0])
    assert_delivered(listener, listener.way(header), "STARTTLS", starttls=certificates.client_context())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_message_through_haproxy_shows_the_client(listener: Listener, haproxy: HAProxy, host: str) -> None:
    port = haproxy.start(f"127.0.0.1:{listener.port} send-proxy-v2", bind=f"{host}:{{port}}")

    assert_delivered(listener, Way(Address(host, port)), "HAProxy")


def test_bad_peers_disturb_no_other_connection(listener: Listener) -> None:
    assert_bad_peers_are_dropped(listener)

    assert_delivered(listener, listener.way(), "after them")


READY = b"220 Ready to start TLS\r\n"


class Names:
    """A handler that records the peer of each EHLO."""

    def __init__(self) -> None:
        self.names: list[Any] = []

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, name: str, responses: list[str]) -> list[str]:
        self.names.append((session.peer, name, session.ssl is not None))
        return responses


class ProxyController(ProxyProtocolMixIn, Controller):
    pass


@pytest.fixture(params=LOOPS.values(), ids=list(LOOPS))
def controller(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Any]:
    """A controller in this process, with STARTTLS."""
    controller = ProxyController(Names(), "127.0.0.1", 0, request.param(), tls_context=certificates.server_context())
    controller.start()
    try:
        yield controller
    finally:
        controller.stop()


def say(controller: Any, context: ssl.SSLContext, begin: Any) -> None:
    """Send HELO, then *begin*."""

    async def talk() -> None:
        async with connected(controller.server, context=context) as peer:
            await peer.send(HEADER)
            greeting = await asyncio.get_running_loop().sock_recv(peer.sock, 1000)
            assert greeting.startswith(b"220 ")
            await begin(peer)

    asyncio.run(asyncio.wait_for(talk(), 10))


def test_a_command_in_one_segment_with_starttls_fails_the_handshake(
    controller: Any, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async def inject(peer: Peer) -> None:
        await peer.send(b"STARTTLS\r\nEHLO injected\r\n")
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await peer.shake_hands(answer=READY)

    say(controller, certificates.client_context(), inject)
    assert controller.handler.names == []
    wait_for(lambda: "TLSSetupException" in caplog.text)  # aiosmtpd's own words, from its own thread


def test_a_client_hello_in_one_segment_with_starttls_begins_tls(controller: Any, certificates: Certificates) -> None:
    async def pipeline(peer: Peer) -> None:
        await peer.shake_hands(b"STARTTLS\r\n", answer=READY)
        await peer.say(b"EHLO a\r\n")
        await peer.hear(b"250 HELP\r\n")

    say(controller, certificates.client_context(), pipeline)
    assert controller.handler.names == [(CLIENT, "a", True)]
