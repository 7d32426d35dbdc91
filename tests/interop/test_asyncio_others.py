"""websockets and asyncssh see the client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from ._applications import HEADERS, Application, Way, application, running
from ._certificates import Certificates
from ._clients import assert_websocket
from ._programs import PATIENCE, connect

WayTo = Callable[[int], Way]
LOOPS = ["asyncio", "uvloop"]

# one worker runs all tests of this file, so that each server is started once
pytestmark = pytest.mark.xdist_group("asyncio-others")


@pytest.fixture(scope="module", params=LOOPS)
def websockets(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Application]:
    command = application("websockets_server", request.param, str(certificates.server))
    with running(command, tmp_path_factory.mktemp("websockets"), 2) as websockets:
        yield websockets


def test_websockets_sees_the_client(websockets: Application, way_to: WayTo) -> None:
    assert_websocket(way_to(websockets.ports[0]))


def test_websockets_sees_the_client_in_tls(websockets: Application, way_to: WayTo, certificates: Certificates) -> None:
    assert_websocket(way_to(websockets.ports[1]), certificates.client_context())


class SSH:
    """A running SSH server.

    Args:
        server: Its process.
        directory: Where its UNIX socket is.
        host_key: Its key.
        user_key: That of a user.
    """

    def __init__(
        self, server: Application, directory: Path, host_key: asyncssh.SSHKey, user_key: asyncssh.SSHKey
    ) -> None:
        self.server, self.directory = server, directory
        self._host_key, self._user_key = host_key.convert_to_public(), user_key

    def whoami(self, connection: socket.socket) -> object:
        """Run a command."""
        keys: list[list[asyncssh.SSHKey]] = [[self._host_key], [], []]

        async def run() -> object:
            async with asyncssh.connect(
                sock=connection, config=None, known_hosts=tuple(keys), username="alice", client_keys=[self._user_key]
            ) as client:
                return (await client.run("whoami", check=True)).stdout

        return asyncio.run(asyncio.wait_for(run(), PATIENCE))


@pytest.fixture(scope="module", params=LOOPS)
def ssh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[SSH]:
    directory = tmp_path_factory.mktemp("ssh")
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    host_key.write_private_key(directory / "host_key")
    user_key.write_public_key(directory / "users.pub")
    with running(application("asyncssh_server", request.param, str(certificates.server)), directory) as server:
        yield SSH(server, directory, host_key, user_key)


def test_asyncssh_sees_the_client(ssh: SSH, way_to: WayTo) -> None:
    connection, client = way_to(ssh.server.ports[0]).connect()

    assert ssh.whoami(connection) == f"{client.host} {client.port} whoami"


def test_asyncssh_on_a_unix_socket_sees_the_client(ssh: SSH, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncssh sets a TCP option, because the client speaks TCP."""
    header, client = HEADERS["v1"]
    monkeypatch.chdir(ssh.directory)  # the whole path may be too long for a UNIX address
    connection = connect("ssh.sock")
    connection.sendall(header)

    assert ssh.whoami(connection) == f"{client.host} {client.port} whoami"
