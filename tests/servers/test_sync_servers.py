"""Servers of threads and greenlets, by their own API as in ``examples/servers``, and under ``proxyprotocol run``."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.interop._certificates import Certificates
from tests.interop._programs import PATIENCE, wait_for

from .checks import CLIENT, PROXY, ROOT, V2, Server, check_silent, every_check, start

pytestmark = pytest.mark.xdist_group("sync-servers-of-others")

EXAMPLES = ROOT / "examples" / "servers"


class Case(NamedTuple):
    """How a server is started, and what it does differently from most."""

    command: list[str]
    run: bool = True
    several: bool = True  # serves several connections at a time
    ports: bool = True
    keep_alive: bool = True
    extension: bool = True

    @contextlib.contextmanager
    def start(self, directory: Path, certificates: Certificates, *options: str) -> Iterator[Server]:
        for path in EXAMPLES.glob("*.py"):
            shutil.copy(path, directory)
        (directory / "app.py").write_text("from whoami import wsgi as app\n")
        with start(
            [word.replace("{cert}", str(certificates.server)) for word in self.command],
            directory,
            context=certificates.client_context() if "{cert}" in self.command else None,
            run=options if self.run else None,
            ports=self.ports,
            keep_alive=self.keep_alive,
            extension=self.extension,
        ) as server:
            yield server


def example(name: str, *arguments: str) -> list[str]:
    return [sys.executable, f"{name}_server.py", "{port}", *arguments]


def program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.servers.sync_programs", name, "{port}", *arguments]


WSGI = "tests.servers.whoami:wsgi"
FLASK = ["flask", "--app", "tests.servers.sync_programs:flask_app()", "run", "--port", "{port}"]
OWN = {
    "cheroot": Case(example("cheroot"), run=False),
    "cheroot-tls": Case(example("cheroot", "{cert}", "{cert}"), run=False),
    "eventlet": Case(example("eventlet"), run=False),
    "eventlet-tls": Case(example("eventlet", "{cert}"), run=False),
    "gevent": Case(example("gevent"), run=False),
    "gevent-tls": Case(example("gevent", "{cert}"), run=False),
    "waitress": Case(example("waitress"), run=False),
    "werkzeug": Case(example("werkzeug"), run=False, keep_alive=False),
    "wsgiref": Case(example("wsgiref"), run=False, several=False, ports=False, keep_alive=False),
}
RUN = {
    "run-cheroot": Case([sys.executable, "-m", "cheroot", "--bind", "127.0.0.1:{port}", WSGI]),
    "run-cherrypy": Case(program("cherrypy")),
    "run-django": Case(program("django"), ports=False),
    "run-eventlet": Case(program("eventlet")),
    "run-flask": Case(FLASK, keep_alive=False),
    "run-flask-reload": Case([*FLASK, "--reload"], keep_alive=False),
    "run-gevent": Case(program("gevent")),
    "run-http.server": Case(program("http_server"), extension=False),
    "run-waitress": Case(["waitress-serve", "--listen", "127.0.0.1:{port}", WSGI]),
    "run-werkzeug-processes": Case(program("werkzeug_processes"), keep_alive=False),
}
RUN_TLS = {
    "run-cherrypy-tls": Case(program("cherrypy", "{cert}")),
    "run-eventlet-tls": Case(program("eventlet", "{cert}")),
    "run-flask-tls": Case([*FLASK, "--cert", "{cert}", "--key", "{cert}"], keep_alive=False),
    "run-gevent-tls": Case(program("gevent", "{cert}")),
    "run-http.server-tls": Case(program("http_server", "{cert}"), extension=False),
}
CASES = OWN | RUN | RUN_TLS


@pytest.fixture(scope="module", params=list(CASES))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Server]:
    with CASES[request.param].start(tmp_path_factory.mktemp("server"), certificates, "--tls-timeout", "1") as server:
        yield server


@every_check
def test_the_application_sees_the_client(
    request: pytest.FixtureRequest, server: Server, check: Callable[[Server], None]
) -> None:
    if check is not check_silent or CASES[request.node.callspec.params["server"]].several:
        check(server)


@pytest.mark.parametrize("server", list(RUN_TLS), indirect=True)
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["silence", "no TLS"])
def test_a_handshake_that_fails_has_one_line(server: Server, sent: bytes) -> None:
    before = server.program.errors().count(f"Refused a connection from {CLIENT.host}:{CLIENT.port}, relayed by")
    with socket.create_connection(server.address, PATIENCE) as client, contextlib.suppress(ConnectionError):
        client.sendall(V2 + sent)
        while client.recv(4096):  # perhaps an alert
            pass

    line = f"Refused a connection from {CLIENT.host}:{CLIENT.port}, relayed by"
    wait_for(lambda: server.program.errors().count(line) == before + 1)
    assert "Traceback" not in server.program.errors()


@pytest.mark.parametrize("name", ["run-cheroot", "run-eventlet", "run-flask", "run-gevent", "run-waitress"])
def test_a_port_that_is_not_named_serves_as_it_always_did(
    name: str, tmp_path: Path, certificates: Certificates
) -> None:
    with CASES[name].start(tmp_path, certificates, "--ports", "1") as server, server.connect(b"") as client:
        assert server.ask(client).split(" ")[0::2] == [PROXY, "-"]


@pytest.mark.parametrize("name", ["eventlet_serve", "gevent_serve"])
def test_a_function_that_serves_a_connection_gets_the_clients_address(
    name: str, tmp_path: Path, certificates: Certificates
) -> None:
    with Case(program(name)).start(tmp_path, certificates) as server:
        with server.connect(V2) as client:
            assert client.recv(100).decode() == f"{CLIENT.host} {CLIENT.port}"
        server.assert_refused(b"")
