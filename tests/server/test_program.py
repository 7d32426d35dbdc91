"""The proxyprotocol-server command as a process: listeners, data, limits and log."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import resource
import select
import socket
import threading
import time
from pathlib import Path

import pytest

from proxyprotocol.server.main import main
from tests.interop._certificates import Certificates
from tests.interop._programs import reserved_port, wait_for
from tests.server.programs import Starter, processor_time, refused
from tests.server.relays import PATIENCE, Backend, in_thread, receive_all
from tests.server.tls import hello_with_name


def test_a_unix_path_in_use_is_an_error_and_a_stale_one_is_replaced(
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
    start.end_others()  # the ones that asked whether anything listens there
    assert server.end() == 0
    assert not path.exists()


def test_with_few_file_descriptors_it_neither_spins_nor_floods_the_log_and_serves_again(start: Starter) -> None:
    server = start(files=(64, 64))
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
            begin = time_of_its_own(server.process.pid)
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(b"me")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b"thanks"
        assert time_of_its_own(server.process.pid) - begin < 2
    finally:
        ended.set()
        thread.join(2 * PATIENCE)
    assert server.end() == 0
    complaints = [line for line in server.log.splitlines() if not re.search("Opened|Closed|Listening|Reads no", line)]
    assert len(complaints) == 1


def test_it_raises_its_file_limit_to_the_hard_limit(start: Starter) -> None:
    """The usual soft limit would be enough for 500 connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = start(files=(64, most))
    server.wait_for_line("Listening on")

    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (most, most)


def time_of_its_own(pid: int) -> float:
    """Seconds by a clock that stands still while others have the processor that a process waits for, as tests do."""
    waited = Path(f"/proc/{pid}/schedstat").read_text().split()[1]
    return time.monotonic() - int(waited) / 1e9


def serve_until(backend: Backend, ended: threading.Event) -> None:
    """Answer each client that has half-closed, while the others stay silent."""
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


def test_300_megabytes_arrive_unchanged_and_the_answer_follows_the_half_close(start: Starter) -> None:
    server = start()
    # random bytes: with repeated ones, two exchanged pieces would not show
    noise, sent = random.Random(300), hashlib.sha256()
    with server.connect() as client:
        behind = start.backend.accept().sock

        def send() -> None:
            for _ in range(300):
                piece = noise.randbytes(1 << 20)
                sent.update(piece)
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)

        thread = in_thread(send)
        buffer, received, count = bytearray(1 << 20), hashlib.sha256(), 0
        while size := behind.recv_into(buffer):
            received.update(memoryview(buffer)[:size])
            count += size
        thread.join(PATIENCE)
        assert count == 300 << 20
        assert received.hexdigest() == sent.hexdigest()
        behind.sendall(b"answer")
        behind.close()
        assert receive_all(client) == b"answer"


def test_an_invalid_name_in_tls_is_one_line_in_the_log(start: Starter, certificates: Certificates) -> None:
    server = start(source=f"ssl://127.0.0.1:0?cert={certificates.server}", options="?tlv=authority")
    with server.connect() as client:
        client.sendall(hello_with_name(b"\xff\xfe\xfd.example"))
        server.wait_for_line("the TLS handshake failed")
    assert server.end() == 0
    assert len(re.findall("Python ignored an error: UnicodeDecodeError", server.log)) == 1
    assert "Traceback" not in server.log


def test_quiet_logs_only_problems(start: Starter) -> None:
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
