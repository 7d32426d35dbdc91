"""Errors that are not the application's leave no traceback: a client's reset, a system without descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol.asyncio import start_server
from tests.interop._programs import Program, wait_for
from tests.on_asyncio.loops import HEADER, Log, Run, Security, connected, turns, until
from tests.server.programs import processor_time
from tests.server.relays import PATIENCE

pytestmark = pytest.mark.usefixtures("log")


async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application that does not expect a client to reset the connection."""
    while await reader.read(100):
        pass
    writer.close()
    await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(application: Any, **keywords: Any) -> Any:
    server = await start_server(application, "127.0.0.1", 0, **keywords)
    yield server
    server.close()
    await server.wait_closed()


def test_a_reset_leaves_no_traceback_wherever_it_cuts(run: Run) -> None:
    sent = HEADER + b"data\n"

    async def story() -> None:
        async with serving(read_all) as server:
            for size in range(len(sent) + 1):
                async with connected(server) as peer:
                    await peer.send(sent[:size])
                    peer.reset()
                    await turns(4)

    run(story)


def test_a_reset_under_an_application_that_answers_leaves_no_traceback(run: Run) -> None:
    """drain() raises an error of its own then, not the reader's."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.readline():
            writer.write(data)
            await writer.drain()

    async def story() -> None:
        async with serving(echo) as server:
            for count in range(40):
                async with connected(server) as peer:
                    await peer.send(HEADER + b"data\n" * (count % 5))
                    peer.reset()
                    await turns(4)

    run(story)


def test_a_reset_inside_of_tls_leaves_no_traceback(run: Run, security: Security, log: Log) -> None:
    async def story() -> None:
        async with serving(read_all, **security.server) as server, connected(server, **security.client) as peer:
            await peer.begin(HEADER, b"data\n")
            await turns(4)
            peer.reset()
            await until(lambda: log.lines)
        ((level, line),) = log.lines
        assert level == "DEBUG"
        assert line.startswith("The connection from 192.0.2.1:1000 was lost: ")

    run(story)


@pytest.mark.parametrize("lost", [True, False])
def test_the_loss_of_another_connection_is_the_application_s_error(run: Run, lost: bool) -> None:
    """For example of the connection to its database."""

    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(100)
        writer.close()
        raise ConnectionResetError("another")

    async def story() -> None:
        async with serving(application) as server, connected(server) as peer:
            await peer.send(HEADER)
            if lost:
                peer.reset()
            else:
                await peer.send(b"data")
            await until(lambda: (gc.collect(), run.complaints)[1])  # Python 3.10 reports it when the task is freed
            assert run.take_mistakes(ConnectionResetError) == 1

    run(story)


def test_a_plain_function_may_be_the_callback(run: Run) -> None:
    async def story() -> None:
        async with serving(lambda reader, writer: writer.close()) as server, connected(server) as peer:
            await peer.send(HEADER)
            assert await peer.hear_all() == b""

    run(story)


def test_a_peer_that_is_gone_before_its_transport_stops_no_other() -> None:
    run = Run(asyncio.SelectorEventLoop)

    async def story() -> None:
        loop: Any = asyncio.get_running_loop()
        make, gone = (
            loop._make_socket_transport,
            [OSError(22, "Invalid argument")],
        )  # the error of macOS for such a socket

        def make_or_raise(*arguments: Any, **keywords: Any) -> Any:
            if gone:
                raise gone.pop()
            return make(*arguments, **keywords)

        loop._make_socket_transport = make_or_raise
        async with serving(read_all) as server:
            async with connected(server) as peer:
                assert await peer.hear_all() == b""
            async with connected(server) as peer:
                await peer.send(HEADER)
                peer.sock.shutdown(socket.SHUT_WR)
                assert await peer.hear_all() == b""

    run(story)


SERVERS = {
    "start_server": """
import asyncio
from proxyprotocol.asyncio import start_server

async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()

async def main():
    server = await start_server(echo, "127.0.0.1", 0, timeout=60)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
""",
    "socketserver": """
import socketserver
from proxyprotocol.sync import ProxyProtocolMixIn

class Server(ProxyProtocolMixIn, socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 100

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(100):
            self.request.sendall(data)

server = Server(("127.0.0.1", 0), Echo)
print(server.server_address[1], flush=True)
server.serve_forever()
""",
}


@pytest.mark.parametrize("source", SERVERS.values(), ids=SERVERS)
def test_without_file_descriptors_a_server_logs_one_line_pauses_and_serves_again(tmp_path: Path, source: str) -> None:
    program = Program([sys.executable, "-c", source], tmp_path)
    try:
        port, pid = int(program.line()), program.pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)) for _ in range(90)]
            for client in clients:
                client.sendall(HEADER + b"hello")
            wait_for(lambda: "accepted" in program.errors())
            before = processor_time(pid)
            time.sleep(1.2)  # the server tries once more in this time
            assert processor_time(pid) - before < 0.3
            for client in clients[:45]:
                client.close()
            assert clients[-1].recv(10) == b"hello"  # the server serves the client that waited
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(HEADER + b"hello")
            assert client.recv(10) == b"hello"
    finally:
        said = program.stop()
    start, said, end = said.split("\n")
    assert start.startswith(f"Reads version 1 and 2 headers on 127.0.0.1:{port} from everybody: ")
    assert (said, end) == ("No more connections are accepted for now: Too many open files", "")


HALF_HEADERS = """
import asyncio, socket
from proxyprotocol import HeaderPolicy
from proxyprotocol.asyncio import start_server

def maps():
    with open("/proc/self/maps") as lines:
        return len(lines.readlines())

async def main():
    refused = asyncio.Queue()
    # without a decision the bytes are kept as they came
    rules = {"policy": HeaderPolicy.OPTIONAL, "on_refused": lambda error, peer: refused.put_nowait(error)}
    server = await start_server(lambda reader, writer: None, "127.0.0.1", 0, timeout=60, **rules)
    address, clients, before = server.sockets[0].getsockname(), [], maps()
    for number in range(300):
        clients.append(socket.create_connection(address))
        clients[-1].sendall(b"PRO")
        await asyncio.sleep(0)
    with socket.create_connection(address) as last:
        last.sendall(b"PROXY wrong\\r\\n")
        await refused.get()
    print(maps() - before)

asyncio.run(main())
"""


def test_half_a_header_holds_no_memory_map() -> None:
    # asyncio reads 256 KiB: with musl's malloc always, and with this variable with glibc's, each read has its own map
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", HALF_HEADERS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 30
