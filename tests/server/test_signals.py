"""Signals: the end of the proxyprotocol-server command, and reloading."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.interop._certificates import Certificates
from tests.interop._programs import wait_for
from tests.server.programs import Starter, handles, refused
from tests.server.relays import PATIENCE


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


def test_the_second_sigterm_ends_at_once(start: Starter) -> None:
    server = start()
    with server.connect() as client:
        start.backend.accept()
        server.process.send_signal(signal.SIGTERM)
        start.wait_until_refused(client.getpeername())
        assert server.end() == 0
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_connections_that_outlast_the_drain_time_are_ended(start: Starter) -> None:
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
    server.wait_for_line("keeps its old certificates: The certificate .* cannot be used")
    assert server.end() == 0


SLOW_NAMES = """
import socket, time
real = socket.getaddrinfo
def slow(host, *arguments, **keywords):
    if host == "slow.example" and not keywords.get("flags", 0) & socket.AI_NUMERICHOST:
        time.sleep(60)
    return real(host, *arguments, **keywords)
socket.getaddrinfo = slow
"""


def test_the_relay_ends_without_waiting_for_a_name_server(start: Starter) -> None:
    server = start(destination="slow.example:80", before=SLOW_NAMES)
    with server.connect() as client:
        time.sleep(0.3)  # let the look-up begin; it leaves no sign
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refused(client.getpeername()))
        assert server.end() == 0
    assert "the relay ends" in server.log


AT_ONCE = """
import importlib, os
module = importlib.import_module("{module}")
real = module.listen
def listen(*arguments, **keywords):
    sockets = real(*arguments, **keywords)
    os.kill(os.getpid(), {number})
    return sockets
module.listen = listen
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_right_after_listen_ends_the_relay_cleanly(
    start: Starter, short_path: Path, number: signal.Signals, workers: str
) -> None:
    before = AT_ONCE.format(module="proxyprotocol.server._process.services", number=int(number))
    server = start("--workers", workers, source=f"unix:{short_path}/front", before=before)
    assert server.process.wait(PATIENCE) == 0
    assert not (short_path / "front").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_after_listen_ends_the_echo_server_cleanly(start: Starter, number: signal.Signals) -> None:
    module = "proxyprotocol.server.echo"
    server = start.program(module, "127.0.0.1:0", before=AT_ONCE.format(module=module, number=int(number)))
    assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_right_after_listen_does_not_end_the_relay(start: Starter, workers: str) -> None:
    before = AT_ONCE.format(module="proxyprotocol.server._process.services", number=int(signal.SIGHUP))
    server = start("--workers", workers, before=before)
    server.wait_for_line("Listening on", int(workers))
    assert server.end() == 0


def test_sighup_during_the_start_does_not_end_the_relay(start: Starter) -> None:
    server = start("--workers", "2")
    wait_for(lambda: handles(server.process.pid, signal.SIGHUP))
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_line("Listening on", 2)
    assert server.end() == 0
