"""The blocking servers of the standard library and of Django, started as their users start them, see the client."""

from __future__ import annotations

import contextlib
import runpy
import socket
import xmlrpc.client
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from ._applications import Application, Way, application, running
from ._certificates import SERVER_NAME, Certificates
from ._clients import assert_http
from ._programs import PATIENCE, Address, Program, connect, wait_for
from ._proxies import HAProxy

WayTo = Callable[[int], Way]

# One worker runs all of these tests, with one server of each kind.
pytestmark = pytest.mark.xdist_group("sync-servers")

VERSIONS = ["send-proxy", "send-proxy-v2"]


def told_port(program: Program, listeners: int) -> list[int]:
    return [int(program.line()) for _ in range(listeners)]


@contextlib.contextmanager
def serving(directory: Path, *arguments: str, name: str = "blocking") -> Iterator[Application]:
    with running(application(name, *arguments), directory, find_ports=told_port) as server:
        yield server


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with serving(tmp_path_factory.mktemp("http"), "http") as http:
        yield http


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Application]:
    with serving(tmp_path_factory.mktemp("https"), "http", str(certificates.server)) as https:
        yield https


@pytest.fixture(scope="module")
def wsgi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with serving(tmp_path_factory.mktemp("wsgi"), "wsgi") as wsgi:
        yield wsgi


@pytest.fixture(scope="module")
def rpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with serving(tmp_path_factory.mktemp("xmlrpc"), "xmlrpc") as rpc:
        yield rpc


@pytest.fixture(scope="module")
def django(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    pytest.importorskip("django")
    with serving(tmp_path_factory.mktemp("django"), name="django_site") as django:
        yield django


def assert_logged(server: Application, client: Address, request: str) -> None:
    """Wait for the line of the access log that names the client of this request."""

    def logged() -> bool:
        lines = server.program.errors().splitlines()
        return any(line.startswith(f"{client.host} - - [") and f'"{request}" 200' in line for line in lines)

    wait_for(logged)


def request_of(client: Address) -> str:
    """Return a request that no other client sends."""
    return f"GET /?{client.host}-{client.port} HTTP/1.0"


def test_http_server_sees_the_client_of_each_request_on_a_connection(http: Application, way_to: WayTo) -> None:
    assert_http(way_to(http.ports[0]))


def test_http_server_sees_the_client_of_each_request_in_tls(
    https: Application, way_to: WayTo, certificates: Certificates
) -> None:
    assert_http(way_to(https.ports[0]), certificates.client_context())


def test_http_servers_log_has_the_client(http: Application, way_to: WayTo) -> None:
    connection, client = way_to(http.ports[0]).connect()
    with connection, connection.makefile("rb") as answer:
        connection.sendall(f"{request_of(client)}\r\n\r\n".encode())
        assert answer.read().endswith(f"{client.host} {client.port}".encode())

    assert_logged(http, client, request_of(client))


def test_wsgiref_sees_the_client_and_logs_it(wsgi: Application, way_to: WayTo) -> None:
    connection, client = way_to(wsgi.ports[0]).connect()
    with connection, connection.makefile("rb") as answer:
        connection.sendall(f"{request_of(client)}\r\n\r\n".encode())
        assert answer.read().endswith(f"\r\n\r\n{client.host}".encode())

    assert_logged(wsgi, client, request_of(client))


class OneConnection(xmlrpc.client.Transport):
    """Sends its calls on an existing connection."""

    def __init__(self, connection: HTTPConnection) -> None:
        super().__init__()
        self._one = connection

    def make_connection(self, host: object) -> HTTPConnection:
        return self._one


def test_xmlrpc_server_logs_the_client(rpc: Application, way_to: WayTo) -> None:
    connection, client = way_to(rpc.ports[0]).connect()
    http = HTTPConnection(SERVER_NAME)
    http.sock = connection
    with connection, xmlrpc.client.ServerProxy(f"http://{SERVER_NAME}/RPC2", OneConnection(http)) as server:
        assert server.upper("hello") == "HELLO"

    assert_logged(rpc, client, "POST /RPC2 HTTP/1.1")


def test_django_sees_the_client_of_each_request_on_a_connection(django: Application, way_to: WayTo) -> None:
    assert_http(way_to(django.ports[0]), answer="{}")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_under_health_checks_is_up_and_goes_on_serving(
    http: Application, haproxy: HAProxy, version: str
) -> None:
    port = haproxy.start(f"127.0.0.1:{http.ports[0]} {version} check inter 20ms check-send-proxy")

    wait_for(lambda: haproxy.statistics().last_check == "L4OK")
    for _ in range(5):
        assert_http(Way(Address("127.0.0.1", port)))

    assert haproxy.statistics() == ("UP", "L4OK", 0, 0)


def test_checks_without_a_header_do_no_harm(http: Application, haproxy: HAProxy) -> None:
    # a check with its own port has no header, and HAProxy resets it
    port = haproxy.start(f"127.0.0.1:{http.ports[0]} send-proxy-v2 check port {http.ports[0]} inter 20ms")

    wait_for(lambda: haproxy.statistics().last_check == "L4OK")
    assert_http(Way(Address("127.0.0.1", port)))

    assert haproxy.statistics() == ("UP", "L4OK", 0, 0)


def test_silent_and_bad_peers_do_not_block_others(https: Application, certificates: Certificates) -> None:
    address = Address("127.0.0.1", https.ports[0])
    way = Way(address, b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n", Address("192.0.2.1", 1000))
    with contextlib.ExitStack() as stack:
        for data in (b"", b"PROXY TCP4", way.header, way.header + b"\x16\x03\x01"):
            stack.enter_context(connect(address)).sendall(data)
        for data in (b"GET / HTTP/1.1\r\n\r\n", way.header + b"GET / HTTP/1.1\r\n\r\n"):
            with connect(address) as bad, contextlib.suppress(ConnectionError):
                bad.sendall(data)
                while bad.recv(4096):
                    pass
        assert_http(way, certificates.client_context())

    wait_for(lambda: https.program.errors().count("Refused a connection from ") >= 2)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve the name in the server's certificate to 127.0.0.1."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **keywords: Any) -> Any:
        return look_up("127.0.0.1" if host == SERVER_NAME else host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("resolved")
def test_http_client_sends_its_header_in_front_of_tls_each_time_it_connects(
    project_root: Path, https: Application, certificates: Certificates
) -> None:
    example = runpy.run_path(str(project_root / "examples" / "http_client.py"))
    connection = example["SecureConnection"](SERVER_NAME, https.ports[0], context=certificates.client_context())
    for _ in range(2):
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"203.0.113.7 5678"
        connection.close()


@pytest.mark.usefixtures("resolved")
def test_urllib3_sends_its_header_in_front_of_tls(
    project_root: Path, https: Application, certificates: Certificates
) -> None:
    example = runpy.run_path(str(project_root / "examples" / "urllib3_client.py"))
    context = certificates.client_context()
    with example["SecurePool"](SERVER_NAME, https.ports[0], ssl_context=context, timeout=PATIENCE) as pool:
        for _ in range(2):
            assert pool.request("GET", "/").data == b"203.0.113.7 5678"


def test_an_answer_without_a_length_has_an_end_in_tls(
    tmp_path: Path, haproxy: HAProxy, certificates: Certificates
) -> None:
    context = certificates.client_context()
    with serving(tmp_path, "wsgi", str(certificates.server)) as wsgi:
        port = haproxy.start(f"127.0.0.1:{wsgi.ports[0]} send-proxy-v2")
        with connect(("127.0.0.1", port)) as connection:
            name = connection.getsockname()[0]
            # with this argument, a connection that ends without a close_notify is an error
            with context.wrap_socket(connection, server_hostname=SERVER_NAME, suppress_ragged_eofs=False) as tls:
                tls.settimeout(PATIENCE)
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                received = b""
                while data := tls.recv(4096):
                    received += data
        assert received.endswith(f"\r\n\r\n{name}".encode())
