"""``daphne -e proxyprotocol:...``: an ASGI application's ``scope["client"]`` is the client."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from ._applications import LOOPBACK, Application, Way, ports_told_by_daphne, running, tls_endpoint
from ._certificates import Certificates
from ._clients import assert_http, assert_http2, assert_websocket
from ._programs import Address
from ._proxies import HAProxy

WayTo = Callable[[int], Way]

# one worker runs all tests of this file, so that the server is started once
pytestmark = pytest.mark.xdist_group("twisted-daphne")


@pytest.fixture(scope="module")
def daphne(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Application]:
    """The server, plain and with TLS."""
    endpoints = ["-e", f"proxyprotocol:tcp:{LOOPBACK}", "-e", tls_endpoint(certificates.server)]
    command = [sys.executable, "-m", "daphne", *endpoints, "tests.interop.applications.asgi_app:application"]
    with running(command, tmp_path_factory.mktemp("daphne"), 2, ports_told_by_daphne) as daphne:
        # daphne sorts its endpoints by their descriptions
        yield daphne._replace(ports=daphne.ports[::-1])


def test_it_sees_the_client_of_each_request_on_a_connection(daphne: Application, way_to: WayTo) -> None:
    assert_http(way_to(daphne.ports[0]), answer="{} {} http")


def test_it_sees_the_client_of_each_request_in_tls(
    daphne: Application, way_to: WayTo, certificates: Certificates
) -> None:
    assert_http(way_to(daphne.ports[1]), certificates.client_context(), answer="{} {} https")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_sees_the_client_of_http2(
    daphne: Application, haproxy: HAProxy, certificates: Certificates, host: str
) -> None:
    port = haproxy.start(f"127.0.0.1:{daphne.ports[1]} send-proxy-v2", bind=f"{host}:{{port}}")

    assert_http2(Address(host, port), certificates.client_context(), answer="{} {} https")


def test_it_sees_the_client_of_a_websocket(daphne: Application, way_to: WayTo) -> None:
    assert_websocket(way_to(daphne.ports[0]))


def test_it_sees_the_client_of_a_websocket_in_tls(
    daphne: Application, way_to: WayTo, certificates: Certificates
) -> None:
    assert_websocket(way_to(daphne.ports[1]), certificates.client_context())
