"""``twistd proxyprotocol`` as a subprocess: the echo server, the relay, and both in a chain."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol.twisted.service import RelayFactory
from tests.interop._applications import twistd
from tests.interop._programs import PATIENCE, Program, connect, receive_all, wait_for
from tests.on_twisted.reactors import Log, accept
from tests.vectors import IPV4_BLOCK, LOCAL, PROXY, tlv, v2

Start = Callable[..., int]

TLVS = tlv(0x02, b"shop.example") + tlv(0xE4, b"\x01\x02")
LOOPBACK = "tcp:0:interface=127.0.0.1"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts commands, and returns the ports that they listen on."""
    programs: list[Program] = []

    def begin(*arguments: str) -> int:
        directory = tmp_path / str(len(programs))
        directory.mkdir()
        program = Program(twistd("proxyprotocol", *arguments), directory)
        programs.append(program)
        while (listening := re.search(r" starting on (\d+)$", program.line())) is None:
            pass
        return int(listening[1])

    yield begin
    for program in reversed(programs):
        assert "Traceback" not in program.stop()
        assert not any("Traceback" in line for line in program.remaining_lines())


def echoed(port: int, data: bytes) -> tuple[str, bytes]:
    """Send bytes and half-close; return the echo server's first line, and the rest."""
    with connect(("127.0.0.1", port)) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        line, _, rest = receive_all(client, 1 << 24).partition(b"\n")
    return line.decode(), rest


def test_echo_names_the_client_and_sends_back_all_data(start: Start) -> None:
    line, rest = echoed(start("echo", "--listen", f"proxyprotocol:{LOOPBACK}"), v2(PROXY, 0x11, IPV4_BLOCK) + b"hello")
    assert line.startswith("You are 192.0.2.1:1000, ProxyResultIPv4(")
    assert rest == b"hello"


@pytest.mark.parametrize(
    ("options", "starts", "refusal"),
    [
        (
            ":ppTrusted=192.0.2.0/24",
            "from 192.0.2.0/24",
            "The peer is not one of the trusted proxies; if it is your proxy, add it to ppTrusted",
        ),
        (
            "",
            "from everybody: anyone who can connect can claim any address; name your proxies with ppTrusted=..., or "
            "say ppTrusted=any",
            "There is no PROXY protocol header: the data begins with b'GET / HTTP/1.0\\r\\n' (at byte 0); if 127.0.0.1 "
            "is your proxy, make it send the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on); see ppPolicy",
        ),
    ],
)
def test_the_service_logs_its_start_and_its_refusals(tmp_path: Path, options: str, starts: str, refusal: str) -> None:
    program = Program(twistd("proxyprotocol", "echo", "--listen", f"proxyprotocol:{LOOPBACK}{options}"), tmp_path)
    try:
        while (
            found := re.search(r"Reads version 1 and 2 headers on (127\.0\.0\.1:(\d+)) (.*)", program.line())
        ) is None:
            pass
        assert found[3] == starts
        with contextlib.suppress(ConnectionError), connect(("127.0.0.1", int(found[2]))) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.recv(1)
        while "Refused" not in (line := program.line()):
            assert "Reads" not in line, "the start is logged twice"
        assert re.search(r" Refused a connection from 127\.0\.0\.1:\d+ on ", line)
        assert line.endswith(f" on {found[1]}: {refusal}")
    finally:
        assert "Traceback" not in program.stop()


def test_a_service_without_a_header_says_so(tmp_path: Path) -> None:
    program = Program(twistd("proxyprotocol", "echo", "--listen", LOOPBACK), tmp_path)
    try:
        port = ""
        while (
            found := re.search(r"Reads no PROXY protocol headers on 127\.0\.0\.1:(\d+)$", line := program.line())
        ) is None:
            port = line.rpartition(" starting on ")[2] if " starting on " in line else port
        assert found[1] == port
    finally:
        program.stop()


def test_echo_works_without_a_header(start: Start) -> None:
    line, rest = echoed(start("echo", "--listen", LOOPBACK), b"hello")
    assert re.fullmatch(r"You are 127\.0\.0\.1:\d+, None", line)
    assert rest == b"hello"


@pytest.mark.parametrize(
    ("header", "client"),
    [(v2(PROXY, 0x11, IPV4_BLOCK, TLVS), "192.0.2.1:1000"), (v2(LOCAL, 0x00), r"127\.0\.0\.1:\d+")],
    ids=["PROXY", "LOCAL"],
)
def test_a_relay_passes_on_the_client_of_its_header(start: Start, header: bytes, client: str) -> None:
    """For LOCAL, the relay names the peer that connected."""
    echo = start("echo", "--listen", f"proxyprotocol:{LOOPBACK}")
    relay = start("relay", "--listen", f"proxyprotocol:{LOOPBACK}", "--connect", f"proxyprotocol:tcp:127.0.0.1:{echo}")
    line, rest = echoed(relay, header + b"hello")
    assert re.match(rf"You are {client}, ProxyResult", line)
    assert ("shop.example" in line) == (TLVS in header)
    assert rest == b"hello"


def test_a_relay_without_a_header_names_the_peer_that_connected(start: Start) -> None:
    echo = start("echo", "--listen", f"proxyprotocol:{LOOPBACK}")
    relay = start("relay", "--listen", LOOPBACK, "--connect", f"proxyprotocol:tcp:127.0.0.1:{echo}:ppVersion=v1")
    with connect(("127.0.0.1", relay)) as client:
        own = client.getsockname()[1]
        client.shutdown(socket.SHUT_WR)
        line = receive_all(client, 1 << 16).decode()
    assert line.startswith(f"You are 127.0.0.1:{own}, ProxyResultIPv4(")
    assert f"{relay}" in line


def test_an_endpoint_with_a_result_sends_its_own(start: Start) -> None:
    echo = start("echo", "--listen", f"proxyprotocol:{LOOPBACK}")
    said = r"ppSource=203.0.113.7\:5678:ppDest=198.51.100.9\:443"
    relay = start("relay", "--listen", LOOPBACK, "--connect", f"proxyprotocol:tcp:127.0.0.1:{echo}:{said}")
    assert echoed(relay, b"")[0].startswith("You are 203.0.113.7:5678, ")


def test_megabytes_arrive_whole_in_both_directions(start: Start) -> None:
    """A relay that ignored the pace of the slower side would lose data, or hang."""
    relay = start("relay", "--listen", LOOPBACK, "--connect", f"tcp:127.0.0.1:{start('echo', '--listen', LOOPBACK)}")
    data = os.urandom(1 << 20) * 4
    received = bytearray()
    with connect(("127.0.0.1", relay)) as client:
        client.setblocking(False)
        unsent = memoryview(data)
        while unsent:
            with contextlib.suppress(BlockingIOError):
                unsent = unsent[client.send(unsent[: 1 << 16]) :]
            with contextlib.suppress(BlockingIOError):
                received += client.recv(1 << 16)
        client.setblocking(True)
        client.settimeout(PATIENCE)
        client.shutdown(socket.SHUT_WR)
        received += receive_all(client, 1 << 24)
    assert received.partition(b"\n")[2] == data


def test_a_destination_that_refuses_drops_only_that_client(start: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # but never listen
        relay = start("relay", "--listen", LOOPBACK, "--connect", f"tcp:127.0.0.1:{free.getsockname()[1]}")
        for _ in range(2):
            with connect(("127.0.0.1", relay)) as client, contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""


def test_an_endpoint_that_raises_an_error_drops_only_that_client(log: Log) -> None:
    class Broken:
        def connect(self, factory: Any) -> Any:
            raise ZeroDivisionError("in connect")

    transport = accept(RelayFactory(Broken()))
    assert transport.aborts == 1
    transport.lose()
    assert log.lines == [("warn", "Cannot relay 10.1.2.3:50000: in connect")]


def test_a_connection_closes_with_its_second_half(start: Start, tmp_path: Path) -> None:
    relay = start("relay", "--listen", LOOPBACK, "--connect", f"tcp:127.0.0.1:{start('echo', '--listen', LOOPBACK)}")
    descriptors = [Path("/proc", path.read_text(), "fd") for path in tmp_path.glob("*/twistd.pid")]

    def sockets() -> int:
        count = 0
        for path in (path for folder in descriptors for path in folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # closed in the meantime
                count += os.readlink(path).startswith("socket:")
        return count

    before = sockets()
    for _ in range(5):
        with connect(("127.0.0.1", relay)) as client:
            client.shutdown(socket.SHUT_WR)
            receive_all(client, 1 << 16)
    wait_for(lambda: sockets() == before)


def test_a_reset_is_passed_on_as_a_reset(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = start("relay", "--listen", LOOPBACK, "--connect", f"tcp:127.0.0.1:{server.getsockname()[1]}")
        with connect(("127.0.0.1", relay)) as client:
            accepted, _ = server.accept()
            accepted.sendall(b"half of an answer")
            assert receive_all(client, 17) == b"half of an answer"
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_an_occupied_port_is_reported_and_ends_the_program(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = twistd("proxyprotocol", "echo", "--listen", f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1")
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    output = ended.stdout + ended.stderr
    assert "Couldn't listen on 127.0.0.1:" in output
    assert "Traceback" not in output
    assert ended.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "The command is missing: echo or relay"),
        (("echo",), "--listen is missing: pass an endpoint string"),
        (("relay", "--listen", "tcp:1"), "--connect is missing: pass an endpoint string"),
        (("echo", "--listen", "proxyprotocol:tcp:1:ppFoo=1"), "unknown option ppFoo; "),
        (("relay", "--listen", "tcp:1", "--connect", "tcp"), "--connect tcp: "),
        (("echo", "--listen", "systemd:domain=INET:index=0"), "systemd did not pass this socket"),
        (("echo", "--listen", "ssl:1:privateKey=/nowhere.pem"), "No such file or directory: '/nowhere.pem'"),
        (("echo", "--listen", "proxyprotocol:systemd:domain=INET:index=0"), "systemd did not pass this socket"),
    ],
)
def test_a_wrong_command_line_is_reported(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    command = twistd("proxyprotocol", *arguments)
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    output = ended.stdout + ended.stderr  # Twisted sets the status: 1, or 0 in the oldest version
    assert message in output.splitlines()[-1]
    assert "Traceback" not in output


AS_SYSTEMD_STARTS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="relay.socket", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_the_command_listens_on_sockets_of_systemd(tmp_path: Path) -> None:
    """As in examples/systemd: systemd passes a listening socket as descriptor 3."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        command = twistd("proxyprotocol", "echo", "--listen", "proxyprotocol:systemd:domain=INET:index=0")
        process = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD_STARTS, str(listener.fileno()), *command],
            cwd=tmp_path,
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
        )
        try:
            line, rest = echoed(listener.getsockname()[1], v2(PROXY, 0x11, IPV4_BLOCK) + b"hello")
        finally:
            process.terminate()
            process.wait(PATIENCE)
    assert line.startswith("You are 192.0.2.1:1000, ")
    assert rest == b"hello"
