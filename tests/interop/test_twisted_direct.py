"""``switch_on()``: Twisted applications that call ``reactor.listenTCP`` and its kin read headers."""

from __future__ import annotations

import contextlib
import ftplib
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from twisted.application import strports
from twisted.internet.protocol import Factory

from tests.vectors import LOCAL, single_bytes, v2

from ._applications import HEADERS, TWISTD, find_line, twistd
from ._certificates import SERVER_NAME, Certificates
from ._programs import PATIENCE, Program, connect, reserved_port, wait_for

REACTORS = ["select", "epoll", "asyncio"]
PLAIN = ["listenTCP", "strports.listen", "our factory", "adoptStreamPort", "an endpoint", "our endpoint", "TCPServer"]
TLS = ["listenSSL", "listenSSL, by keywords", "an ssl: endpoint", "our ssl: endpoint"]
# the check of the ports usually waits five seconds
SWITCHED_ON = (
    "from proxyprotocol.integrations import twisted; twisted._PORTS_SETTLE = 0; "
    f"twisted.switch_on(); del twisted; {TWISTD}"
)

# one worker runs all tests of this file, so that each server is started once
pytestmark = pytest.mark.xdist_group("twisted-direct")


class Direct(NamedTuple):
    """A running ``direct.tac``."""

    program: Program
    directory: Path
    ports: dict[str, int]
    starts: list[str]


@contextlib.contextmanager
def running(command: list[str], directory: Path, **environment: str) -> Iterator[Program]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        program = Program(command, directory)
    try:
        yield program
    finally:
        log = program.stop() + "\n".join(program.remaining_lines())
    assert "Traceback" not in log, log


@pytest.fixture(scope="module", params=REACTORS)
def direct(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Direct]:
    directory = tmp_path_factory.mktemp("direct")
    tac = Path(__file__).parent / "applications" / "direct.tac"
    command = twistd("--reactor", request.param, "-y", str(tac))
    environment = {"PROXYPROTOCOL_TRUSTED": "127.0.0.1,unix", "CERTIFICATE": str(certificates.server)}
    with running(command, directory, **environment) as program:
        ports: dict[str, int] = {}
        lines = []
        while len(ports) < len(PLAIN + TLS):
            lines.append(program.line())
            if told := re.search(r"(?:^|\] )([^\]]+) is on (\d+)$", lines[-1]):
                ports[told[1].strip()] = int(told[2])
        yield Direct(program, directory, ports, lines)


def first_line(connection: socket.socket) -> str:
    return connection.makefile().readline().rstrip("\n")


@pytest.mark.parametrize("name", PLAIN)
def test_a_port_reads_one_header(direct: Direct, name: str) -> None:
    for header, client in HEADERS.values():
        for pieces in ([header + b"ping"], single_bytes(header)):
            with connect(("127.0.0.1", direct.ports[name])) as connection:
                for piece in pieces:
                    connection.sendall(piece)
                assert first_line(connection).startswith(f"{client.host} {client.port} ")
    with connect(("127.0.0.1", direct.ports[name])) as connection:
        connection.sendall(v2(LOCAL, 0x00))
        assert first_line(connection) == "{} {} {} {}".format(*connection.getsockname(), *connection.getpeername())


@pytest.mark.parametrize("name", TLS)
def test_tls_follows_the_header(direct: Direct, certificates: Certificates, name: str) -> None:
    header, client = HEADERS["v1"]
    with connect(("127.0.0.1", direct.ports[name])) as connection:
        connection.sendall(header)
        with certificates.client_context().wrap_socket(connection, server_hostname=SERVER_NAME) as secured:
            assert first_line(secured).startswith(f"{client.host} {client.port} ")
    with connect(("127.0.0.1", direct.ports[name])) as connection, pytest.raises((ConnectionError, ssl.SSLError)):
        certificates.client_context().wrap_socket(connection, server_hostname=SERVER_NAME)


def test_a_unix_socket_reads_a_header(direct: Direct) -> None:
    header, client = HEADERS["v1"]
    with connect(str(direct.directory / "app.sock")) as connection:
        connection.sendall(header)
        assert first_line(connection).startswith(f"{client.host} {client.port} ")


@pytest.mark.parametrize("name", PLAIN + TLS)
def test_nobody_is_served_without_a_header(direct: Direct, name: str) -> None:
    address = ("127.0.0.1", direct.ports[name])
    with connect(address) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    line = find_line(direct.program, f" on 127.0.0.1:{address[1]}: There is no PROXY protocol header")
    policy = {"our factory": "policy", "our endpoint": "ppPolicy", "our ssl: endpoint": "ppPolicy"}
    assert line.endswith(f"; see {policy.get(name, 'PROXYPROTOCOL_POLICY')}")
    with (
        contextlib.suppress(ConnectionError),  # dropped at accept, at once
        socket.create_connection(address, PATIENCE, ("127.0.0.2", 0)) as forger,
    ):
        forger.sendall(HEADERS["v1"][0])
        assert forger.recv(1) == b""
    find_line(direct.program, f" on 127.0.0.1:{address[1]}: The peer is not one of the trusted proxies")


def test_each_listener_says_what_it_reads(direct: Direct) -> None:
    for name in ("listenTCP", "listenSSL", "adoptStreamPort", "an endpoint", "TCPServer"):
        says = f" Reads version 1 and 2 headers on 127.0.0.1:{direct.ports[name]} from 127.0.0.1, unix"
        assert len([line for line in direct.starts if line.endswith(says)]) == 1


# The commands of other projects, which have no place for a line of code


class FTP(ftplib.FTP):
    """A client whose first bytes are a header; its data connections go straight to the server."""

    passive = ""

    def makepasv(self) -> tuple[str, int]:
        self.passive = self.sendcmd("PASV")
        return "127.0.0.1", ftplib.parse227(self.passive)[1]

    def greet(self, port: int, header: bytes) -> str:
        self.sock, self.af = connect(("127.0.0.1", port)), socket.AF_INET
        self.sock.sendall(header)
        self.file = self.sock.makefile("r", encoding=self.encoding)
        self.welcome = self.getresp()
        return self.welcome


@pytest.mark.parametrize("reactor", REACTORS)
def test_ftp_reads_headers_on_its_port_alone(tmp_path: Path, reactor: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "hello.txt").write_text("hello, client")
    with reserved_port() as port:
        command = [sys.executable, "-c", SWITCHED_ON, "-n", "--reactor", reactor, "ftp"]
        environment = {"PROXYPROTOCOL_TRUSTED": "127.0.0.1", "PROXYPROTOCOL_PORTS": f"{port},1"}
        with running([*command, "--port", str(port), "--root", "site"], tmp_path, **environment) as program:
            find_line(program, f" Reads version 1 and 2 headers on 0.0.0.0:{port} from 127.0.0.1")
            find_line(program, f"PORTS names 1, but this process does not listen there; it listens on {port}")
            with FTP() as client:
                assert client.greet(port, HEADERS["v1"][0]).startswith("220 ")
                client.login()
                received: list[bytes] = []
                client.retrbinary("RETR hello.txt", received.append)
                assert received == [b"hello, client"]
                # the address that the client has connected to, says the header
                assert client.passive.startswith("227 Entering Passive Mode (198,51,100,2,")
            find_line(program, ",0,192.0.2.1] cleanupDTP")
            with connect(("127.0.0.1", port)) as connection:
                connection.sendall(b"USER anonymous\r\n")
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)


def test_strports_listen_takes_no_string_of_a_plugin() -> None:
    """docs/twisted.rst says so, of the ports of buildbot that need switch_on(). Twisted's own tcp6: fails as well."""
    for description in ("proxyprotocol:tcp:0", "tcp6:0"):
        with pytest.raises(TypeError, match="can only concatenate str"):
            strports.listen(description, Factory())


def test_a_wrong_variable_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SWITCHED_ON, "-n", "ftp"]
    with running(command, tmp_path, PROXYPROTOCOL_TRUST="127.0.0.1") as program:
        wait_for(lambda: not program.running())
        assert program.errors().splitlines() == [
            "unknown environment variable PROXYPROTOCOL_TRUST; did you mean PROXYPROTOCOL_TRUSTED?"
        ]


def test_a_foreign_reactor_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    program = """if True:
        from twisted.internet.main import installReactor
        from twisted.internet.testing import MemoryReactor
        installReactor(MemoryReactor())
        from proxyprotocol.integrations.twisted import switch_on
        switch_on()
    """
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == (
        "The reactor twisted.internet.testing.MemoryReactor cannot read headers: choose another, such as twistd "
        "--reactor=select\n"
    )


def test_a_factory_that_reads_twisteds_own_headers_stops_the_start(tmp_path: Path) -> None:
    program = """if True:
        from proxyprotocol.integrations.twisted import switch_on
        switch_on()
        switch_on()  # does nothing
        from twisted.internet import endpoints, protocol, reactor
        endpoint = endpoints.serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1")
        endpoint.listen(protocol.Factory()).addErrback(lambda failure: print(failure.getErrorMessage()))
    """
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("The factory already reads a header, and a connection has only one\n", "")
