"""How long the relay waits: for bytes that move, and for a destination."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tests._relay import PATIENCE, Relaying, in_thread, lines, relaying

__all__ = ["relaying"]  # a fixture


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


def test_a_reader_that_is_slow_is_not_idle(relaying: Relaying) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, idle_timeout=0.6)
    client = relaying.keep(running.connect(room=4096))  # it is the relay that keeps the bytes
    server = backend.accept().sock
    # while the relay does nothing, so that it reads all at once
    running.call(lambda: server.sendall(b"x" * 60_000))
    received = 0
    while received < 60_000 and (data := client.recv(1000)):
        received += len(data)
        time.sleep(0.02)
    assert received == 60_000


def test_a_destination_that_does_not_answer_is_given_up(relaying: Relaying, caplog: pytest.LogCaptureFixture) -> None:
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
