"""paramiko needs nothing but ``read_header(sock)`` before ``Transport(sock)``."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator

import paramiko
import pytest

from tests.interop._programs import PATIENCE

from .checks import CLIENT, LOCAL, PROXY, ROOT, STRANGER, V1, V2, Server, start

pytestmark = pytest.mark.xdist_group("paramiko")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("ssh")
    shutil.copy(ROOT / "examples" / "servers" / "paramiko_server.py", directory)
    with start([sys.executable, "paramiko_server.py", "{port}"], directory) as server:
        yield server


def greeting(server: Server, header: bytes) -> tuple[str, tuple[str, int]]:
    """Log in, and return the server's banner, and our own address."""
    with socket.create_connection(server.address, PATIENCE) as connection:
        connection.sendall(header)
        own = connection.getsockname()
        with paramiko.Transport(connection) as transport:
            transport.start_client(timeout=PATIENCE)
            transport.auth_none("somebody")
            banner = transport.get_banner()
    assert banner is not None
    return banner.decode(), own


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_the_banner_names_the_client(server: Server, header: bytes) -> None:
    assert greeting(server, header)[0] == f"Hello, {CLIENT.host}:{CLIENT.port}\r\n"


def test_local_means_the_proxy_itself(server: Server) -> None:
    with socket.create_connection(server.address, PATIENCE):  # a silent peer holds up nobody
        banner, (host, port) = greeting(server, LOCAL)
    assert banner == f"Hello, {host}:{port}\r\n"


@pytest.mark.parametrize(("header", "source"), [(V2, STRANGER), (b"", PROXY)], ids=["untrusted", "none"])
def test_others_are_refused(server: Server, header: bytes, source: str) -> None:
    server.assert_refused(header, source)
