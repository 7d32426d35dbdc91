"""A program that gives its server rules of its own keeps them under ``proxyprotocol run``, which knows others."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

import pytest

from tests.servers.checks import CLIENT, CLIENT_RESULT, PROXY, ROOT, STRANGER, V2, start

EXAMPLES = ROOT / "examples" / "servers"
OTHERS = ["--trusted", "any"]


@pytest.mark.parametrize("name", ["cheroot", "eventlet", "gevent", "waitress", "werkzeug", "wsgiref"])
def test_the_rules_of_the_program_win_and_the_header_is_read_once(tmp_path: Path, name: str) -> None:
    shutil.copy(EXAMPLES / f"{name}_server.py", tmp_path)
    (tmp_path / "app.py").write_text("from whoami import wsgi as app\n")
    command = [sys.executable, f"{name}_server.py", "{port}"]
    with start(command, tmp_path, run=OTHERS, ports=name != "wsgiref") as server:
        with server.connect(V2) as connection:
            server.assert_client(server.ask(connection), CLIENT, str(CLIENT_RESULT))
        server.assert_refused(V2, STRANGER)


def test_so_do_those_of_an_ftp_server(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "pyftpdlib_server.py"), "{port}"]
    with start(command, tmp_path, run=OTHERS) as server:
        with socket.create_connection(server.address, 20, (PROXY, 0)) as connection:
            connection.sendall(V2)
            assert connection.recv(4) == b"220 "
        server.assert_refused(V2, STRANGER)
