"""The relay on real sockets: every byte arrives, both ends close, and nothing waits for ever."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from pathlib import Path

import pytest

from proxyprotocol import ProxyResultIPv4, ProxyResultIPv6, ProxyResultUnix
from proxyprotocol.server._relay.metrics import BYTES_DOWN, BYTES_UP  # the counters have no public names
from tests.interop._programs import wait_for
from tests.server.relays import PATIENCE, Relaying, fill, in_thread, lines, receive, receive_all, reset


def test_the_header_names_the_client_and_the_address_it_came_to(relaying: Relaying) -> None:
    pair = relaying.connected()

    assert isinstance(pair.result, ProxyResultIPv4)
    assert pair.result.peername == pair.client.getsockname()
    assert pair.result.sockname == pair.client.getpeername()
    assert len(pair.result.tlv.unique_id) == 16
    assert pair.result.tlv.crc32c is not None


def test_ipv6_on_both_sides(relaying: Relaying) -> None:
    backend = relaying.backend("::1")
    running = relaying.relay(backend.address, "[::1]:0")
    client = relaying.keep(running.connect())
    accepted = backend.accept()

    assert isinstance(accepted.result, ProxyResultIPv6)
    assert accepted.result.peername == client.getsockname()
    accepted.sock.close()


def test_version_1_and_no_header_at_all(relaying: Relaying) -> None:
    backend = relaying.backend()
    v1 = relaying.relay(backend.address + "?pp=v1")
    client = relaying.keep(v1.connect_and_send(b"hello"))
    with backend.accept(header=False).sock as server:
        port = client.getsockname()[1]
        assert server.recv(200) == b"PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\nhello" % (port, v1.address[1])
    plain = relaying.relay(backend.address + "?pp=noop")
    relaying.keep(plain.connect_and_send(b"hello"))
    with backend.accept(header=False).sock as server:
        assert server.recv(200) == b"hello"


def test_the_first_bytes_leave_in_one_piece_with_the_header(relaying: Relaying) -> None:
    backend = relaying.backend()
    relaying.keep(relaying.relay(backend.address).connect_and_send(b"GET / HTTP/1.0\r\n\r\n"))

    accepted = backend.accept()
    accepted.sock.close()
    assert accepted.first == b"GET / HTTP/1.0\r\n\r\n"


def test_a_server_that_speaks_first_does_not_wait_for_the_client(relaying: Relaying) -> None:
    pair = relaying.connected()

    pair.server.sendall(b"220 ready\r\n")

    assert pair.client.recv(100) == b"220 ready\r\n"


def pump(sock: socket.socket, size: int, seed: int) -> bytes:
    """Send *size* bytes in pieces of random sizes, half-close, and return their digest."""
    chance, digest = random.Random(seed), hashlib.sha256()
    while size:
        piece = chance.randbytes(min(size, chance.choice((1, 100, 5000, 70_000, 400_000))))
        digest.update(piece)
        sock.sendall(piece)
        size -= len(piece)
    sock.shutdown(socket.SHUT_WR)
    return digest.digest()


@pytest.mark.parametrize("buffer_length", [4096, 196608, 1 << 20])
def test_no_byte_is_lost_or_changed_in_both_directions_at_once(relaying: Relaying, buffer_length: int) -> None:
    pair = relaying.connected(buffer_length=buffer_length)
    sent: dict[str, bytes] = {}
    got: dict[str, bytes] = {}

    def send(name: str, sock: socket.socket) -> None:
        sent[name] = pump(sock, 6_000_000, len(name))

    def receive(name: str, sock: socket.socket) -> None:
        got[name] = hashlib.sha256(receive_all(sock)).digest()

    ends = {"up": (pair.client, pair.server), "down": (pair.server, pair.client)}
    threads = [in_thread(lambda n=name, s=ends[name][0]: send(n, s)) for name in ends]  # type: ignore[misc]
    threads += [in_thread(lambda n=name, s=ends[name][1]: receive(n, s)) for name in ends]  # type: ignore[misc]
    for thread in threads:
        thread.join(3 * PATIENCE)

    assert sent == got
    pair.running.wait_until_empty()
    counters = pair.running.values
    assert counters[BYTES_UP] == counters[BYTES_DOWN] == 6_000_000


def test_the_client_s_half_close_is_passed_on_and_the_answer_still_comes(relaying: Relaying) -> None:
    pair = relaying.connected()

    pair.client.sendall(b"question")
    pair.client.shutdown(socket.SHUT_WR)

    assert receive_all(pair.server) == b"question"
    pair.server.sendall(b"answer" * 100_000)
    pair.server.close()
    assert receive_all(pair.client) == b"answer" * 100_000


def test_the_server_s_half_close_is_passed_on_and_the_client_may_still_send(relaying: Relaying) -> None:
    pair = relaying.connected()

    pair.server.sendall(b"greeting")
    pair.server.shutdown(socket.SHUT_WR)

    assert receive_all(pair.client) == b"greeting"
    pair.client.sendall(b"reply" * 100_000)
    pair.client.close()
    assert receive_all(pair.server) == b"reply" * 100_000


def test_a_client_that_half_closes_at_once_is_relayed(relaying: Relaying) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address)

    def speak() -> socket.socket:
        client = running.connect()
        client.shutdown(socket.SHUT_WR)
        return client

    client = relaying.keep(running.call(speak))
    accepted = backend.accept()
    assert accepted.sock.recv(10) == b""
    accepted.sock.sendall(b"bye")
    accepted.sock.close()
    assert receive_all(client) == b"bye"


def test_after_both_ends_have_closed_everything_is_closed(relaying: Relaying) -> None:
    pair = relaying.connected()
    pair.client.close()
    assert pair.server.recv(10) == b""
    pair.server.close()

    pair.running.wait_until_empty()
    queues = pair.running.relay.queues
    assert pair.running.call(lambda: [waiting for queue in queues.values() for waiting in queue.close()]) == []


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on_as_a_reset(relaying: Relaying, who: str) -> None:
    pair = relaying.connected()
    lost, other = (pair.client, pair.server) if who == "client" else (pair.server, pair.client)
    reset(lost)

    # a cut connection must not look complete
    with pytest.raises(ConnectionResetError):
        other.recv(10)
    pair.running.wait_until_empty()


def test_an_answer_sent_before_a_reset_still_reaches_a_client_that_sends(relaying: Relaying) -> None:
    pair = relaying.connected()

    def meet() -> None:
        pair.client.sendall(b"x" * 100_000)
        pair.server.sendall(b"413 too large")
        reset(pair.server)

    # the relay gets the answer and the reset at once, while the client sends
    pair.running.call(meet)

    assert pair.client.recv(100) == b"413 too large"
    # it was reset: the answer may be incomplete
    with pytest.raises(ConnectionResetError):
        pair.client.recv(100)
    pair.running.wait_until_empty()


def test_a_stalled_reader_stops_the_sender_and_costs_no_more_than_the_buffer(relaying: Relaying) -> None:
    pair = relaying.connected()
    sent = fill(pair.client)
    (connection,) = pair.running.relay.connections
    assert connection._link is not None
    kept = len(connection._link.up.pending)
    assert 0 < kept <= 196608

    thread = in_thread(lambda: pair.client.shutdown(socket.SHUT_WR))
    assert len(receive_all(pair.server)) == sent
    thread.join(PATIENCE)


def test_a_stalled_client_does_not_hold_up_what_it_sends(relaying: Relaying) -> None:
    pair = relaying.connected()
    sent = fill(pair.server)
    pair.client.sendall(b"y" * 400_000)
    assert len(receive(pair.server, 400_000)) == 400_000

    # both directions read into one buffer: these bytes must not be in the kept ones
    pair.server.shutdown(socket.SHUT_WR)
    assert receive_all(pair.client) == b"x" * sent


def test_a_refused_destination_closes_that_client_only(relaying: Relaying, caplog: pytest.LogCaptureFixture) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address)
    before = relaying.keep(running.connect())
    server = backend.accept().sock
    backend.sock.close()

    refused = relaying.keep(running.connect())
    assert refused.recv(10) == b""
    server.sendall(b"still here")
    assert before.recv(100) == b"still here"
    server.close()
    (line,) = (line for line in lines(caplog) if line.startswith("Closed the connection"))
    assert line.endswith(f"cannot connect to {backend.address}: Connection refused")
    assert "Traceback" not in caplog.text


def test_the_next_address_of_a_name_is_tried(relaying: Relaying, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = relaying.backend()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        refused = nobody.getsockname()
    answers = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (refused, backend.sock.getsockname())
    ]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **named: answers if host == "two" else real(host, *more, **named)
    )
    running = relaying.relay(f"two:{backend.sock.getsockname()[1]}")
    relaying.keep(running.connect())

    backend.accept().sock.close()


def test_a_name_is_looked_up_and_an_unknown_name_closes_the_client(
    relaying: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    backend = relaying.backend()
    by_name = relaying.relay(f"localhost:{backend.sock.getsockname()[1]}")
    relaying.keep(by_name.connect())
    backend.accept().sock.close()

    for name in ("nowhere.invalid:80", "a..b:80"):
        nowhere = relaying.relay(name)
        assert relaying.keep(nowhere.connect()).recv(10) == b""
    assert any("cannot connect to nowhere.invalid:80" in line for line in lines(caplog))
    assert "'a..b' is not a valid host name: " in lines(caplog)[-1]


def test_unix_sockets_on_both_sides(relaying: Relaying, short_path: Path) -> None:
    backend = relaying.backend(f"{short_path}/behind")
    running = relaying.relay(backend.address, f"unix:{short_path}/front")
    client = relaying.keep(running.connect())
    accepted = backend.accept()

    assert isinstance(accepted.result, ProxyResultUnix)
    assert accepted.result.dest == f"{short_path}/front"
    thread = in_thread(lambda: pump(client, 3_000_000, 1))
    assert len(receive_all(accepted.sock)) == 3_000_000
    thread.join(PATIENCE)


@pytest.mark.parametrize("rest", [0, 0.005])
def test_the_answer_of_a_unix_server_that_leaves_bytes_unread_is_not_lost(
    relaying: Relaying, short_path: Path, rest: float
) -> None:
    backend = relaying.backend(str(short_path / "server"))
    running = relaying.relay(backend.address + "?pp=noop")
    client = relaying.keep(running.connect())
    client.sendall(b"upload" * 10_000)
    server = backend.accept(header=False).sock
    assert len(server.recv(100)) == 100

    def answer() -> None:
        server.sendall(b"too large" * 300_000)
        server.close()

    thread = in_thread(answer)
    received = 0
    while data := client.recv(1 << 16):
        received += len(data)
        time.sleep(rest)  # a slow reader
    thread.join(PATIENCE)
    assert received == len(b"too large") * 300_000


def test_an_abstract_unix_socket(relaying: Relaying, short_path: Path) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, f"unix:@{short_path}")
    client = relaying.keep(running.connect(to=f"\0{short_path}"))
    backend.accept().sock.close()
    assert client.recv(10) == b""


def test_a_unix_destination_whose_queue_is_full_is_tried_again(relaying: Relaying, short_path: Path) -> None:
    path = f"{short_path}/full"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        filler = socket.socket(socket.AF_UNIX)
        filler.connect(path)
        running = relaying.relay(f"unix:{path}")
        client = relaying.keep(running.connect())
        wait_for(lambda: running.call(lambda: any(one._task is not None for one in running.relay.connections)))

        listener.settimeout(PATIENCE)
        listener.accept()[0].close()
        server, _ = listener.accept()
        server.settimeout(PATIENCE)
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(server).endswith(b"hello")
        server.close()
        filler.close()


def test_close_resets_open_connections(relaying: Relaying, caplog: pytest.LogCaptureFixture) -> None:
    pair = relaying.connected()

    pair.running.call(pair.running.relay.close)

    with pytest.raises(ConnectionResetError):
        pair.client.recv(10)
    assert lines(caplog)[-1].endswith("the relay ends")


def test_every_connection_is_one_line_when_it_begins_and_one_when_it_ends(
    relaying: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    pair = relaying.connected()
    client = "{}:{}".format(*pair.client.getsockname())
    server = "{}:{}".format(*pair.server.getsockname())
    pair.client.close()
    pair.server.close()
    pair.running.wait_until_empty()

    assert lines(caplog) == [
        f"Opened {client} to {server}",
        f"Closed {client} to {server}: both ends have sent everything",
    ]
