"""A connection that is cut: the relay passes on what it has received, and then resets the other end."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

import pytest

from proxyprotocol.server._relay.tls import TLSStream
from tests.interop._certificates import SERVER_NAME, Certificates
from tests.server.relays import PATIENCE, Relaying, Running, receive, receive_all, reset
from tests.server.tls import Encrypted, accept_tls, destination, source


def test_an_upload_cut_by_a_reset_does_not_look_whole_to_a_server_that_sends(relaying: Relaying) -> None:
    pair = relaying.connected()

    def meet() -> None:
        pair.client.sendall(b"half of it")
        pair.server.sendall(b"progress")
        reset(pair.client)

    # the relay learns of the reset when it sends, and the system reports a reset only once
    pair.running.call(meet)

    assert pair.server.recv(100) == b"half of it"
    with pytest.raises(ConnectionResetError):
        pair.server.recv(100)
    pair.running.wait_until_empty()


def connect_encrypted(relaying: Relaying, running: Running, certificates: Certificates) -> tuple[Any, Encrypted]:
    raw = relaying.keep(running.connect())
    # a reset drops bytes that Nagle's algorithm holds back
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return raw, Encrypted(raw, certificates.client_context(), server_side=False)


@pytest.mark.parametrize("how", ["sends", "ends"])
def test_a_tls_upload_cut_by_a_reset_does_not_look_whole(
    relaying: Relaying, certificates: Certificates, how: str
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates))
    raw, client = connect_encrypted(relaying, running, certificates)
    server = backend.accept().sock
    client.sendall(b"half ")
    assert server.recv(100) == b"half "

    def meet() -> None:
        if how == "sends":
            server.sendall(b"progress")
        else:
            server.shutdown(socket.SHUT_WR)
        client.sendall(b"of it")
        reset(raw)

    # the relay learns of the reset when it sends, or when it half-closes
    running.call(meet)

    assert server.recv(100) == b"of it"
    with pytest.raises(ConnectionResetError):
        server.recv(100)
    running.wait_until_empty()


def test_a_reset_seen_while_tls_itself_answers_is_passed_on_as_a_reset(
    relaying: Relaying, certificates: Certificates
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates), buffer_length=16384)
    raw, client = connect_encrypted(relaying, running, certificates)
    server = backend.accept().sock
    client.sendall(b"begun")
    assert server.recv(100) == b"begun"
    (connection,) = running.relay.connections
    stream = connection._client
    assert isinstance(stream, TLSStream)

    def meet() -> None:
        # Python's own clients cannot ask for one
        stream._outgoing.write(b"an answer")
        client.sendall(b"x" * 16384)
        reset(raw)

    running.call(meet)
    assert receive(server, 16384) == b"x" * 16384
    with pytest.raises(ConnectionResetError):
        server.recv(10)
    running.wait_until_empty()


def test_an_upload_that_ends_with_a_close_notify_is_whole_even_if_a_reset_follows(
    relaying: Relaying, certificates: Certificates
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates))
    raw, client = connect_encrypted(relaying, running, certificates)
    server = backend.accept().sock

    def meet() -> None:
        server.sendall(b"progress")
        client.say_all(b"all of it")
        reset(raw)

    running.call(meet)
    assert receive_all(server) == b"all of it"
    running.wait_until_empty()


@pytest.mark.parametrize("how", ["cut", "forged"])
@pytest.mark.parametrize("buffer_length", [16384, 196608])
def test_bytes_received_before_tls_failed_are_relayed_and_do_not_look_whole(
    relaying: Relaying, certificates: Certificates, buffer_length: int, how: str
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates), buffer_length=buffer_length)
    raw, client = connect_encrypted(relaying, running, certificates)
    server = backend.accept().sock
    client.sendall(b"begun")
    assert server.recv(100) == b"begun"

    def meet() -> None:
        client.sendall(b"x" * 32768)
        if how == "cut":
            reset(raw)
        else:
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a forged record
        # now the relay reads from TLS what it has not relayed yet
        server.shutdown(socket.SHUT_WR)

    running.call(meet)
    assert receive(server, 32768) == b"x" * 32768
    with pytest.raises(ConnectionResetError):
        server.recv(10)
    running.wait_until_empty()


def test_a_connection_lost_in_the_last_step_of_a_handshake_fails_the_handshake(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    far.setblocking(False)
    stream = TLSStream(far, certificates.server_context(), server_side=True)
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client_context().wrap_bio(client_in, client_out, server_hostname=SERVER_NAME)
    with far:
        near.settimeout(PATIENCE)
        done = False
        while not done:
            try:
                client.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                near.sendall(client_out.read())
                assert not stream.handshake()
                client_in.write(near.recv(65536))
        near.sendall(client_out.read())
        reset(near)
        # nothing receives the session tickets
        with pytest.raises(ConnectionResetError):
            stream.handshake()


def test_an_end_without_a_close_notify_is_passed_on_as_an_end(relaying: Relaying, certificates: Certificates) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates))
    client = running.connect_tls(certificates.client_context(), SERVER_NAME)
    server = backend.accept().sock
    client.sendall(b"bye")
    # read the session tickets first, or the system would answer them with a reset
    client.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        client.recv(1)
    client.close()
    assert receive_all(server) == b"bye"


def test_an_answer_without_a_close_notify_is_whole_for_a_slow_client_that_sends(
    relaying: Relaying, certificates: Certificates
) -> None:
    """OpenSSL refuses to send after such an end, and the answer looked cut."""
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates))
    client = relaying.keep(running.connect(room=4096))
    behind, server = accept_tls(backend, certificates)

    def answer() -> None:
        server.sendall(b"z" * 150_000)
        behind.sock.shutdown(socket.SHUT_WR)
        client.sendall(b"more")

    # the relay has read the end, and waits for the client
    running.call(answer)

    assert server.recv(100) == b"more"
    assert receive_all(client) == b"z" * 150_000
