"""An SSH server of asyncssh, that answers every command with its client's address, on TCP and on ``ssh.sock``.

It has its own key in ``host_key`` here, and that of its users in ``users.pub``.
"""

from __future__ import annotations

import asyncio
import socket

import asyncssh

from ._loops import READING, run, tell_ports


def answer(process: asyncssh.SSHServerProcess[str]) -> None:
    assert process.get_extra_info("proxy_protocol") is not None
    host, port = process.get_extra_info("peername")[:2]
    process.stdout.write(f"{host} {port} {process.command}")
    process.exit(0)


async def main(_: str) -> None:
    keys = {"server_host_keys": "host_key", "authorized_client_keys": "users.pub"}
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("ssh.sock")
    # uvloop keeps no reference to a server of a UNIX socket, so the garbage collector would close it
    async with (
        await asyncssh.listen(sock=sock, process_factory=answer, **keys),
        await asyncssh.listen("127.0.0.1", 0, process_factory=answer, **keys) as server,
    ):
        tell_ports(sock.getsockname() for sock in server.sockets)  # last, because the tests start then
        await asyncio.Event().wait()


if __name__ == "__main__":
    run(main, READING)
