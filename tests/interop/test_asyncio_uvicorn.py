"""``uvicorn --loop proxyprotocol.asyncio:new_event_loop app:app``: an ASGI application sees the client."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect as connect_websocket

from tests.on_asyncio.loops import CUTS
from tests.vectors import IPV4_BLOCK, LOCAL, PROXY, tlv, v2

from ._applications import HEADERS, Application, Listener, Way, every_header, ports_told, running
from ._certificates import Certificates
from ._clients import assert_bad_peers_are_dropped, assert_http, assert_websocket, converse
from ._programs import PATIENCE, Address, Program, connect, find_program, wait_for
from ._proxies import HAProxy

LOOPS = {"asyncio": "new_event_loop", "uvloop": "new_uvloop_event_loop"}
REQUEST = b"GET /whoami HTTP/1.0\r\nHost: app.example.com\r\n\r\n"
HEADER, CLIENT = HEADERS["v1"]

# one worker runs all tests of this file, so that each server is started once
pytestmark = pytest.mark.xdist_group("asyncio-uvicorn")


def command(*options: str, loop: str = "asyncio", app: str = "asgi_app", variables: tuple[str, ...] = ()) -> list[str]:
    """uvicorn's command, after its environment variables."""
    uvicorn = [sys.executable, "-m", "uvicorn", "--loop", f"proxyprotocol.asyncio:{LOOPS[loop]}", "--port", "0"]
    names = [f"PROXYPROTOCOL_{variable}" for variable in variables]
    return [find_program("env"), *names, *uvicorn, *options, f"tests.interop.applications.{app}:application"]


def with_tls(certificates: Certificates) -> list[str]:
    """The options for TLS."""
    return ["--ssl-keyfile", str(certificates.server), "--ssl-certfile", str(certificates.server)]


@contextlib.contextmanager
def serving(directory: Path, *options: str, **keywords: Any) -> Iterator[Application]:
    find_ports = ports_told(r"Uvicorn running on https?://127.0.0.1:(\d+) ")
    with running(command(*options, **keywords), directory, find_ports=find_ports) as uvicorn:
        yield uvicorn


def address(uvicorn: Application) -> Address:
    return Listener(uvicorn, uvicorn.ports[0]).address


# every protocol on every loop, each with one of the three for WebSockets
WEBSOCKETS = ("websockets", "websockets-sansio", "wsproto")
KINDS = [
    (*kind, WEBSOCKETS[number % 3])
    for number, kind in enumerate(product(LOOPS, ("h11", "httptools"), ("plain", "tls")))
]


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(kind) for kind in KINDS])
def listener(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Listener]:
    loop, http, security, websocket = request.param
    tls = security == "tls"
    options = ["--http", http, "--ws", websocket, *(with_tls(certificates) if tls else ())]
    with serving(tmp_path_factory.mktemp("uvicorn"), *options, loop=loop) as uvicorn:
        yield Listener(uvicorn, uvicorn.ports[0], certificates.client_context() if tls else None)


@every_header
def test_it_sees_the_client_of_each_request_on_a_connection(listener: Listener, header: Any) -> None:
    assert_http(listener.way(header), listener.context, answer=listener.answer)


@every_header
@CUTS
def test_it_sees_the_client_however_the_first_bytes_are_cut(listener: Listener, header: Any, cut: Any) -> None:
    told = listener.answer.format(*header[1]).encode()

    answer = converse(listener.way(header), cut, REQUEST, told, listener.context)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@every_header
def test_it_sees_the_client_of_a_websocket(listener: Listener, header: Any) -> None:
    assert_websocket(listener.way(header), listener.context)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_sees_the_client_of_haproxy(listener: Listener, haproxy: HAProxy, host: str) -> None:
    port = haproxy.start(f"127.0.0.1:{listener.port} send-proxy-v2", bind=f"{host}:{{port}}")

    assert_http(Way(Address(host, port)), listener.context, answer=listener.answer)
    assert_websocket(Way(Address(host, port)), listener.context)


def test_its_access_log_has_the_client(listener: Listener) -> None:
    request = REQUEST.replace(b"whoami", b"logged")
    converse(listener.way(), lambda data: [data], request, listener.answer.format(*CLIENT).encode(), listener.context)

    line = listener.application.logged("/logged")
    assert f'{CLIENT.host}:{CLIENT.port} - "GET /logged HTTP/1.0" 200' in line


def test_bad_peers_disturb_no_other_connection(listener: Listener) -> None:
    assert_bad_peers_are_dropped(listener)

    assert_http(listener.way(), listener.context, answer=listener.answer)


@pytest.mark.parametrize("loop", LOOPS)
def test_its_workers_see_the_client(tmp_path: Path, haproxy: HAProxy, loop: str) -> None:
    with serving(tmp_path, "--workers", "2", loop=loop) as uvicorn:
        port = haproxy.start(f"127.0.0.1:{uvicorn.ports[0]} send-proxy-v2")
        wait_for(lambda: uvicorn.program.errors().count("Application startup complete.") == 2)
        for _ in range(10):
            assert_http(Way(Address("127.0.0.1", port)), answer="{} {} http")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("security", ["plain", "tls"])
def test_uvicorn_on_a_unix_socket_sees_the_client(
    tmp_path: Path, short_path: Path, haproxy: HAProxy, certificates: Certificates, loop: str, security: str
) -> None:
    path = str(short_path / "app.sock")
    options, context, scheme = ["--uds", path], None, "http"
    if security == "tls":
        options += with_tls(certificates)
        context, scheme = certificates.client_context(), "https"
    with running(command(*options, loop=loop), tmp_path, find_ports=lambda program, _: wait_for_socket(program, path)):
        port = haproxy.start(f"unix@{path} send-proxy-v2")
        assert_http(Way(Address("127.0.0.1", port)), context, answer=f"{{}} {{}} {scheme}")
        assert_websocket(Way(Address("127.0.0.1", port)), context)


def wait_for_socket(program: Program, path: str) -> list[int]:
    wait_for(lambda: f"running on unix socket {path}" in program.errors())
    return []


def test_after_a_reload_it_sees_the_client(tmp_path: Path) -> None:
    source = tmp_path / "reloaded.py"
    text = "from tests.interop.applications.asgi_app import application\n"
    source.write_text(text)
    options = ["--reload", "--reload-dir", str(tmp_path), "--app-dir", str(tmp_path)]
    reloading = [*command(*options)[:-1], "reloaded:application"]
    with running(reloading, tmp_path, find_ports=ports_told(r"running on http://127.0.0.1:(\d+) ")) as uvicorn:
        way = Way(address(uvicorn), *HEADERS["v1"])
        wait_for(lambda: "Application startup complete." in uvicorn.program.errors())
        assert_http(way, answer="{} {} http")

        def change() -> bool:
            # again and again: uvicorn does not see a change that comes before it watches
            source.write_text(f"{text}# {time.monotonic()}\n")
            return "Reloading..." in uvicorn.program.errors()

        wait_for(change)
        wait_for(lambda: uvicorn.program.errors().count("Application startup complete.") > 1)
        assert_http(way, answer="{} {} http")


def test_only_a_trusted_proxy_may_name_a_client(tmp_path: Path) -> None:
    with serving(tmp_path, variables=("TRUSTED=192.0.2.0/24",)) as uvicorn:
        with connect(address(uvicorn)) as peer, contextlib.suppress(ConnectionError):
            peer.sendall(HEADER + REQUEST)
            assert peer.recv(1) == b""
        wait_for(lambda: "The peer is not one of the trusted proxies" in uvicorn.program.errors())


def test_an_untrusted_peer_may_be_served_with_its_own_address(tmp_path: Path) -> None:
    with serving(tmp_path, variables=("TRUSTED=192.0.2.0/24", "UNTRUSTED=direct")) as uvicorn:
        assert_http(Way(address(uvicorn)), answer="{} {} http")


def test_a_listener_on_another_port_reads_no_header(tmp_path: Path) -> None:
    with serving(tmp_path, variables=("PORTS=1",)) as uvicorn:
        assert_http(Way(address(uvicorn)), answer="{} {} http")


@pytest.mark.parametrize("loop", LOOPS)
def test_its_connections_are_counted(tmp_path: Path, loop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(tmp_path, loop=loop, variables=(f"METRICS={port}", "TRUSTED=any")) as uvicorn:
        listener = f'listener="127.0.0.1:{uvicorn.ports[0]}"'

        def count(name: str, label: str = "") -> float:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
                told = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines())
            return float(told[f"proxyprotocol_{name}{{{listener}{label}}}"])

        for header in HEADERS.values():
            assert_http(Way(address(uvicorn), *header), answer="{} {} http")
        with connect(address(uvicorn)) as peer, contextlib.suppress(ConnectionError):
            peer.sendall(REQUEST)
            assert peer.recv(1) == b""
        assert count("refusals_total", ',reason="no_header"') == 1
        assert count("pending_headers") == 0
        headers = [count("headers_received_total", f',version="{version}"') for version in ("v1", "v2")]
        assert min(headers) > 0
        assert count("connections_total") == sum(headers) + 1


def test_a_local_header_shows_the_real_peer(tmp_path: Path) -> None:
    with serving(tmp_path) as uvicorn:
        assert_http(Way(address(uvicorn), v2(LOCAL, 0)), answer="{} {} http")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_wrong_value_stops_the_start_with_a_sentence(
    tmp_path: Path, project_root: Path, loop: str, options: tuple[str, ...]
) -> None:
    ended = subprocess.run(
        command(*options, loop=loop, variables=("TRUSTED=10.0.0.1/8",)),
        cwd=project_root,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if options:  # with these options the parent reports the failure only in its log
        assert "failed to start, stopping the parent process" in ended.stderr
    else:
        assert ended.returncode == 3
        assert ended.stderr.count("\n") == 1  # Python says nothing of a coroutine that was never awaited
    assert (
        "PROXYPROTOCOL_TRUSTED takes networks, addresses and unix, with commas between them, @FILE, or any: "
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


AUTHORITY = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x02, b"app.example.com"))


TELLING = [("asyncio", "h11"), ("uvloop", "httptools"), ("uvloop", "auto")]


@pytest.fixture(scope="module", params=TELLING, ids="-".join)
def telling(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """A server whose application answers with what the header said."""
    loop, http = request.param
    options = ["--http", f"proxyprotocol.integrations.uvicorn:{http}", "--ws", WEBSOCKETS[len(http) % 3]]
    with serving(tmp_path_factory.mktemp("telling"), *options, loop=loop, app="asgi_told") as uvicorn:
        yield uvicorn


def test_an_application_gets_the_header_of_its_own_connection(telling: Application) -> None:
    other = AUTHORITY.replace(b"app.", b"www.")
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connect(address(telling))) for _ in range(3)]
        for peer, header in zip(peers, (AUTHORITY, other, HEADER), strict=True):
            peer.sendall(header)
        # two requests on each of three open connections
        for _ in range(2):
            for peer, name in zip(peers, (b"app.example.com", b"www.example.com", b"None"), strict=True):
                peer.sendall(b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n")
                received = b""
                while not received.endswith(b"\r\ntold " + name):
                    more = peer.recv(1000)
                    assert more, received
                    received += more


def test_a_websocket_application_gets_the_header_too(telling: Application) -> None:
    connection = connect(address(telling))
    connection.sendall(AUTHORITY)
    with connect_websocket("ws://app.example.com/", sock=connection, proxy=None) as websocket:
        for _ in range(2):
            websocket.send("?")
            assert websocket.recv(PATIENCE) == "told app.example.com"


def test_without_a_header_the_scope_has_no_extension(tmp_path: Path) -> None:
    options = ["--http", "proxyprotocol.integrations.uvicorn:auto"]
    with serving(tmp_path, *options, app="asgi_told", variables=("POLICY=optional",)) as uvicorn:
        converse(Way(address(uvicorn)), lambda data: [data], REQUEST, b"\r\nnot told")
