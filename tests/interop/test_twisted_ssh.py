"""An SSH server on Twisted, which speaks first: it sees the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import NamedTuple

import asyncssh
import pytest

from ._applications import LOOPBACK, Application, Way, application, running
from ._programs import PATIENCE

WayTo = Callable[[int], Way]

# one worker runs all tests of this file, so that the server is started once
pytestmark = pytest.mark.xdist_group("twisted-ssh")


class Server(NamedTuple):
    """A running server, its public key and its user's private key."""

    application: Application
    host_key: asyncssh.SSHKey
    user_key: asyncssh.SSHKey


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("ssh")
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    host_key.write_private_key(directory / "host_key")
    user_key.write_public_key(directory / "alice.pub")
    with running(application("ssh", f"proxyprotocol:tcp:{LOOPBACK}"), directory) as ssh:
        yield Server(ssh, host_key.convert_to_public(), user_key)


def test_a_command_sees_the_client(server: Server, way_to: WayTo) -> None:
    connection, client = way_to(server.application.ports[0]).connect()
    known_hosts: tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]
    known_hosts = [server.host_key], [], []

    async def run(command: str) -> object:
        async with asyncssh.connect(
            sock=connection, config=None, known_hosts=known_hosts, username="alice", client_keys=[server.user_key]
        ) as ssh:
            return (await ssh.run(command, check=True)).stdout

    assert asyncio.run(asyncio.wait_for(run("whoami"), PATIENCE)) == f"{client.host} {client.port} whoami"
