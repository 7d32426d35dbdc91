"""Web servers on asyncio, as their users start them: hypercorn, aiohttp, tornado and sanic see the client."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from tests.on_asyncio.loops import CUTS
from tests.vectors import IPV4_BLOCK, LOCAL, PROXY, tlv, v2

from ._applications import (
    Application,
    Listener,
    Way,
    application,
    every_header,
    ports_in_the_log,
    ports_told,
    running,
)
from ._certificates import SERVER_NAME, Certificates
from ._clients import assert_bad_peers_are_dropped, assert_http, assert_http2, assert_websocket, converse
from ._programs import Address, Program
from ._proxies import HAProxy

# one worker runs all tests of this file, so that each server is started once
pytestmark = pytest.mark.xdist_group("asyncio-web")

REQUEST = b"GET /whoami HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
AUTHORITY = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x02, b"www.example.com"))
FILE = b"".join(number.to_bytes(4, "big") for number in range(750_000))  # 3 MB


def hypercorn_ports(program: Program, listeners: int) -> list[int]:
    """Return the ports of hypercorn, which logs those with TLS first."""
    return ports_told(r"Running on https?://127.0.0.1:(\d+) ")(program, listeners)[::-1]


FIND_PORTS = {
    "hypercorn_asgi": hypercorn_ports,
    "aiohttp_site": ports_in_the_log,
    "tornado_site": ports_in_the_log,
    "sanic_site": ports_in_the_log,
}


@pytest.fixture(scope="module", params=product(FIND_PORTS, ("asyncio", "uvloop")), ids="-".join)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Application]:
    """Each server on each loop, plain and with TLS."""
    name, loop = request.param
    directory = tmp_path_factory.mktemp(name)
    (directory / "file").write_bytes(FILE)
    command = application(name, loop, str(certificates.server))
    with running(command, directory, 2, FIND_PORTS[name]) as server:
        yield server


def only(*names: str) -> pytest.MarkDecorator:
    """Run a test only for these servers."""
    kinds = list(product(names, ("asyncio", "uvloop")))
    return pytest.mark.parametrize("server", kinds, ids=["-".join(kind) for kind in kinds], indirect=True)


@pytest.fixture(params=[0, 1], ids=["plain", "tls"])
def listener(request: pytest.FixtureRequest, server: Application, certificates: Certificates) -> Listener:
    """Both of its listeners in turn."""
    return Listener(server, server.ports[request.param], certificates.client_context() if request.param else None)


@every_header
def test_it_sees_the_client_of_each_request_on_a_connection(listener: Listener, header: Any) -> None:
    assert_http(listener.way(header), listener.context, answer=listener.answer)


@every_header
@CUTS
def test_it_sees_the_client_however_the_first_bytes_are_cut(listener: Listener, header: Any, cut: Any) -> None:
    told = listener.answer.format(*header[1]).encode()

    answer = converse(listener.way(header), cut, REQUEST, told, listener.context)

    assert answer.startswith(b"HTTP/1.1 200 ")


@every_header
def test_it_sees_the_client_of_a_websocket(listener: Listener, header: Any) -> None:
    assert_websocket(listener.way(header), listener.context)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_sees_the_client_of_haproxy(
    server: Application, haproxy: HAProxy, certificates: Certificates, host: str
) -> None:
    way = Way(Address(host, haproxy.start(f"127.0.0.1:{server.ports[1]} send-proxy-v2", bind=f"{host}:{{port}}")))

    assert_http(way, certificates.client_context(), answer="{} {} https")
    assert_websocket(way, certificates.client_context())


def test_a_local_header_shows_the_real_peer(listener: Listener) -> None:
    assert_http(Way(listener.address, v2(LOCAL, 0)), listener.context, answer=listener.answer)


def test_bad_peers_disturb_no_other_connection(listener: Listener) -> None:
    assert_bad_peers_are_dropped(listener)

    assert_http(listener.way(), listener.context, answer=listener.answer)


@only("hypercorn_asgi")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_sees_the_client_of_http2(
    server: Application, haproxy: HAProxy, certificates: Certificates, host: str
) -> None:
    port = haproxy.start(f"127.0.0.1:{server.ports[1]} send-proxy-v2", bind=f"{host}:{{port}}")

    assert_http2(Address(host, port), certificates.client_context(), answer="{} {} https")


@only("aiohttp_site", "tornado_site", "sanic_site")
def test_a_handler_finds_the_tlvs(listener: Listener) -> None:
    request = b"GET /authority HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
    converse(
        Way(listener.address, AUTHORITY), lambda data: [data], request, b"\r\n\r\nwww.example.com", listener.context
    )


@only("aiohttp_site")
def test_a_file_arrives_whole(listener: Listener) -> None:
    connection, _ = listener.way().connect()
    if listener.context is not None:
        connection = listener.context.wrap_socket(connection, server_hostname=SERVER_NAME)
    with connection, connection.makefile("rb") as answer:
        connection.sendall(b"GET /files/file HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n")
        received = answer.read()
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == FILE
