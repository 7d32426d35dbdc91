"""A connection that has ended leaves no objects, even without the garbage collector."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.server._relay.connection import Connection
from proxyprotocol.server._relay.ends import Stream
from proxyprotocol.server._relay.link import Flow, Link
from proxyprotocol.server._relay.outgoing import Incoming
from proxyprotocol.server._relay.tls import TLSStream
from tests.interop._certificates import SERVER_NAME, Certificates
from tests.interop._programs import wait_for
from tests.server.relays import Pair, Relaying, Running, fill, in_thread, receive_all, reset
from tests.server.test_closing import answer_and_go
from tests.server.test_header import closed
from tests.server.test_trouble import Fails, NeverAnswers
from tests.server.tls import Encrypted, accept_tls, destination, hello_with_name, source

KINDS = (Connection, Link, Flow, Stream, TLSStream, Incoming, ReceiverConnection, ssl.SSLObject)
HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # do not count what other tests have left
    gc.disable()
    yield
    gc.enable()


def alive() -> dict[str, int]:
    """Count the living objects of each kind."""
    kinds = [kind for thing in gc.get_objects() if (kind := type(thing)) in KINDS]
    return {kind.__name__: kinds.count(kind) for kind in KINDS if kind in kinds}


def left(running: Running) -> dict[str, int]:
    """Count the objects that are left when all connections have ended."""
    running.wait_until_empty()
    return running.call(alive)  # in its thread, so that the relay is at rest


def end_cleanly(pair: Pair) -> None:
    pair.client.sendall(b"question")
    pair.client.shutdown(socket.SHUT_WR)
    assert receive_all(pair.server) == b"question"
    pair.server.close()


def meet_a_reset(pair: Pair) -> None:
    def meet() -> None:
        pair.server.sendall(b"progress")
        reset(pair.client)

    pair.running.call(meet)  # the relay learns of the reset when it sends


def linger(pair: Pair) -> None:
    fill(pair.client)
    answer_and_go(pair.server)
    receive_all(pair.client)
    pair.client.close()


@pytest.mark.parametrize(
    "end",
    [
        end_cleanly,
        lambda pair: reset(pair.client),
        lambda pair: reset(pair.server),
        meet_a_reset,
        linger,
        lambda pair: pair.running.call(pair.running.relay.close),
        lambda pair: None,  # and nothing moves
    ],
)
def test_a_relayed_connection_leaves_no_objects(relaying: Relaying, end: Callable[[Pair], None]) -> None:
    pair = relaying.connected(idle_timeout=None if end is linger else 0.3)
    end(pair)
    assert left(pair.running) == {}


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ("", b"GET / HTTP/1.1\r\n"),
        ("", b"PROXY"),
        ("", b""),
        ("&trusted=192.0.2.0/24", HEADER),
        ("&timeout=0.1", b"PROXY"),
        ("&timeout=0.1&policy=optional", b"PROXY"),
    ],
)
def test_a_refused_header_leaves_no_objects(relaying: Relaying, options: str, sent: bytes) -> None:
    running = relaying.relay(relaying.backend().address, f"127.0.0.1:0?accept=detect{options}")
    client = relaying.keep(running.connect_and_send(sent))
    if "timeout" not in options:
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
    assert closed(client)
    assert left(running) == {}


@pytest.mark.parametrize("moment", ["header", "block list", "connecting", "late"])
def test_a_connection_closed_before_it_reached_the_destination_leaves_no_objects(
    relaying: Relaying, short_path: Path, moment: str
) -> None:
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as filler:
        full.bind(str(short_path / "full"))
        full.listen(0)
        filler.connect(str(short_path / "full"))
        running = relaying.relay(
            f"unix:{short_path}/full",
            "127.0.0.1:0" + ("?accept=detect" if moment == "header" else ""),
            dnsbl=NeverAnswers() if moment == "block list" else None,
            connect_timeout=0.1 if moment == "late" else 10,
        )
        client = relaying.keep(running.connect())
        wait_for(lambda: running.open == 1)
        if moment != "late":
            running.call(running.relay.close)
        assert closed(client)
        assert left(running) == {}


@pytest.mark.parametrize("name", ["127.0.0.1", "nobody.invalid"])
def test_a_connection_to_a_closed_port_leaves_no_objects(relaying: Relaying, name: str) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        running = relaying.relay(f"{name}:{deaf.getsockname()[1]}", dnsbl=Fails())
        assert closed(relaying.keep(running.connect()))
    assert left(running) == {}


@pytest.mark.parametrize("sent", [b"this is no ClientHello", b"\x16\x03\x01", None])
@pytest.mark.parametrize("how", ["late", "reset", "end"])
def test_a_failed_handshake_leaves_no_objects(
    relaying: Relaying, certificates: Certificates, sent: bytes | None, how: str
) -> None:
    more = "&tls_timeout=0.1" if how == "late" else ""
    running = relaying.relay(relaying.backend().address, source(certificates, more))
    client = running.connect_and_send(hello_with_name(b"x") if sent is None else sent)
    wait_for(lambda: running.call(lambda: running.open == 0 or "SSLObject" in alive()))
    if how == "end":
        running.call(running.relay.close)
    if how == "reset":
        reset(client)
    assert left(running) == {}
    client.close()


@pytest.mark.parametrize("moment", ["certificate", "stall", "reset"])
def test_a_failed_handshake_with_a_destination_leaves_no_objects(
    relaying: Relaying, certificates: Certificates, moment: str
) -> None:
    backend = relaying.backend()
    to = destination(backend, certificates)
    if moment == "certificate":
        to = to.replace(SERVER_NAME, "other.example")
    running = relaying.relay(to, connect_timeout=0.3)
    client = relaying.keep(running.connect())
    accepted = backend.accept_exactly().sock
    if moment == "reset":
        reset(accepted)
    if moment == "certificate":
        with pytest.raises(OSError):
            Encrypted(accepted, certificates.server_context(), server_side=True).recv(1)
    assert closed(client)
    assert left(running) == {}


@pytest.mark.parametrize("how", ["end", "garbage", "reset"])
def test_a_connection_relayed_over_tls_leaves_no_objects(
    relaying: Relaying, certificates: Certificates, how: str
) -> None:
    def story() -> Running:
        backend = relaying.backend()
        running = relaying.relay(destination(backend, certificates), source(certificates))
        raw = running.connect()
        ends: list[Encrypted] = []
        thread = in_thread(lambda: ends.append(accept_tls(backend, certificates)[1]))
        client = Encrypted(raw, certificates.client_context(), server_side=False)
        thread.join()
        client.sendall(b"hello")
        assert ends[0].recv(10) == b"hello"
        if how == "end":
            ends[0].say_all(b"bye")
            assert receive_all(client) == b"bye"  # type: ignore[arg-type]
            client.half_close()
        elif how == "garbage":
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        else:
            reset(raw)
        running.wait_until_empty()
        raw.close()
        return running

    assert left(story()) == {}


def test_rounds_of_stalled_and_reset_tls_connections_leave_no_objects(
    relaying: Relaying, certificates: Certificates
) -> None:
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates), source(certificates))
    context = certificates.client_context()
    for _ in range(3):
        clients = []
        for _ in range(5):
            client = running.connect_tls(context, "app.example.com")
            accepted = backend.accept_exactly().sock
            server = relaying.keep(certificates.server_context().wrap_socket(accepted, server_side=True))
            server.settimeout(0.05)
            with pytest.raises(TimeoutError):
                server.sendall(b"x" * 50_000_000)
            clients.append(client)
        for client in clients:
            reset(client)
        assert left(running) == {}
