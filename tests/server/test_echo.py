"""The proxyprotocol-echo command, as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyprotocol.server._relay.options import parse_listener
from proxyprotocol.server.echo import add_arguments, main, send_back
from tests.interop._certificates import SERVER_NAME, Certificates
from tests.interop._programs import Program, wait_for
from tests.server.programs import processor_time
from tests.server.relays import PATIENCE, in_thread, receive_all

HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"


class Echo(Program):
    """The command, running."""

    def __init__(self, address: str, directory: Path) -> None:
        super().__init__([sys.executable, "-m", "proxyprotocol.server.echo", address], directory)
        wait_for(lambda: "Listening on" in self.errors() or not self.running())

    def connect(self) -> socket.socket:
        port = self.errors().split("Listening on 127.0.0.1:")[1].split()[0]
        return socket.create_connection(("127.0.0.1", int(port)), PATIENCE)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Echo]]:
    """Start the command."""
    with contextlib.ExitStack() as stack:

        def started(address: str) -> Echo:
            echo = Echo(address, tmp_path)
            stack.callback(echo.stop)
            return echo

        yield started


def test_without_an_address_it_listens_on_localhost() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    address = parse_listener(parser.parse_args([]).address).address
    assert (address.host, address.port) == ("127.0.0.1", 10007)


def test_the_bytes_after_the_header_are_sent_back(start: Callable[[str], Echo]) -> None:
    echo = start("127.0.0.1:0")
    with echo.connect() as client:
        client.sendall(HEADER + b"hello")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"hello"
    wait_for(lambda: "Closed" in echo.errors())
    log = echo.stop()
    assert "Opened 192.0.2.1:1000 (relayed by 127.0.0.1:" in log
    assert "the client has sent everything" in log
    assert "Traceback" not in log


def test_without_a_header_there_is_no_echo_unless_pp_noop_says_so(start: Callable[[str], Echo]) -> None:
    with start("127.0.0.1:0").connect() as client:
        client.sendall(b"hello")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
    echo = start("127.0.0.1:0?pp=noop")
    with echo.connect() as client:
        client.sendall(HEADER)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == HEADER
    assert "relayed by" not in echo.stop()


def test_the_log_says_what_is_read_from_whom_and_names_the_option_of_a_refusal(start: Callable[[str], Echo]) -> None:
    echo = start("127.0.0.1:0?pp=v1&trusted=127.0.0.0/8")
    with echo.connect() as client:
        where = "{}:{}".format(*client.getpeername())
        client.sendall(b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
    log = echo.stop()
    assert f"Reads version 1 headers on {where} from 127.0.0.0/8\n" in log
    assert f" on {where}: A version 2 header came, but only version 1 is accepted here (at byte 0); see pp\n" in log


def test_tls_after_the_header(start: Callable[[str], Echo], certificates: Certificates) -> None:
    with start(f"ssl://127.0.0.1:0?cert={certificates.server}").connect() as client:
        client.sendall(HEADER)
        with certificates.client_context().wrap_socket(client, server_hostname=SERVER_NAME) as secured:
            secured.sendall(b"hello")
            assert secured.recv(10) == b"hello"


def test_a_unix_socket_is_removed_at_the_end(start: Callable[[str], Echo], short_path: Path) -> None:
    path = short_path / "echo"
    echo = start(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(HEADER + b"hello")
        assert client.recv(10) == b"hello"
    assert "Traceback" not in echo.stop()
    assert not path.exists()


def test_a_reset_is_one_line_in_the_log(start: Callable[[str], Echo]) -> None:
    echo = start("127.0.0.1:0")
    client = echo.connect()
    client.sendall(HEADER)
    wait_for(lambda: "Opened" in echo.errors())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()
    wait_for(lambda: "Connection reset by peer" in echo.errors())
    assert "Traceback" not in echo.stop()


def test_with_few_file_descriptors_it_neither_floods_the_log_nor_spins_and_serves_again(
    start: Callable[[str], Echo],
) -> None:
    echo = start("127.0.0.1:0?pp=noop")
    resource.prlimit(echo.pid, resource.RLIMIT_NOFILE, (64, 64))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(echo.connect()) for _ in range(100)]
        wait_for(lambda: "No more connections are accepted for now: Too many open files" in echo.errors())
        before = processor_time(echo.pid)
        time.sleep(1)
        assert processor_time(echo.pid) - before < 0.3
        assert len(clients) == 100
    with echo.connect() as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
    log = echo.stop()
    assert "Traceback" not in log
    assert log.count("No more connections") == 1


def test_a_client_that_does_not_read_its_echo_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyprotocol.server.echo._IDLE", 0.3)
    near, far = socket.socketpair()

    def send_and_end() -> None:
        far.sendall(b"x" * 1_000_000)
        far.shutdown(socket.SHUT_WR)

    async def story() -> str:
        reader, writer = await asyncio.open_connection(sock=near)
        writer.transport.set_write_buffer_limits(1 << 24)  # otherwise drain() would wait earlier
        return await send_back(reader, writer)

    thread = in_thread(send_and_end)
    with far:
        assert asyncio.run(asyncio.wait_for(story(), PATIENCE)) == "nothing has moved for 0.3 seconds"
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("a", "'a' is not an address such as HOST:PORT, ssl://HOST:PORT, unix:PATH or systemd:NAME"),
        (":0?pp=v3", "pp= takes noop, detect, v1 or v2, not 'v3'"),
        ("192.0.2.1:1", "Cannot listen on 192.0.2.1:1: Cannot assign requested address"),
    ],
)
def test_a_wrong_address_is_one_sentence(address: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([address]) == 2
    assert capsys.readouterr().err == f"proxyprotocol-echo: {sentence}\n"
