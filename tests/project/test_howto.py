"""The adapter that docs/howto/adapter.rst shows, against real connections."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.interop._programs import Program, connect, receive_all, wait_for
from tests.vectors import IPV4_BLOCK, LOCAL, PROXY, v2

V1 = b"PROXY TCP4 203.0.113.7 198.51.100.9 56324 443\r\n"
V2 = v2(PROXY, 0x11, IPV4_BLOCK)
HEADERS = pytest.mark.parametrize(
    ("header", "client"), [(V1, ("203.0.113.7", 56324)), (V2, ("192.0.2.1", 1000))], ids=["v1", "v2"]
)


class Adapter:
    """The running example."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.port = int(program.line().removeprefix("Listening on 127.0.0.1 "))

    def connect(self) -> socket.socket:
        return connect(("127.0.0.1", self.port))

    def assert_refused(self, client: socket.socket, reason: str) -> None:
        """The connection ends, the application never ran, and the log says why."""
        with suppress(ConnectionResetError):  # also an end: the server had unread bytes
            assert client.recv(1) == b""
        host, port = client.getsockname()
        wait_for(lambda: f"Refused a connection from {host}:{port}: {reason}" in self.program.errors())


@pytest.fixture(scope="module")
def start(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Adapter]]:
    """Start the adapter, once for each pair of arguments.

    At the end each must still run, must have logged no traceback, and must have served no client that a test expects it
    to refuse.
    """
    running: dict[tuple[str, float], Adapter] = {}
    with ExitStack() as stack:

        def end(adapter: Adapter) -> None:
            assert adapter.program.running()
            errors = adapter.program.stop()
            assert "Traceback" not in errors, errors
            assert adapter.program.remaining_lines() == [], "it served a client that it should have refused"

        def start(*, trusted: str = "127.0.0.1", timeout: float = 20) -> Adapter:
            key = trusted, timeout
            if key not in running:
                script = project_root / "examples" / "selectors_echo.py"
                command = [sys.executable, str(script), "0", trusted, str(timeout)]
                adapter = running[key] = Adapter(Program(command, tmp_path_factory.mktemp("adapter")))
                stack.callback(end, adapter)
            return running[key]

        yield start


@HEADERS
def test_the_application_gets_the_client_and_the_bytes_after_the_header(
    start: Callable[..., Adapter], header: bytes, client: tuple[str, int]
) -> None:
    adapter = start()
    with adapter.connect() as sock:
        sock.sendall(header + b"hello")
        assert receive_all(sock, 5) == b"hello"
        sock.sendall(b" again")
        assert receive_all(sock, 6) == b" again"
    assert adapter.program.line() == f"Client {client}"


@HEADERS
def test_a_header_may_come_byte_by_byte(start: Callable[..., Adapter], header: bytes, client: tuple[str, int]) -> None:
    adapter = start()
    with adapter.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header + b"hello":
            sock.sendall(bytes([byte]))
        assert receive_all(sock, 5) == b"hello"
    assert adapter.program.line() == f"Client {client}"


def test_a_header_that_names_no_client_leaves_the_proxy_s_address(start: Callable[..., Adapter]) -> None:
    adapter = start()
    with adapter.connect() as sock:
        sock.sendall(v2(LOCAL, 0x00, b"") + b"hello")
        assert receive_all(sock, 5) == b"hello"
        assert adapter.program.line() == f"Client {sock.getsockname()}"


def test_a_peer_that_is_not_trusted_is_refused(start: Callable[..., Adapter]) -> None:
    adapter = start(trusted="192.0.2.0/24")
    with adapter.connect() as sock:
        adapter.assert_refused(sock, "The peer is not one of the trusted proxies")


def test_bytes_that_are_not_a_header_are_refused(start: Callable[..., Adapter]) -> None:
    adapter = start()
    with adapter.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        adapter.assert_refused(sock, "There is no PROXY protocol header")


def test_a_cut_header_is_refused(start: Callable[..., Adapter]) -> None:
    adapter = start()
    with adapter.connect() as sock:
        sock.sendall(V2[:-1])
        sock.shutdown(socket.SHUT_WR)
        adapter.assert_refused(sock, "The PROXY protocol header is incomplete")


def test_a_header_that_comes_too_slowly_is_refused(start: Callable[..., Adapter]) -> None:
    adapter = start(timeout=0.2)
    with adapter.connect() as silent, adapter.connect() as slow:
        slow.sendall(V1[:10])
        adapter.assert_refused(silent, "No complete PROXY protocol header came within 0.2 seconds, only 0 bytes")
        adapter.assert_refused(slow, "No complete PROXY protocol header came within 0.2 seconds, only 10 bytes")
