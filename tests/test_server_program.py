"""The proxyprotocol-server command as a process: its arguments, signals, limits, workers and metrics."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proxyprotocol
from proxyprotocol.server.main import main
from tests._relay import PATIENCE, Backend, Relaying, certificates, fill, in_thread, receive_all, relaying, short_path
from tests.interop._certificates import Certificates
from tests.interop._programs import Program, reserved_port, wait_for
from tests.test_server_tls import hello_with_name

__all__ = ["certificates", "relaying", "short_path"]  # fixtures


class Server:
    """The command, running; its log is read line by line.

    Args:
        arguments: Its arguments.
        directory: Where its log is written.
        files: How many file descriptors it may have; None for as many as this process.
        start_new_session: Whether it has a process group of its own.
    """

    def __init__(
        self, arguments: list[str], directory: Path, files: int | None = None, start_new_session: bool = False
    ) -> None:
        self.log_file = directory / f"{time.monotonic_ns()}.log"
        environment = {**os.environ, "PYTHONPATH": str(Path(proxyprotocol.__file__).parent.parent)}
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxyprotocol.server.main", *arguments],
                env=environment,
                stderr=log,
                preexec_fn=limit,
                start_new_session=start_new_session,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for_line(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until so many lines of the log match, and give the last."""

        def found() -> bool:
            assert self.process.poll() is None or re.search(pattern, self.log), self.log
            return len(re.findall(pattern, self.log)) >= count

        wait_for(found)
        return list(re.finditer(pattern, self.log))[-1]

    @property
    def port(self) -> int:
        return int(self.wait_for_line(r"Listening on \S+:(\d+) for")[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    @property
    def memory(self) -> int:
        """Its resident memory, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def processor_time(pid: int) -> float:
    """The processor time that a process has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Starter:
    """Starts the command, with one service to one server.

    Args:
        stack: What ends with the test.
        relaying: What starts servers.
        directory: Where logs are written.
    """

    def __init__(self, stack: contextlib.ExitStack, relaying: Relaying, directory: Path) -> None:
        self._stack, self._directory = stack, directory
        self.backend: Backend = relaying.backend()

    def __call__(self, *arguments: str, source: str = "127.0.0.1:0", options: str = "", **keywords: Any) -> Server:
        service = ["--service", source, self.backend.address + options]
        server = Server([*service, *arguments], self._directory, **keywords)
        self._stack.callback(self._stop, server)
        return server

    def wait_until_refused(self, address: tuple[str, int]) -> None:
        """Wait until nobody listens, and end the connections that came of asking."""
        wait_for(lambda: refused(address))
        self.end_others()

    def end_others(self) -> None:
        """End those that wait to be accepted."""
        self.backend.sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                self.backend.accept().sock.close()

    def _stop(self, server: Server) -> None:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        assert "Traceback" not in server.log


@pytest.fixture
def start(relaying: Relaying, tmp_path: Path) -> Iterator[Starter]:
    """What starts the command."""
    with contextlib.ExitStack() as stack:
        yield Starter(stack, relaying, tmp_path)


def test_a_unix_path_in_use_says_so_and_one_left_behind_is_taken(
    start: Starter, short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = short_path / "front"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    server = start(source=f"unix:{path}")
    server.wait_for_line("Listening on")
    assert main(["--service", f"unix:{path}", "b:1"]) == 2
    assert (
        capsys.readouterr().err
        == f"proxyprotocol-server: Cannot listen on UNIX socket '{path}': Address already in use\n"
    )
    start.end_others()  # which came of finding out whether somebody listens there
    assert server.end() == 0
    assert not path.exists()


def test_sigterm_stops_listening_at_once_and_lets_connections_end(start: Starter) -> None:
    server = start()
    client = server.connect()
    behind = start.backend.accept().sock
    address = client.getpeername()
    server.process.send_signal(signal.SIGTERM)

    start.wait_until_refused(address)
    client.sendall(b"still here")
    assert behind.recv(100) == b"still here"
    behind.close()
    client.close()
    assert server.process.wait(PATIENCE) == 0


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, PATIENCE).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def test_the_second_sigterm_ends_at_once(start: Starter) -> None:
    server = start()
    with server.connect() as client:
        start.backend.accept()
        server.process.send_signal(signal.SIGTERM)
        start.wait_until_refused(client.getpeername())
        assert server.end() == 0
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_what_does_not_end_in_time_is_ended(start: Starter) -> None:
    server = start("--drain", "0.2")
    with server.connect() as client:
        start.backend.accept()
        assert server.end() == 0
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_sighup_reads_certificates_and_ends_nothing(start: Starter, certificates: Certificates, tmp_path: Path) -> None:
    pem = tmp_path / "served.pem"
    pem.write_text(certificates.server.read_text())
    server = start(source=f"ssl://127.0.0.1:0?cert={pem}")
    server.wait_for_line("Listening on")
    pem.write_text("nothing")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_line("keeps its certificates: The certificate .* cannot be used")
    assert server.end() == 0


def test_with_few_file_descriptors_it_neither_spins_nor_floods_the_log_and_serves_again(start: Starter) -> None:
    server = start(files=64)
    address = ("127.0.0.1", server.port)
    ended = threading.Event()
    thread = in_thread(lambda: serve_until(start.backend, ended))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(640):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(address)
            server.wait_for_line("No more connections are accepted for now")
            before = processor_time(server.process.pid)
            time.sleep(1)
            assert processor_time(server.process.pid) - before < 0.3
        begin = time.monotonic()
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(b"me")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b"thanks"
        assert time.monotonic() - begin < 5  # 2 seconds, on a machine that does nothing else
    finally:
        ended.set()
        thread.join(2 * PATIENCE)
    assert server.end() == 0
    complaints = [line for line in server.log.splitlines() if not re.search("Opened|Closed|Listening", line)]
    assert len(complaints) == 1


def serve_until(backend: Backend, ended: threading.Event) -> None:
    """Thank whoever has said all, while others say nothing."""
    connections: list[socket.socket] = []
    backend.sock.settimeout(0)
    try:
        while not ended.is_set():
            for sock in select.select([backend.sock, *connections], [], [], 0.05)[0]:
                if sock is backend.sock:
                    connections.append(sock.accept()[0])
                elif not sock.recv(1000):
                    with contextlib.suppress(OSError):
                        sock.sendall(b"thanks")
                    sock.close()
                    connections.remove(sock)
    finally:
        for sock in connections:
            sock.close()


def test_a_stalled_reader_costs_little_memory(start: Starter) -> None:
    server = start()
    with server.connect() as client:
        # what the first transfer needs once is not the second's
        sent = fill(client)
        behind = start.backend.accept()
        client.shutdown(socket.SHUT_WR)
        assert len(behind.first) + len(receive_all(behind.sock)) == sent
    before = server.memory
    with server.connect() as client:
        assert fill(client) > 0
        assert server.memory - before < 1 << 20


def test_300_megabytes_are_exact_and_the_answer_comes_after_the_half_close(start: Starter) -> None:
    server = start()
    with server.connect() as client:
        behind = start.backend.accept().sock
        chunk = os.urandom(1 << 20)

        def send() -> None:
            for _ in range(300):
                client.sendall(chunk)
            client.shutdown(socket.SHUT_WR)

        thread = in_thread(send)
        buffer, received = bytearray(1 << 20), 0
        while size := behind.recv_into(buffer):
            at = received % len(chunk)
            expected = (chunk + chunk)[at : at + size]
            assert buffer[:size] == expected
            received += size
        thread.join(PATIENCE)
        assert received == 300 << 20
        behind.sendall(b"answer")
        behind.close()
        assert receive_all(client) == b"answer"


def test_several_workers_share_one_port_and_a_dead_one_is_replaced(start: Starter) -> None:
    server = start("--workers", "2")
    server.wait_for_line("Listening on", 2)
    workers = children(server)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    server.wait_for_line("Worker . has ended by signal 9, and is replaced")
    server.wait_for_line("Listening on", 3)
    for _ in range(6):
        with server.connect() as client:
            client.sendall(b"x")
            start.backend.accept().sock.close()
            assert receive_all(client) == b""
    server.process.send_signal(signal.SIGHUP)
    assert server.end() == 0
    assert not any(alive(pid) for pid in workers)


def children(server: Server) -> list[int]:
    path = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_end_with_their_parent(start: Starter) -> None:
    server = start("--workers", "2")
    server.wait_for_line("Listening on", 2)
    workers = children(server)
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers))


def test_workers_drain_and_a_second_signal_ends_them(start: Starter) -> None:
    server = start("--workers", "2")
    server.wait_for_line("Listening on", 2)
    with server.connect() as client:
        start.backend.accept()
        server.process.send_signal(signal.SIGTERM)
        start.wait_until_refused(client.getpeername())
        assert server.process.poll() is None
        assert server.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_drain_when_their_whole_group_is_told_to_end(start: Starter, number: signal.Signals) -> None:
    server = start("--workers", "2", start_new_session=True)
    server.wait_for_line("Listening on", 2)
    with server.connect() as client:
        behind = start.backend.accept().sock
        os.killpg(server.process.pid, number)
        start.wait_until_refused(client.getpeername())
        client.sendall(b"still")
        assert behind.recv(10) == b"still"
    behind.close()
    assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_metrics(start: Starter, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = start(
        "--metrics", str(port), "--workers", workers, source="127.0.0.1:0?accept=detect", options="?tlv=unique-id"
    )
    server.wait_for_line("Listening on", int(workers))
    with server.connect() as client:
        client.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\nhello")
        accepted = start.backend.accept()
        accepted.sock.sendall(b"hi")
        assert client.recv(10) == b"hi"
        with server.connect() as bad:
            bad.sendall(b"GET")
            with contextlib.suppress(ConnectionResetError):
                bad.recv(10)
        wait_for(lambda: scrape(port)["proxyprotocol_open_connections{}"] == 1)
        told = scrape(port)
    assert told["proxyprotocol_connections_total{}"] == 2
    assert told['proxyprotocol_headers_received_total{version="v1"}'] == 1
    assert told['proxyprotocol_headers_sent_total{version="v2"}'] == 1
    assert told['proxyprotocol_refusals_total{reason="malformed"}'] == 1
    assert told['proxyprotocol_bytes_total{direction="up"}'] == 5
    assert told['proxyprotocol_bytes_total{direction="down"}'] == 2


def scrape(port: int, host: str = "127.0.0.1") -> dict[str, float]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{host}:{port}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name if "{" in name else name + "{}": float(value) for name, _, value in samples}


def test_a_name_in_tls_that_is_none_is_a_line_in_the_log(start: Starter, certificates: Certificates) -> None:
    server = start(source=f"ssl://127.0.0.1:0?cert={certificates.server}", options="?tlv=authority")
    with server.connect() as client:
        client.sendall(hello_with_name(b"\xff\xfe\xfd.example"))
        server.wait_for_line("the TLS handshake failed")
    assert server.end() == 0
    assert len(re.findall("Python ignored an error: UnicodeDecodeError", server.log)) == 1
    assert "Traceback" not in server.log


SLOW_NAMES = """
import socket, sys, time
real = socket.getaddrinfo
def slow(host, *arguments, **keywords):
    if host == "slow.example":
        time.sleep(60)
    return real(host, *arguments, **keywords)
socket.getaddrinfo = slow
from proxyprotocol.server.main import main
sys.exit(main())
"""


def test_the_end_does_not_wait_for_a_name_server(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW_NAMES)
    command = [sys.executable, str(script), "--service", "127.0.0.1:0", "slow.example:80"]
    server = Program(command, tmp_path)
    try:
        wait_for(lambda: "Listening on" in server.errors())
        port = re.findall(r"Listening on \S+:(\d+) for", server.errors())[0]
        with socket.create_connection(("127.0.0.1", int(port)), PATIENCE):
            time.sleep(0.3)  # the look-up begins, which nothing tells
            os.kill(server._process.pid, signal.SIGTERM)
            wait_for(lambda: refused(("127.0.0.1", int(port))))
            os.kill(server._process.pid, signal.SIGTERM)
            wait_for(lambda: not server.running())
        assert "Traceback" not in server.errors()
        assert "the relay ends" in server.errors()
    finally:
        if server.running():
            os.kill(server._process.pid, signal.SIGKILL)
        server.stop()


WITHOUT_PROMETHEUS = """
import sys
sys.modules["prometheus_client"] = None
from proxyprotocol.server.main import main
sys.exit(main())
"""


def test_without_metrics_their_library_is_not_needed(tmp_path: Path) -> None:
    script = tmp_path / "without.py"
    script.write_text(WITHOUT_PROMETHEUS)
    server = Program([sys.executable, str(script), "--service", "127.0.0.1:0", "127.0.0.1:9"], tmp_path)
    try:
        wait_for(lambda: "Listening on" in server.errors() or not server.running())
    finally:
        log = server.stop()
    assert "Listening on" in log
    assert "Traceback" not in log


def test_to_reload_at_the_start_does_not_end_it(start: Starter) -> None:
    server = start("--workers", "2")
    wait_for(lambda: handles(server.process.pid, signal.SIGHUP))
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_line("Listening on", 2)
    assert server.end() == 0


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    caught = re.findall(r"SigCgt:\s+(\S+)", Path(f"/proc/{pid}/status").read_text())[0]
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_metrics_on_any_host_and_for_others_while_one_is_slow(start: Starter, host: str) -> None:
    with reserved_port("::1" if host == "[::1]" else "127.0.0.1") as port:
        pass
    server = start("--metrics", f"{host}:{port}")
    server.wait_for_line("Listening on")
    with socket.create_connection((host.strip("[]"), port), PATIENCE) as slow:
        slow.sendall(b"GET /")
        begin = time.monotonic()
        assert scrape(port, host)["proxyprotocol_open_connections{}"] == 0
        assert time.monotonic() - begin < 5


def test_quiet_logs_what_goes_wrong_and_nothing_else(start: Starter) -> None:
    with reserved_port() as port:
        server = start("-q", source=f"127.0.0.1:{port}?reuse_port=yes")
        wait_for(lambda: not refused(("127.0.0.1", port)))
        start.backend.sock.close()
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            assert client.recv(10) == b""
    server.wait_for_line("cannot connect to")
    assert server.end() == 0
    assert "Listening" not in server.log
    assert "Opened" not in server.log
