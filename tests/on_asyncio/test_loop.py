"""Event loops whose listeners read headers; environment variables configure them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxyprotocol import HeaderPolicy
from proxyprotocol.asyncio import ProxyProtocolServer, create_server, new_event_loop, new_uvloop_event_loop
from proxyprotocol.result import describe_address
from tests.interop._certificates import Certificates
from tests.on_asyncio.loops import (
    CLIENT,
    HEADER,
    PATIENCE,
    App,
    Apps,
    Log,
    Run,
    Security,
    StreamApps,
    connected,
    place,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("log")

LOOPS = {"asyncio": new_event_loop, "uvloop": new_uvloop_event_loop}
every_loop = pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)


@pytest.fixture(params=LOOPS.values(), ids=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's story, once on each of our loops."""
    return Run(request.param)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the variables, by their names without the prefix."""

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"PROXYPROTOCOL_{name}", value)

    return set_variables


@contextlib.asynccontextmanager
async def asked(apps: Apps, server: Any, *, header: bytes = HEADER, **keywords: Any) -> Any:
    """Ask the application of a server a question, and yield the client's end."""
    async with server, connected(server, **keywords) as peer:
        await peer.begin(header, b"question\n")
        await peer.hear(b"\n")
        yield peer
        for app in apps.made:
            app.transport.abort()


def test_a_listener_of_the_loop_reads_headers(run: Run, security: Security) -> None:
    apps = Apps()

    async def story() -> None:
        server = await asyncio.get_running_loop().create_server(apps, "127.0.0.1", 0, **security.server)
        assert isinstance(server, ProxyProtocolServer)
        async with asked(apps, server, **security.client) as peer:
            assert peer.received == b"answer to question\n"
            assert apps.app.facts.peername == CLIENT

    run(story)


def test_the_environment_sets_the_time_of_a_handshake(
    run: Run, certificates: Certificates, environment: Callable[..., None], log: Log
) -> None:
    environment(TLS_TIMEOUT="0.05")

    async def story() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Apps(), "127.0.0.1", 0, **Security(certificates).server)
        async with server, connected(server) as peer:
            await peer.send(HEADER)
            assert await peer.hear_all() == b""
        ((_, line),) = log.lines
        assert line.endswith("the TLS handshake failed: it was not done within 0.05 seconds")

    run(story)


def test_servers_of_streams_and_on_given_sockets_read_headers(run: Run) -> None:
    apps = StreamApps()

    async def story() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        async with await asyncio.start_server(apps.connected, sock=sock), connected(sock.getsockname()) as peer:
            await peer.send(HEADER + b"question\n")
            assert await peer.hear(b"\n") == b"answer to question\n"
            assert apps.app.facts.peername == CLIENT
            peer.sock.close()
            await until(lambda: apps.app.ended)

    run(story)


def test_unix_listeners_read_headers(run: Run, security: Security, tmp_path: Path) -> None:
    apps, path = Apps(), str(tmp_path / "app.sock")

    async def story() -> None:
        server = await asyncio.get_running_loop().create_unix_server(apps, path, **security.server)
        async with server, connected(path, **security.client) as peer:
            await peer.begin(HEADER, b"question\n")
            await peer.hear(b"\n")
            assert apps.app.facts.peername == CLIENT
            apps.app.transport.abort()

    run(story)


def test_clients_of_the_loop_send_and_read_no_header(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with await create_server(apps, "127.0.0.1", 0, policy=HeaderPolicy.SKIP) as server:
            client = App(begin=lambda app: app.transport.write(b"question\n"), read=lambda app: None)
            transport, _ = await loop.create_connection(lambda: client, *server.sockets[0].getsockname())
            await until(lambda: client.received == b"answer to question\n")
            transport.abort()
            apps.app.transport.abort()

    run(story)


def test_arguments_of_our_functions_override_the_environment(run: Run, environment: Any) -> None:
    environment(TRUSTED="192.0.2.1")
    apps = Apps()

    async def story() -> None:
        async with asked(apps, await create_server(apps, "127.0.0.1", 0)):
            assert apps.app.facts.peername == CLIENT

    run(story)


def test_the_environment_configures_the_receiver(run: Run, environment: Any, log: Log) -> None:
    environment(VERSION="v2", TRUSTED="10.0.0.0/8,127.0.0.1", TIMEOUT="2.5", MAX_HEADER="1000", POLICY="Require")

    async def story() -> None:
        server = await asyncio.get_running_loop().create_server(Apps(), "127.0.0.1", 0)
        async with server, connected(server) as peer:
            await peer.send(HEADER)
            assert await peer.hear_all() == b""
            who = f"{describe_address(peer.sock.getsockname())} on {(where := place(server))}"
        assert log.starts == [("INFO", f"Reads version 2 headers on {where} from 10.0.0.0/8, 127.0.0.1")]
        assert log.lines == [
            (
                "WARNING",
                f"Refused a connection from {who}: A version 1 header came, but only version 2 is accepted here (at "
                "byte 0); see PROXYPROTOCOL_VERSION",
            )
        ]

    run(story)


def test_ipv4_in_tcp6_lines_are_read_on_request(run: Run, environment: Any) -> None:
    environment(IPV4_IN_TCP6="yes")
    apps = Apps()

    async def story() -> None:
        server = await asyncio.get_running_loop().create_server(apps, "127.0.0.1", 0)
        async with asked(apps, server, header=b"PROXY TCP6 2001:db8::1 127.0.0.1 1234 17013\r\n"):
            assert apps.app.facts.peername == ("2001:db8::1", 1234, 0, 0)
            assert apps.app.facts.sockname == ("::ffff:127.0.0.1", 17013, 0, 0)

    run(story)


def test_untrusted_peers_may_be_served_directly(run: Run, environment: Any) -> None:
    environment(TRUSTED="192.0.2.1", UNTRUSTED="direct")
    apps = Apps()

    async def story() -> None:
        server = await asyncio.get_running_loop().create_server(apps, "127.0.0.1", 0)
        async with asked(apps, server, header=b"") as peer:
            assert apps.app.facts.peername == peer.sock.getsockname()

    run(story)


def test_listeners_on_other_ports_are_left_alone(run: Run, environment: Any) -> None:
    first, second = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    environment(PORTS=f" {first.getsockname()[1]} , 1")
    wrapped, plain = Apps(), Apps()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with asked(wrapped, await loop.create_server(wrapped, sock=first)):
            assert wrapped.app.facts.peername == CLIENT
        async with asked(plain, await loop.create_server(plain, sock=second), header=b"") as peer:
            assert plain.app.facts.peername == peer.sock.getsockname()
            assert plain.app.facts.proxy_protocol is None

    run(story)


def test_a_listener_s_port_comes_from_its_address_not_from_its_family(run: Run, environment: Any) -> None:
    """uvicorn makes an AF_UNIX socket of every ``--fd``."""
    listener = socket.create_server(("127.0.0.1", 0))
    environment(PORTS=str(listener.getsockname()[1]))

    async def story() -> None:
        misnamed = socket.fromfd(listener.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
        listener.close()
        server = await asyncio.get_running_loop().create_server(Apps(), sock=misnamed)
        assert isinstance(server, ProxyProtocolServer)
        server.close()

    run(story)


@pytest.mark.parametrize("as_text", [False, True])
def test_a_port_by_its_number(run: Run, environment: Any, as_text: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment(PORTS=str(port))
    apps = Apps()

    async def story() -> None:
        given: Any = str(port) if as_text else port
        loop = asyncio.get_running_loop()
        server = await loop.create_server(apps, "127.0.0.1", given)
        async with asked(apps, server):
            assert apps.app.facts.peername == CLIENT

    run(story)


@pytest.mark.parametrize(("ports", "covered"), [("unix", True), ("8000,unix", True), ("8000", False)])
@pytest.mark.parametrize("as_socket", [False, True])
def test_unix_listeners_are_named_unix(
    run: Run, environment: Any, tmp_path: Path, ports: str, covered: bool, as_socket: bool
) -> None:
    environment(PORTS=ports)
    path = str(tmp_path / "app.sock")

    async def story() -> None:
        loop = asyncio.get_running_loop()
        if as_socket:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            server = await loop.create_unix_server(App, sock=sock)
        else:
            server = await loop.create_unix_server(App, path)
        assert isinstance(server, ProxyProtocolServer) == covered
        server.close()

    run(story)


WRONG = {
    "VERSION": ("v3", "PROXYPROTOCOL_VERSION takes detect, v1 or v2, not 'v3'"),
    "TRUSTED": (
        "10.0.0.1/8",
        "PROXYPROTOCOL_TRUSTED takes networks, addresses and unix, with commas between them, @FILE, or any: A trusted "
        "proxy is an address, a network without host bits, or 'unix', not '10.0.0.1/8' (it has host bits set; did you "
        "mean 10.0.0.0/8?)",
    ),
    "UNTRUSTED": ("direct", "PROXYPROTOCOL_UNTRUSTED needs PROXYPROTOCOL_TRUSTED, which names the proxies to trust"),
    "POLICY": ("skip", "PROXYPROTOCOL_POLICY takes require, optional or ignore, not 'skip'"),
    "TIMEOUT": ("soon", "PROXYPROTOCOL_TIMEOUT takes a number of seconds above 0, not 'soon'"),
    "MAX_HEADER": ("15", "PROXYPROTOCOL_MAX_HEADER takes a number of bytes, at least 16, not '15'"),
    "IPV4_IN_TCP6": ("1", "PROXYPROTOCOL_IPV4_IN_TCP6 takes yes or no, not '1'"),
    "PORTS": (
        "8000;8443",
        "PROXYPROTOCOL_PORTS takes port numbers and unix, with commas between them, not '8000;8443'",
    ),
    "TRUST": ("10.0.0.0/8", "unknown environment variable PROXYPROTOCOL_TRUST; did you mean PROXYPROTOCOL_TRUSTED?"),
    "METRICS": ("::1:9100", "PROXYPROTOCOL_METRICS takes PORT, HOST:PORT or [IPV6]:PORT, not '::1:9100'"),
}


@every_loop
@pytest.mark.parametrize(("name", "value", "sentence"), [(name, *rest) for name, rest in WRONG.items()], ids=WRONG)
def test_a_wrong_value_stops_the_start_with_a_sentence(
    environment: Any, new_loop: Any, name: str, value: str, sentence: str
) -> None:
    environment(**{name: value})
    with pytest.raises(SystemExit) as stop:
        new_loop()
    assert str(stop.value) == sentence


@pytest.mark.parametrize("value", ["", "0", "65536", "08", "1,", "http"])
def test_wrong_port_numbers_are_refused(environment: Any, value: str) -> None:
    environment(PORTS=value)
    with pytest.raises(SystemExit, match="takes port numbers"):
        new_event_loop()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "PROXYPROTOCOL_TIMEOUT",
            "soon",
            "PROXYPROTOCOL_TIMEOUT takes a number of seconds above 0, not 'soon'",
        ),
        (
            "PROXY_PROTOCOL_TRUSTED",
            "10.0.0.0/8",
            "unknown environment variable PROXY_PROTOCOL_TRUSTED; did you mean PROXYPROTOCOL_TRUSTED?",
        ),
        (
            "PROXYPROTOCOL_METRIC",
            "9100",
            "unknown environment variable PROXYPROTOCOL_METRIC; did you mean PROXYPROTOCOL_METRICS?",
        ),
    ],
)
def test_a_program_ends_with_the_sentence_alone(
    monkeypatch: pytest.MonkeyPatch, project_root: Path, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    program = "import asyncio, proxyprotocol.asyncio as p; p.new_event_loop()"
    ended = subprocess.run([sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True)
    # uvicorn and gunicorn do not start a worker again after status 3
    assert (ended.returncode, ended.stderr) == (3, f"{sentence}\n")


def test_the_loops_derive_from_asyncio_s_and_uvloop_s() -> None:
    for new_loop, kind in ((new_event_loop, asyncio.SelectorEventLoop), (new_uvloop_event_loop, uvloop.Loop)):
        loop = new_loop()
        try:
            assert isinstance(loop, kind)
        finally:
            loop.close()


def test_without_uvloop_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(SystemExit, match=r"uvloop cannot be imported .* proxyprotocol\[uvloop\]"):
        new_uvloop_event_loop()


def test_closing_a_listener_of_the_loop_drops_the_connections_in_their_header(run: Run) -> None:
    """uvicorn closes its servers like this, and waits for them."""

    async def story() -> None:
        server = await asyncio.get_running_loop().create_server(Apps(), "127.0.0.1", 0)
        async with connected(server) as peer:
            await turns()
            server.close()
            await asyncio.wait_for(server.wait_closed(), 2)
            assert await asyncio.wait_for(peer.hear_all(), PATIENCE) == b""

    run(story)
