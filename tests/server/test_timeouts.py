"""The relay's time-outs: for idle connections, destinations and headers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

import pytest

from proxyprotocol import ProxyProtocolV1, ProxyProtocolV2
from tests.interop._programs import wait_for
from tests.server.programs import Starter
from tests.server.relays import PATIENCE, Relaying, in_thread, lines
from tests.server.test_header import closed, result
from tests.server.test_trouble import first

HEADER = ProxyProtocolV1().pack(result())


def test_an_idle_connection_is_ended_and_a_busy_one_is_not(
    relaying: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, idle_timeout=0.6)
    idle = relaying.keep(running.connect())
    first = backend.accept().sock
    busy = relaying.keep(running.connect())
    backend.accept()
    stop = threading.Event()

    def talk() -> None:
        while not stop.wait(0.1):
            busy.sendall(b"x")

    thread = in_thread(talk)
    try:
        with pytest.raises(ConnectionResetError):
            idle.recv(10)
        with pytest.raises(ConnectionResetError):
            first.recv(10)
        time.sleep(0.7)  # longer than it may be idle
        assert running.open == 1
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert any(line.endswith("nothing has moved for 0.6 seconds") for line in lines(caplog))


def test_a_slow_reader_is_not_idle(relaying: Relaying) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, idle_timeout=0.6)
    client = relaying.keep(running.connect(room=4096))  # so that the relay keeps the bytes
    server = backend.accept().sock
    # while the relay does nothing, so that it reads all at once
    running.call(lambda: server.sendall(b"x" * 60_000))
    received = 0
    while received < 60_000 and (data := client.recv(1000)):
        received += len(data)
        time.sleep(0.02)
    assert received == 60_000


def test_a_destination_that_does_not_answer_closes_the_client(
    relaying: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as full:
        # a queue of one that is full: the next connection is not answered
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        while True:
            sock = socket.socket()
            sock.settimeout(0.3)
            waiting.append(sock)
            try:
                sock.connect(full.getsockname())
            except TimeoutError:
                break
        running = relaying.relay(f"127.0.0.1:{full.getsockname()[1]}", connect_timeout=0.3)
        client = relaying.keep(running.connect())

        assert client.recv(10) == b""
        for sock in waiting:
            sock.close()
    assert lines(caplog)[-1].endswith("it did not answer within 0.3 seconds")


@pytest.mark.parametrize("size", [0, 10_000])
def test_a_header_in_the_socket_at_its_deadline_is_read(relaying: Relaying, size: int) -> None:
    header = ProxyProtocolV2().pack(result(b"\xea" + size.to_bytes(2, "big") + bytes(size)))
    backend = relaying.backend()
    running = relaying.relay(backend.address, "127.0.0.1:0?accept=detect&max_header=20000")
    client = relaying.keep(running.connect())
    wait_for(lambda: running.open == 1)

    def stall() -> None:
        client.sendall(header + b"hello")
        first(running).expired()

    running.call(stall)
    accepted = backend.accept()
    assert accepted.result is not None
    assert accepted.result.peername == ("192.0.2.1", 1000)
    assert accepted.first == b"hello"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"PROXY TCP4", "No complete PROXY protocol header came within 5 seconds, only 10 bytes"),
        (b"GET / HTTP/1.1", "GET"),
    ],
)
def test_the_refusal_at_the_deadline_tells_what_is_in_the_socket(
    relaying: Relaying, caplog: pytest.LogCaptureFixture, sent: bytes, said: str
) -> None:
    running = relaying.relay(relaying.backend().address, "127.0.0.1:0?accept=detect")
    client = relaying.keep(running.connect())
    wait_for(lambda: running.open == 1)

    def stall() -> None:
        client.sendall(sent)
        first(running).expired()

    running.call(stall)
    assert closed(client)
    (line,) = lines(caplog)
    assert said in line


def test_a_relay_stopped_for_longer_than_the_header_time_out_serves_the_clients_that_sent_a_header(
    start: Starter,
) -> None:
    server = start(source="127.0.0.1:0?accept=detect&timeout=0.5", options="?pp=noop")
    files = f"/proc/{server.process.pid}/fd"
    with contextlib.ExitStack() as stack:
        server.wait_for_line("Listening on")
        before = len(os.listdir(files))
        clients = [stack.enter_context(server.connect()) for _ in range(20)]
        wait_for(lambda: len(os.listdir(files)) == before + 20)
        server.process.send_signal(signal.SIGSTOP)
        try:
            for client in clients:
                client.sendall(HEADER + b"hello")
            time.sleep(1)
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert [start.backend.accept(header=False).sock.recv(10) for _ in clients] == [b"hello"] * 20
    with server.connect() as silent:
        assert closed(silent)
