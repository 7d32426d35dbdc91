"""pyftpdlib: the client of a control connection is known before the banner, and data connections have no header."""

from __future__ import annotations

import ftplib
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop._programs import PATIENCE, wait_for

from .checks import CLIENT, LOCAL, PROXY, STRANGER, V1, V2, Server, start

pytestmark = pytest.mark.xdist_group("pyftpdlib")

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "servers" / "pyftpdlib_server.py"
COMMANDS = {
    "own": [sys.executable, "pyftpdlib_server.py", "{port}"],
    "run": [sys.executable, "-m", "pyftpdlib", "--interface", "127.0.0.1", "--port", "{port}"],
}


@pytest.fixture(scope="module", params=list(COMMANDS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("ftp")
    shutil.copy(EXAMPLE, directory)
    (directory / "hello.txt").write_text("hello")
    with start(COMMANDS[request.param], directory, run=[] if request.param == "run" else None) as server:
        yield server


class Client(ftplib.FTP):
    """A client whose control connection begins with a header, byte by byte."""

    def __init__(self, server: Server, header: bytes) -> None:
        super().__init__()
        self.sock = socket.create_connection(server.address, PATIENCE)
        self.af, self.host, self.file = self.sock.family, PROXY, self.sock.makefile("r", encoding="utf-8")
        for byte in header:
            self.sock.sendall(bytes([byte]))
        self.welcome = self.getresp()


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_the_log_names_the_client(server: Server, header: bytes) -> None:
    opened = f"{CLIENT.host}:{CLIENT.port}-[] FTP session opened"
    before = server.program.errors().count(opened)
    with Client(server, header) as ftp:
        assert str(ftp.welcome).startswith("220 ")

    wait_for(lambda: server.program.errors().count(opened) == before + 1)


@pytest.mark.parametrize("header", [V2, LOCAL], ids=["PROXY", "LOCAL"])
def test_a_passive_data_connection_through_the_proxy_has_no_header(server: Server, header: bytes) -> None:
    with Client(server, header) as ftp:
        ftp.login()
        assert "hello.txt" in ftp.nlst()
        lines: list[str] = []
        ftp.retrlines("RETR hello.txt", lines.append)
    assert lines == ["hello"]


def test_a_data_connection_from_another_host_is_refused(server: Server) -> None:
    with Client(server, V2) as ftp:
        ftp.login()
        host, port = ftp.makepasv()
        with socket.create_connection((host, port), PATIENCE, (STRANGER, 0)) as other:
            assert other.recv(1) == b""
        with pytest.raises(ftplib.error_temp, match="425 Rejected data connection"):
            ftp.getresp()


@pytest.mark.parametrize(("header", "source"), [(V2, STRANGER), (b"USER x\r\n", PROXY)], ids=["untrusted", "none"])
def test_others_are_refused(server: Server, header: bytes, source: str) -> None:
    server.assert_refused(header, source)


def test_silent_peers_hold_up_nobody(server: Server) -> None:
    with socket.create_connection(server.address, PATIENCE), Client(server, V2) as ftp:
        ftp.login()
