"""A mail server on Twisted speaks first: it waits for the header, and sees the client."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator

import pytest

from ._applications import HEADERS, LOOPBACK, Application, Way, application, running, tls_endpoint
from ._certificates import SERVER_NAME, Certificates
from ._clients import MailClient
from ._programs import PATIENCE, Address, connect

WayTo = Callable[[int], Way]

BANNER = re.compile(rb"220 .* ESMTP\r\n")

# one worker runs all tests of this file, so that the server is started once
pytestmark = pytest.mark.xdist_group("twisted-mail")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Application]:
    """The server, plain and with TLS."""
    directory = tmp_path_factory.mktemp("server")
    shutil.copy(certificates.server, directory / "server.pem")
    command = application("mail", f"proxyprotocol:tcp:{LOOPBACK}", tls_endpoint(certificates.server))
    with running(command, directory, 2) as server:
        yield server


def assert_delivered(server: Application, client: MailClient, sender: Address, text: str) -> None:
    """Send a message; its sender identifies it."""
    with client:
        client.sendmail("bob@example.org", "alice@example.com", f"Subject: {text}\r\n\r\n{text}\r\n")

    assert f"host='{sender.host}', port={sender.port}" in server.logged(" client: ")
    expected = f" message: Received: from client.example.com ([{sender.host}]) | Subject: {text} |  | {text}"
    assert server.logged(" message: ").endswith(expected)


def test_a_message_names_the_client_it_came_from(server: Application, way_to: WayTo) -> None:
    connection, sender = way_to(server.ports[0]).connect()

    assert_delivered(server, MailClient(connection), sender, "plain")


def test_a_message_names_the_client_it_came_from_after_starttls(
    server: Application, way_to: WayTo, certificates: Certificates
) -> None:
    connection, sender = way_to(server.ports[0]).connect()
    client = MailClient(connection)

    client.starttls(context=certificates.client_context())

    assert_delivered(server, client, sender, "STARTTLS")


def test_a_message_names_the_client_it_came_from_in_tls(
    server: Application, way_to: WayTo, certificates: Certificates
) -> None:
    connection, sender = way_to(server.ports[1]).connect()
    encrypted = certificates.client_context().wrap_socket(connection, server_hostname=SERVER_NAME)

    assert_delivered(server, MailClient(encrypted), sender, "TLS")


def test_the_server_says_nothing_before_the_header(server: Application) -> None:
    header, _ = HEADERS["v1"]
    way = Way(Address("127.0.0.1", server.ports[0]), header)
    with connect(way.address) as waiting:
        waiting.sendall(header[:-2])
        served, _ = way.connect()
        with served:
            assert BANNER.match(served.recv(1000))
        # the server knows of this one for longer than of that
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)
        waiting.settimeout(PATIENCE)
        waiting.sendall(header[-2:])
        assert BANNER.match(waiting.recv(1000))
