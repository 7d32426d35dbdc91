"""What the tests of this folder start: a server of ours, and a real proxy in front of it."""

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

#: Every kind of server that stands behind a proxy here.
SERVERS = {
    "endpoint": "tcp:0:interface=127.0.0.1",
    "string": "proxyprotocol:tcp:0:interface=127.0.0.1",
    "quickstart": "",
}


@pytest.fixture
def serve(tmp_path: Path, short_path: Path) -> Iterator[Callable[[str], Server]]:
    """Start a server: the quickstart for an empty string, Twisted's for an endpoint description.

    At the end of the test each must still run, and must have logged no traceback. That is before ``short_path`` goes: a
    server removes its UNIX socket.
    """
    with contextlib.ExitStack() as stack:

        def start(description: str) -> Server:
            program = Program(TwistedServer.command(description) if description else Quickstart.command(), tmp_path)
            stack.callback(_end, program)
            return TwistedServer(program) if description else Quickstart(program)

        yield start


def _end(program: Program) -> None:
    survived = program.running()
    output = program.stop()
    assert survived, output
    assert "Traceback" not in output, output


@pytest.fixture(params=list(SERVERS))
def server(request: pytest.FixtureRequest, serve: Callable[[str], Server]) -> Server:
    """Each kind of server in turn."""
    return serve(SERVERS[request.param])


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[HAProxy]:
    """A HAProxy that is yet to be started."""
    with contextlib.ExitStack() as stack:
        yield HAProxy(stack, tmp_path)


#: Where HAProxy listens, in the ways through it.
FRONTENDS = {"HAProxy": "127.0.0.1", "HAProxy-IPv6": "::1"}


@pytest.fixture(params=[*HEADERS, *FRONTENDS])
def way_to(request: pytest.FixtureRequest) -> Callable[[int], Way]:
    """Each way to the application at a port of this machine, in turn."""
    if request.param in HEADERS:
        return lambda port: Way(Address("127.0.0.1", port), *HEADERS[request.param])
    host, haproxy = FRONTENDS[request.param], request.getfixturevalue("haproxy")
    return lambda port: Way(Address(host, haproxy.start(f"127.0.0.1:{port} send-proxy-v2", bind=f"{host}:{{port}}")))


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """An nginx that is yet to be started."""
    with contextlib.ExitStack() as stack:
        yield Nginx(stack, tmp_path)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for UNIX sockets, whose paths must be shorter than that of ``tmp_path`` may be."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificates, made once."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))
