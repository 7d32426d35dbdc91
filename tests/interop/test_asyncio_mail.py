"""aiosmtpd, which speaks first: it does so behind the header, and sees the client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests._loops import CUTS

from ._applications import Application, Listener, Way, application, every_header, running
from ._certificates import SERVER_NAME, Certificates
from ._clients import MailClient, assert_bad_peers_are_dropped, converse
from ._programs import Address
from ._proxies import HAProxy

# a server at a time, for all tests on one worker
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
    """Send a message, that is to be known by its sender."""
    connection, sender = way.connect()
    if listener.context is not None:
        connection = listener.context.wrap_socket(connection, server_hostname=SERVER_NAME)
    with MailClient(connection) as client:
        if starttls is not None:
            client.starttls(context=starttls)
        client.sendmail("bob@example.org", "alice@example.com", text)
    assert listener.application.logged("message: ") == f"message: {sender.host} {sender.port} {text}"


@every_header
def test_a_message_is_the_client_s(listener: Listener, header: Any) -> None:
    assert_delivered(listener, listener.way(header), "straight")


@every_header
@CUTS
def test_a_message_is_the_client_s_however_its_bytes_are_cut(listener: Listener, header: Any, cut: Any) -> None:
    commands = b"EHLO a\r\nMAIL FROM:<b@example.org>\r\nRCPT TO:<a@example.com>\r\nDATA\r\ncut\r\n.\r\nQUIT\r\n"

    converse(listener.way(header), cut, commands, b"221 Bye\r\n", listener.context)

    _, sender = header
    assert listener.application.logged("message: ") == f"message: {sender.host} {sender.port} cut"


@every_header
def test_a_message_is_the_client_s_behind_starttls(
    server: Application, certificates: Certificates, header: Any
) -> None:
    listener = Listener(server, server.ports[0])
    assert_delivered(listener, listener.way(header), "STARTTLS", starttls=certificates.client_context())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_message_is_the_client_s_of_haproxy(listener: Listener, haproxy: HAProxy, host: str) -> None:
    port = haproxy.start(f"127.0.0.1:{listener.port} send-proxy-v2", bind=f"{host}:{{port}}")

    assert_delivered(listener, Way(Address(host, port)), "HAProxy")


def test_bad_peers_trouble_nobody(listener: Listener) -> None:
    assert_bad_peers_are_dropped(listener)

    assert_delivered(listener, listener.way(), "after them")
