"""Listening sockets on which nothing reads headers."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.interop._programs import PATIENCE, Program, reserved_port, wait_for
from tests.run.test_launcher import python

LINE = "Nothing reads headers on 127.0.0.1:"
ACCEPT = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"served")
    connection.close()
"""
OTHERS = {
    "duplicate": ACCEPT.replace("while", "listener = listener.dup()\nwhile"),
    "inherited": ACCEPT.replace("while", "listener = socket.socket(fileno=listener.detach())\nwhile"),
    "select": ACCEPT.replace("True:", "True:\n    __import__('select').select([listener], [], [])"),
    "gevent": "from gevent import monkey; monkey.patch_all()" + ACCEPT,
    "gevent-socket": """
import sys
from gevent import socket
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
print("listening", flush=True)
while True:
    listener.accept()[0].sendall(b"served")
""",
    "eventlet": "import eventlet; eventlet.monkey_patch()" + ACCEPT,
    "add_reader": """
import asyncio, socket, sys
async def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    listener.setblocking(False)
    def accept():
        try:
            listener.accept()[0].sendall(b"served")
        except BlockingIOError:
            pass
    asyncio.get_running_loop().add_reader(listener, accept)
    print("listening", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
""",
}


@contextlib.contextmanager
def running(program: str, directory: Path, options: Sequence[str] = ()) -> Iterator[tuple[Program, int]]:
    with reserved_port() as port:
        words = ["-m", "proxyprotocol", "run", "--trusted", "any", *options, "--", sys.executable, "-c", program]
        started = Program([sys.executable, *words, str(port)], directory)
        try:
            assert started.line() == "listening"
            yield started, port
        finally:
            started.stop()


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        try:
            return connection.recv(100)
        except ConnectionResetError:
            return b""


def test_a_listener_is_told_before_its_first_connection_and_refuses_each(tmp_path: Path) -> None:
    with running(ACCEPT, tmp_path) as (program, port):
        wait_for(lambda: LINE in program.errors())
        assert [ask(port), ask(port)] == [b"", b""]
        line = next(line for line in program.errors().splitlines() if LINE in line)
        assert f"{LINE}{port}: refuses every connection. If proxies connect there, put the relay before it: " in line
        assert "name the ports that read headers with --ports=..., or say --uncovered=allow" in line
        assert program.errors().count(LINE) == 1


@pytest.mark.parametrize("name", OTHERS)
def test_so_are_listeners_of_other_kinds(tmp_path: Path, name: str) -> None:
    with running(OTHERS[name], tmp_path) as (program, port):
        assert [ask(port), ask(port)] == [b"", b""]
        assert program.errors().count(LINE) == 1
        assert "Traceback" not in program.errors()


def test_uncovered_allow_serves_them_and_says_so(tmp_path: Path) -> None:
    with running(ACCEPT, tmp_path, ["--uncovered", "allow"]) as (program, port):
        assert ask(port) == b"served"
        assert f"{LINE}{port}: serves every connection, as --uncovered=allow says" in program.errors()


def test_ports_leave_out_all_other_listeners(tmp_path: Path) -> None:
    with running(ACCEPT, tmp_path, ["--ports", "1"]) as (program, port):
        assert [ask(port), ask(port)] == [b"served", b"served"]
        assert LINE not in program.errors()
        line = f"Reads no PROXY protocol headers on 127.0.0.1:{port}, which --ports does not name\n"
        assert program.errors().count(line) == 1


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works(tmp_path: Path, method: str) -> None:
    program = f"""if True:
        import multiprocessing
        multiprocessing.set_start_method({method!r})
        with multiprocessing.Manager() as manager:
            numbers = manager.list([1])
            process = multiprocessing.Process(target=numbers.append, args=(2,))
            process.start()
            process.join()
            print(list(numbers))
    """
    done = python(program)
    assert done.stdout == "[1, 2]\n", done.stderr
    assert "Nothing reads headers" not in done.stderr


def test_the_metrics_are_for_prometheus_without_a_header(tmp_path: Path) -> None:
    with reserved_port() as metrics:
        program = "import asyncio; asyncio.new_event_loop().close()" + ACCEPT
        with running(program, tmp_path, ["--metrics", str(metrics)]) as (_, port):
            with socket.create_connection(("127.0.0.1", metrics), PATIENCE) as connection:
                connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert connection.recv(15) == b"HTTP/1.0 200 OK"
            assert ask(port) == b""


TWISTED = """
import sys
from twisted.internet import protocol, reactor
class Peer(protocol.Protocol):
    def connectionMade(self):
        self.transport.write(self.transport.getPeer().host.encode())
        self.transport.loseConnection()
reactor.listenTCP(int(sys.argv[1]), protocol.Factory.forProtocol(Peer), interface="127.0.0.1")
reactor.callWhenRunning(print, "listening", flush=True)
reactor.run()
"""


@pytest.mark.parametrize("reactor", ["selectreactor", "asyncioreactor"])
def test_twisted_without_logging_says_what_it_reads_and_refuses(tmp_path: Path, reactor: str) -> None:
    program = f"from twisted.internet import {reactor}; {reactor}.install()" + TWISTED
    with running(program, tmp_path) as (started, port):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(b"PROXY TCP4 203.0.113.7 198.51.100.9 5678 443\r\n")
            assert connection.recv(100) == b"203.0.113.7"
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_for(lambda: "proxyprotocol: Refused a connection from" in started.errors())
        assert f"proxyprotocol: Reads version 1 and 2 headers on 127.0.0.1:{port} from everybody" in started.errors()
        assert "proxyprotocol: Switched on for Twisted " in started.errors()
        assert LINE not in started.errors()
