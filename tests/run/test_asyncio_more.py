"""`proxyprotocol run` with the rarer servers on asyncio and trio, and with protocols other than HTTP."""

from __future__ import annotations

import asyncio
import shutil
import smtplib
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import httpcore
import pytest
from websockets.sync.client import connect as connect_websocket

from tests.interop._certificates import SERVER_NAME, Certificates
from tests.interop._programs import PATIENCE
from tests.servers.checks import ALONE, CLIENT, CLIENT_RESULT, ROOT, STRANGER, V1, V2, Server, every_check, start
from tests.vectors import IPV4_BLOCK, PROXY, tlv, v2

PEM = ["--certfile", "{pem}", "--keyfile", "{pem}"]
TORNADO = """
import asyncio
import sys
from tornado.web import Application
from tests.servers.jupyter_whoami import WhoAmI

async def main():
    Application([("/", WhoAmI)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()

asyncio.run(main())
"""
ANYIO = """
import contextlib
import sys
import anyio
from anyio.abc import SocketAttribute

async def answer(stream):
    host, port = stream.extra(SocketAttribute.remote_address)
    body = f"{host} {port} {stream.result}".encode()
    request = b""
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        async with stream:
            while True:
                request += await stream.receive()
                if request.endswith(b"\\r\\n\\r\\n"):
                    await stream.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
                    request = b""

async def main():
    options = {"local_host": "127.0.0.1", "local_port": int(sys.argv[2]), "reuse_port": True}
    await (await anyio.create_tcp_listener(**options)).serve(answer)

anyio.run(main, backend=sys.argv[1])
"""
JUPYTER = [
    *("jupyter-server", "--port", "{port}", "--no-browser", "--allow-root"),
    *("--ServerApp.jpserver_extensions", "tests.servers.jupyter_whoami=True"),
]
# each with whether the application knows its client's port
COMMANDS = {
    "hypercorn-trio": (["hypercorn", "-k", "trio", "--bind", "127.0.0.1:{port}", "whoami:asgi"], True),
    "hypercorn-trio-tls": (["hypercorn", "-k", "trio", "--bind", "127.0.0.1:{port}", *PEM, "whoami:asgi"], True),
    "hypercorn-uvloop-tls": (["hypercorn", "-k", "uvloop", "--bind", "127.0.0.1:{port}", *PEM, "whoami:asgi"], True),
    "hypercorn-workers": (["hypercorn", "--workers", "2", "--bind", "127.0.0.1:{port}", "whoami:asgi"], True),
    "daphne": (["daphne", "-b", "127.0.0.1", "-p", "{port}", "whoami:asgi"], True),
    "daphne-tls": (["daphne", "-e", "ssl:{port}:interface=127.0.0.1:privateKey={pem}", "whoami:asgi"], True),
    "anyio-asyncio": (["python", "anyio_server.py", "asyncio", "{port}"], True),
    "anyio-trio": (["python", "anyio_server.py", "trio", "{port}"], True),
    "tornado": (["python", "tornado_server.py", "{port}"], False),
    "fastapi-dev": (["fastapi", "dev", "--port", "{port}", "fastapi_app.py"], True),
    "jupyter": (JUPYTER, False),
}
KINDS = [pytest.param(name, marks=pytest.mark.xdist_group(f"run-{name.partition('-')[0]}")) for name in COMMANDS]


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Server]:
    command, ports = COMMANDS[request.param]
    words = [word.replace("{pem}", str(certificates.server)) for word in command]
    context = certificates.client_context() if words != command else None
    directory = tmp_path_factory.mktemp("run")
    (directory / "tornado_server.py").write_text(TORNADO)
    (directory / "anyio_server.py").write_text(ANYIO)
    shutil.copy(ROOT / "examples" / "servers" / "fastapi_app.py", directory)
    with start(words, directory, run=[], context=context, environment=ALONE, ports=ports) as server:
        yield server


@every_check
def test_the_application_sees_the_client(server: Server, check: Callable[[Server], None]) -> None:
    check(server)


HYPERCORN = ["hypercorn", "--bind", "127.0.0.1:{port}", *PEM]
AUTHORITY = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x02, b"app.example.com"))


class HeaderFirst(httpcore.SyncBackend):
    """Sends a header at the start of each connection of an HTTP client."""

    def connect_tcp(self, *arguments: Any, **keywords: Any) -> httpcore.NetworkStream:
        stream = super().connect_tcp(*arguments, **keywords)
        stream.write(AUTHORITY)
        return stream


@pytest.mark.parametrize(
    "command",
    [HYPERCORN, [*HYPERCORN, "-k", "trio"], ["daphne", "-e", "ssl:{port}:interface=127.0.0.1:privateKey={pem}"]],
    ids=["hypercorn", "hypercorn-trio", "daphne"],
)
def test_the_scopes_of_http2_and_of_websockets_have_the_header(
    tmp_path: Path, certificates: Certificates, command: list[str]
) -> None:
    words = [word.replace("{pem}", str(certificates.server)) for word in command]
    application, context = "tests.interop.applications.asgi_told:application", certificates.client_context()
    with start([*words, application], tmp_path, run=[], context=context) as server:
        names = {"sni_hostname": SERVER_NAME}
        with httpcore.ConnectionPool(
            certificates.client_context(), http1=False, http2=True, network_backend=HeaderFirst()
        ) as pool:
            for _ in range(2):
                answer = pool.request("GET", "https://{}:{}/".format(*server.address), extensions=names)
                assert (answer.extensions["http_version"], answer.content) == (b"HTTP/2", b"told app.example.com")
        with (
            server.connect(AUTHORITY) as connection,
            connect_websocket("ws://app.example.com/", sock=connection, proxy=None) as websocket,
        ):
            websocket.send("?")
            assert websocket.recv(PATIENCE) == "told app.example.com"


WEBSOCKETS = """
import asyncio
import sys
from websockets.asyncio.server import serve

async def answer(connection):
    host, port = connection.remote_address[:2]
    async for message in connection:
        await connection.send(f"{host} {port} {connection.transport.get_extra_info('proxy_protocol')}")

async def main():
    async with serve(answer, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()

asyncio.run(main())
"""
SSH = """
import asyncio
import sys
import asyncssh

class Anybody(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False

def answer(process):
    host, port = process.get_extra_info("peername")[:2]
    process.stdout.write(f"{host} {port} {process.get_extra_info('proxy_protocol')}")
    process.exit(0)

async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    options = {"server_factory": Anybody, "server_host_keys": [key], "process_factory": answer}
    async with await asyncssh.listen("127.0.0.1", int(sys.argv[1]), **options) as server:
        await server.wait_closed()

asyncio.run(main())
"""
MAIL = """
import signal
import sys
from aiosmtpd.controller import Controller

class Handler:
    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        host, port = session.peer[:2]
        return [*responses[:-1], f"250 {host} {port} {server.transport.get_extra_info('proxy_protocol')}"]

if __name__ == "__main__":
    controller = Controller(Handler(), "127.0.0.1", int(sys.argv[1]))
    controller.start()
    signal.sigwait({signal.SIGTERM})
    controller.stop()
"""
TOLD = f"{CLIENT.host} {CLIENT.port} {CLIENT_RESULT}"


def ask_websockets(connection: socket.socket) -> str:
    with connect_websocket("ws://app.example.com/", sock=connection, proxy=None) as websocket:
        websocket.send("?")
        return str(websocket.recv(PATIENCE))


def ask_ssh(connection: socket.socket) -> str:
    async def run() -> str:
        async with asyncssh.connect(sock=connection, config=None, known_hosts=None, client_keys=None) as client:
            return str((await client.run("whoami", check=True)).stdout)

    return asyncio.run(asyncio.wait_for(run(), PATIENCE))


class Mail(smtplib.SMTP):
    """Speaks on a connection that exists already."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        super().__init__("app.example.com")

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self.connection


def ask_mail(connection: socket.socket) -> str:
    with Mail(connection) as client:
        return client.ehlo()[1].decode().splitlines()[-1]


@pytest.mark.parametrize(
    ("program", "command", "ask"),
    [
        (WEBSOCKETS, "program.py {port}", ask_websockets),
        (SSH, "program.py {port}", ask_ssh),
        (MAIL, "program.py {port}", ask_mail),
        (MAIL, "-m aiosmtpd --nosetuid --listen 127.0.0.1:{port} --class program.Handler", ask_mail),
    ],
    ids=["websockets", "asyncssh", "aiosmtpd-controller", "aiosmtpd-command"],
)
def test_a_program_of_another_protocol_sees_the_client(
    tmp_path: Path, program: str, command: str, ask: Callable[[socket.socket], str]
) -> None:
    (tmp_path / "program.py").write_text(program)
    with start([sys.executable, *command.split()], tmp_path, run=[]) as server:
        for header, bytewise in ((V1, False), (V2, False), (V1, True), (V2, True)):
            with server.connect(header, bytewise=bytewise) as connection:
                assert ask(connection) == TOLD
        server.assert_refused(V2, STRANGER)
        server.assert_refused(b"")
