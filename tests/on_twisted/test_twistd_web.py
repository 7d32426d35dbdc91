"""Twisted's web server as a subprocess: ``twistd web --listen proxyprotocol:...``."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop._applications import twistd
from tests.interop._programs import Program, connect, receive_all
from tests.vectors import IPV4_BLOCK, IPV6_BLOCK, LOCAL, PROXY, v2


class Web:
    """A running server of one file; it writes its access log to standard output."""

    def __init__(self, directory: Path) -> None:
        (directory / "site").mkdir()
        (directory / "site" / "hello.txt").write_text("hello, client")
        self.pid = directory / "twistd.pid"
        command = twistd("web", "--listen", "proxyprotocol:tcp:0:interface=127.0.0.1", "--path", "site")
        self.program = Program(command, directory)
        self.port = int(self.logged(" starting on ").rpartition(" ")[2])

    def logged(self, text: str) -> str:
        """Return the next line of the log that contains the text."""
        while text not in (line := self.program.line()):
            assert '"GET ' not in line, "a request that nobody has asked for"
        return line

    def get(self, header: bytes) -> bytes:
        with connect(("127.0.0.1", self.port)) as client:
            client.sendall(header + b"GET /hello.txt HTTP/1.0\r\n\r\n")
            return receive_all(client, 1 << 16)


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Web]:
    web = Web(directory)
    try:
        yield web
    finally:
        errors = web.program.stop()
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with running(tmp_path_factory.mktemp("web")) as web:
        yield web


# one server for all tests, on one worker
pytestmark = pytest.mark.xdist_group("twistd-web")

CLIENTS = {
    "v1": (b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n", "192.0.2.1"),
    "v1 IPv6": (b"PROXY TCP6 2001:db8::1 2001:db8::2 1000 2000\r\n", "2001:db8::1"),
    "v2": (v2(PROXY, 0x11, IPV4_BLOCK), "192.0.2.1"),
    "v2 IPv6": (v2(PROXY, 0x21, IPV6_BLOCK), "2001:db8::1"),
    "LOCAL": (v2(LOCAL, 0x00), "127.0.0.1"),
}


@pytest.mark.parametrize(("header", "client"), CLIENTS.values(), ids=CLIENTS)
def test_a_file_is_served_and_the_access_log_names_the_client(web: Web, header: bytes, client: str) -> None:
    answer = web.get(header)

    assert b" 200 OK\r\n" in answer
    assert answer.endswith(b"\r\n\r\nhello, client")
    access = re.search(r'"([^"]*)" - - \[.*\] "GET /hello.txt HTTP/1.0" 200 13 ', web.logged('"GET /hello.txt '))
    assert access is not None
    assert access[1] == client


def test_a_request_without_a_header_is_not_served(web: Web) -> None:
    with pytest.raises(ConnectionResetError):
        web.get(b"")

    line = web.logged("Refused a connection from 127.0.0.1:")
    assert "There is no PROXY protocol header: the data begins with b'GET /hello.txt H'" in line


def test_a_signal_ends_the_server_while_connections_wait(tmp_path: Path) -> None:
    with running(tmp_path) as web, connect(("127.0.0.1", web.port)) as client:
        client.sendall(b"PROXY TCP4 ")
        assert b" 200 OK\r\n" in web.get(b"PROXY UNKNOWN\r\n")  # the other connection is accepted now
        assert '"127.0.0.1"' in web.logged('"GET /hello.txt ')
        os.kill(int(web.pid.read_text()), signal.SIGTERM)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        web.logged("Server Shut Down.")
