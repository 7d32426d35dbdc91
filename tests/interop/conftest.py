"""Starts the servers of these tests, and a real proxy in front of each."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.on_asyncio.conftest import log, run, security  # noqa: F401  # fixtures of the in-process tests here

from ._applications import HEADERS, Way
from ._certificates import Certificates, make_certificates
from ._programs import Address, Program
from ._proxies import HAProxy, Nginx
from ._servers import Quickstart, Server, TwistedServer

#: The kinds of servers that the proxies connect to.
SERVERS = {
    "endpoint": "tcp:0:interface=127.0.0.1",
    "string": "proxyprotocol:tcp:0:interface=127.0.0.1",
    "quickstart": "",
}


@pytest.fixture(scope="session")
def idle_servers() -> Iterator[dict[str, list[Server]]]:
    """The servers that wait for the next test, by their descriptions: starting one takes longer than most tests."""
    idle: dict[str, list[Server]] = {}
    yield idle
    for servers in idle.values():
        for server in servers:
            _end(server, None)


@pytest.fixture
def serve(
    idle_servers: dict[str, list[Server]], tmp_path_factory: pytest.TempPathFactory, short_path: Path
) -> Iterator[Callable[[str], Server]]:
    """Start a server, or reuse one: the quickstart for an empty string, Twisted's for an endpoint description.

    At the end of the test each must still run, and must have logged no traceback. This fixture needs ``short_path`` so
    that it ends first: a server removes its UNIX socket.
    """
    with contextlib.ExitStack() as stack:

        def start(description: str) -> Server:
            idle = idle_servers.setdefault(description, [])
            if idle:
                server = idle.pop()
                server.catch_up()
            else:
                kind = TwistedServer if description else Quickstart
                server = kind(Program(kind.command(description), tmp_path_factory.mktemp("server")))
            # A server with other options may not see the connection of catch_up().
            shared = idle if description in SERVERS.values() else None
            stack.callback(_end, server, shared)
            return server

        yield start


def _end(server: Server, idle: list[Server] | None) -> None:
    survived = server.program.running()
    if idle is not None and survived and "Traceback" not in server.program.errors():
        idle.append(server)
        return
    output = server.program.stop()
    assert survived, output
    assert "Traceback" not in output, output


@pytest.fixture(params=list(SERVERS))
def server(request: pytest.FixtureRequest, serve: Callable[[str], Server]) -> Server:
    """A server of each kind in turn."""
    return serve(SERVERS[request.param])


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[HAProxy]:
    """HAProxy; the test starts it."""
    with contextlib.ExitStack() as stack:
        yield HAProxy(stack, tmp_path)


#: The addresses that HAProxy listens on, for the ways through it.
FRONTENDS = {"HAProxy": "127.0.0.1", "HAProxy-IPv6": "::1"}


@pytest.fixture(params=[*HEADERS, *FRONTENDS])
def way_to(request: pytest.FixtureRequest) -> Callable[[int], Way]:
    """Return each way in turn to the application that listens on a port."""
    if request.param in HEADERS:
        return lambda port: Way(Address("127.0.0.1", port), *HEADERS[request.param])
    host, haproxy = FRONTENDS[request.param], request.getfixturevalue("haproxy")
    return lambda port: Way(Address(host, haproxy.start(f"127.0.0.1:{port} send-proxy-v2", bind=f"{host}:{{port}}")))


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """nginx; the test starts it."""
    with contextlib.ExitStack() as stack:
        yield Nginx(stack, tmp_path)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for UNIX sockets: ``tmp_path`` may be too long for their paths."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificates, made once."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))
