"""Web servers on Twisted, as their users start them: ``twistd web`` and klein see the client."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.on_twisted.reactors import REACTORS

from ._applications import HEADERS, LOOPBACK, Application, Way, application, running, tls_endpoint, twistd
from ._certificates import Certificates
from ._clients import assert_http, assert_http2
from ._programs import Address
from ._proxies import HAProxy

WayTo = Callable[[int], Way]

REQUEST = b"GET /whoami HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
LAST_REQUEST = b"GET /whoami HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n"

# one worker runs all tests of this file, so that each server is started once
pytestmark = pytest.mark.xdist_group("twisted-web")


def site_command(certificates: Certificates, *options: str) -> list[str]:
    """``twistd web``, plain and with TLS."""
    endpoints = [f"proxyprotocol:tcp:{LOOPBACK}", tls_endpoint(certificates.server)]
    listen = [word for endpoint in endpoints for word in ("--listen", endpoint)]
    return twistd(*options, "web", "--class", "tests.interop.applications.web.WhoAmI", *listen)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Application]:
    with running(site_command(certificates), tmp_path_factory.mktemp("site"), 2) as site:
        yield site


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    command = application("klein_app", f"proxyprotocol:tcp:{LOOPBACK}")
    with running(command, tmp_path_factory.mktemp("klein")) as klein:
        yield klein


def logged_client(site: Application, request: str) -> str:
    """Who the access log's next line for this request says it came from."""
    access = re.search(r'"([^"]*)" - - \[', site.logged(f'] "{request}" 200 '))
    assert access is not None
    return access[1]


def test_a_site_sees_the_client_of_each_request_on_a_connection(site: Application, way_to: WayTo) -> None:
    assert_http(way_to(site.ports[0]))


def test_a_site_sees_the_client_of_each_request_in_tls(
    site: Application, way_to: WayTo, certificates: Certificates
) -> None:
    assert_http(way_to(site.ports[1]), certificates.client_context())


def test_a_site_sees_the_client_of_requests_that_come_with_the_header(site: Application, way_to: WayTo) -> None:
    answer, client = way_to(site.ports[0]).ask(REQUEST * 9 + LAST_REQUEST)

    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 10
    assert answer.count(f"\r\n\r\n{client.host} {client.port}".encode()) == 10


def test_a_sites_access_log_has_the_client(site: Application, way_to: WayTo) -> None:
    _, client = way_to(site.ports[0]).ask(LAST_REQUEST.replace(b"whoami", b"logged"))

    assert logged_client(site, "GET /logged HTTP/1.1") == client.host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_site_and_its_access_log_see_the_client_of_http2(
    site: Application, haproxy: HAProxy, certificates: Certificates, host: str
) -> None:
    port = haproxy.start(f"127.0.0.1:{site.ports[1]} send-proxy-v2", bind=f"{host}:{{port}}")

    assert_http2(Address(host, port), certificates.client_context())

    assert {logged_client(site, "GET /whoami HTTP/2") for _ in range(3)} == {host}


def test_klein_sees_the_client(klein: Application, way_to: WayTo) -> None:
    assert_http(way_to(klein.ports[0]))


@pytest.mark.parametrize("reactor", list(REACTORS))
def test_on_every_reactor_a_site_sees_the_client(
    tmp_path: Path, haproxy: HAProxy, certificates: Certificates, reactor: str
) -> None:
    with running(site_command(certificates, "--reactor", reactor), tmp_path, 2) as site:
        balancer = haproxy.start(f"127.0.0.1:{site.ports[1]} send-proxy-v2")

        assert_http(Way(Address("127.0.0.1", site.ports[0]), *HEADERS["v1"]))
        assert_http(Way(Address("127.0.0.1", balancer)), certificates.client_context())
        assert_http2(Address("127.0.0.1", balancer), certificates.client_context())
