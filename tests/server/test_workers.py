"""Several processes that serve one port: proxyprotocol-server --workers."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.interop._programs import wait_for
from tests.server.programs import Starter, alive, children
from tests.server.relays import PATIENCE, receive_all


def test_several_workers_share_one_port_and_a_dead_one_is_replaced(start: Starter) -> None:
    server = start("--workers", "2")
    server.wait_for_line("Listening on", 2)
    workers = children(server)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    server.wait_for_line("Worker . ended by signal 9; a new one replaces it")
    server.wait_for_line("Listening on", 3)
    for _ in range(6):
        with server.connect() as client:
            client.sendall(b"x")
            start.backend.accept().sock.close()
            assert receive_all(client) == b""
    server.process.send_signal(signal.SIGHUP)
    assert server.end() == 0
    assert not any(alive(pid) for pid in workers)


def test_workers_end_with_their_parent(start: Starter) -> None:
    server = start("--workers", "2")
    server.wait_for_line("Listening on", 2)
    workers = children(server)
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers))


def test_workers_drain_on_when_their_parent_is_killed_while_it_ends(start: Starter) -> None:
    server = start("--workers", "2")
    server.wait_for_line("Listening on", 2)
    with server.connect() as client:
        behind = start.backend.accept().sock
        server.process.send_signal(signal.SIGTERM)
        start.wait_until_refused(client.getpeername())
        left = children(server)
        server.process.kill()
        server.process.wait()
        time.sleep(0.2)  # a worker that ended would do it now
        client.sendall(b"still")
        assert behind.recv(10) == b"still"
    behind.close()
    wait_for(lambda: not any(alive(pid) for pid in left))


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
