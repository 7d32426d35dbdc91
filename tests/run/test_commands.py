"""`proxyprotocol run` with commands of servers that do not speak HTTP, or that Twisted runs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.interop._programs import PATIENCE, wait_for
from tests.servers.checks import CLIENT, LOCAL, V1, V2, Server, start


def greeting(server: Server, header: bytes, request: bytes = b"") -> bytes:
    """Send a header byte by byte, and return the first line of the answer to a request."""
    with socket.create_connection(server.address, PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header:
            connection.sendall(bytes([byte]))
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            return stream.readline()


@pytest.mark.parametrize("header", [V1, V2, LOCAL], ids=["v1", "v2", "local"])
def test_aiosmtpds_own_command_greets_after_the_header(tmp_path: Path, header: bytes) -> None:
    command = ["aiosmtpd", "-n", "-d", "-l", "127.0.0.1:{port}"]
    with start(command, tmp_path, run=[]) as server:
        assert greeting(server, header).startswith(b"220 ")
        client = "127.0.0.1" if header == LOCAL else str(CLIENT.host)
        wait_for(lambda: f"Peer: ('{client}', " in server.program.errors())
        server.assert_refused(b"")


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_twistd_web_logs_the_client(tmp_path: Path, header: bytes) -> None:
    command = ["twistd", "-n", "--logfile", "twistd.log", "web", "--listen", "tcp:{port}:interface=127.0.0.1"]
    with start([*command, "--path", "."], tmp_path, run=[]) as server:
        request = b"GET /whoami.py HTTP/1.0\r\n\r\n"
        assert greeting(server, header, request).startswith(b"HTTP/1.0 200 OK")
        log = tmp_path / "twistd.log"
        wait_for(lambda: f'"{CLIENT.host}" - - [' in log.read_text())
        assert "Reads version 1 and 2 headers on 127.0.0.1:" in log.read_text()
        assert "Reads version 1 and 2" not in server.program.errors()
