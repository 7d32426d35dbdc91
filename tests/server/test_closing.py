"""The end of a relayed connection when the server has closed and the client still sends."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol.server._relay.link import Link
from tests.interop._certificates import Certificates
from tests.interop._programs import wait_for
from tests.server.relays import PATIENCE, Relaying, Running, fill, in_thread, lines, receive_all
from tests.server.tls import Encrypted, source

ANSWER = bytes(range(256)) * 1500


def unsent(sock: socket.socket) -> int:
    """How many bytes the peer's system has not taken."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def answer_and_go(server: socket.socket) -> None:
    """Answer with bytes still unread, and close: the server's system answers later bytes with a reset."""
    server.sendall(ANSWER)
    server.shutdown(socket.SHUT_WR)
    # closing earlier would reset the connection, and the relay might not get the end
    wait_for(lambda: not unsent(server))
    server.close()


@contextlib.contextmanager
def uploading(client: Any) -> Iterator[threading.Event]:
    """Upload until the event is set, or nothing more is taken."""
    enough = threading.Event()

    def upload() -> None:
        with contextlib.suppress(OSError):
            while not enough.is_set():
                client.sendall(b"x" * 50_000)

    thread = in_thread(upload)
    try:
        yield enough
    finally:
        enough.set()
        thread.join(PATIENCE)


def test_a_client_that_still_uploads_gets_the_whole_answer_after_the_server_closed(
    relaying: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address)
    client = relaying.keep(running.connect(room=4096))
    server = backend.accept().sock
    with uploading(client) as enough:
        server.recv(1000)
        thread = in_thread(lambda: answer_and_go(server))
        assert receive_all(client) == ANSWER
        thread.join(PATIENCE)
        assert running.open == 1  # the client is still sending
        enough.set()
    client.shutdown(socket.SHUT_WR)
    running.wait_until_empty()
    assert lines(caplog)[-1].endswith("both ends have sent everything")


def test_a_client_that_still_uploads_over_tls_gets_the_whole_answer(
    relaying: Relaying, certificates: Certificates
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates))
    raw = relaying.keep(running.connect(room=4096))
    client = Encrypted(raw, certificates.client_context(), server_side=False)
    client.sendall(b"x" * 50_000)
    server = backend.accept().sock
    thread = in_thread(lambda: answer_and_go(server))
    # in pieces, by one thread: OpenSSL does not allow two at once
    received = b""
    while piece := client.recv(1000):
        received += piece
        if len(received) < 200_000:
            client.sendall(b"x" * 20_000)
    assert received == ANSWER
    thread.join(PATIENCE)
    client.sendall(b"x" * 20_000)  # by which the relay learns that the server is gone
    # the end of the connection follows the end of TLS
    assert raw.recv(1) == b""
    raw.close()
    running.wait_until_empty()


def test_a_client_that_sends_everything_before_it_reads_does_not_hang_after_the_server_closed(
    relaying: Relaying,
) -> None:
    pair = relaying.connected()
    fill(pair.client)
    pair.server.sendall(ANSWER)
    pair.server.shutdown(socket.SHUT_WR)
    wait_for(lambda: not unsent(pair.server))
    pair.server.close()

    pair.client.sendall(b"x" * 20_000_000)
    assert receive_all(pair.client) == ANSWER


def test_a_client_that_never_stops_sending_is_closed_after_the_limit(
    relaying: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyprotocol.server._relay.link._LINGER", 0.3)
    monkeypatch.setattr("proxyprotocol.server._relay.link._MOST_LINGER", 1.2)
    pair = relaying.connected()
    with uploading(pair.client):
        answer_and_go(pair.server)
        begin = time.monotonic()
        pair.running.wait_until_empty()
    assert 0.9 < time.monotonic() - begin < 3


def test_a_silent_client_that_has_the_answer_is_closed_after_two_seconds(relaying: Relaying) -> None:
    pair = relaying.connected()
    fill(pair.client)
    begin = time.monotonic()
    answer_and_go(pair.server)
    assert receive_all(pair.client) == ANSWER
    pair.running.wait_until_empty()
    assert 1.5 < time.monotonic() - begin < 6  # 2 seconds, on a machine that does nothing else


def lingering(relaying: Relaying) -> tuple[Running, socket.socket, Link]:
    """Relay to a server that answers and closes, while the client neither reads nor sends."""
    pair = relaying.connected()
    (connection,) = pair.running.relay.connections
    link = connection._link
    assert link is not None
    fill(pair.client)
    answer_and_go(pair.server)
    wait_for(lambda: link._lingers_until is not None)
    return pair.running, pair.client, link


def test_a_silent_client_may_take_longer_to_read_the_answer(
    relaying: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyprotocol.server._relay.link._LINGER", 0.3)
    running, client, _ = lingering(relaying)
    time.sleep(0.7)  # more than twice the linger time

    client.sendall(b"one more")
    assert receive_all(client) == ANSWER
    running.wait_until_empty()


def test_a_client_that_does_not_read_the_answer_is_closed_after_the_limit(
    relaying: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyprotocol.server._relay.link._LINGER", 0.3)
    monkeypatch.setattr("proxyprotocol.server._relay.link._MOST_LINGER", 1.2)
    begin = time.monotonic()
    running, _, _ = lingering(relaying)
    running.wait_until_empty()
    assert 0.9 < time.monotonic() - begin < 5


def test_bytes_sent_to_a_lingering_client_do_not_prolong_the_wait(
    relaying: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyprotocol.server._relay.link._LINGER", 0.5)
    running, client, link = lingering(relaying)
    running.call(link.down.writable)  # as an answer of TLS itself would; Python's own clients cannot ask for one
    assert receive_all(client) == ANSWER
    running.wait_until_empty()


def test_the_relay_lingers_no_longer_than_the_idle_time_out(relaying: Relaying) -> None:
    pair = relaying.connected(idle_timeout=0.5)
    with uploading(pair.client):
        begin = time.monotonic()
        answer_and_go(pair.server)
        pair.running.wait_until_empty()
    assert time.monotonic() - begin < 1.8


def test_a_server_learns_at_once_that_the_client_has_closed(relaying: Relaying) -> None:
    pair = relaying.connected()
    pair.client.close()
    assert pair.server.recv(10) == b""

    begin = time.monotonic()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        pair.server.sendall(b"x" * 50_000_000)
    pair.running.wait_until_empty()
    assert time.monotonic() - begin < 1.5


def test_the_relay_does_not_read_an_answer_that_the_client_no_longer_reads(
    relaying: Relaying, short_path: Path
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, f"unix:{short_path}/front")
    client = relaying.keep(running.connect())
    server = backend.accept().sock
    client.shutdown(socket.SHUT_RD)
    server.settimeout(0.5)
    with pytest.raises(TimeoutError):
        server.sendall(b"x" * 50_000_000)
    server.settimeout(PATIENCE)
    client.sendall(b"still here")
    assert server.recv(100) == b"still here"
