"""TLS on either side of the relay, and on both: always after the header."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol import ProxyProtocolV2, ProxyResultIPv4
from proxyprotocol.errors import RefusalCode
from proxyprotocol.server._relay.link import Flow
from proxyprotocol.server._relay.metrics import REFUSALS  # the counters have no public names
from tests.interop._certificates import CLIENT_NAME, SERVER_NAME, Certificates
from tests.interop._programs import wait_for
from tests.server.relays import PATIENCE, Accepted, Relaying, fill, in_thread, lines, receive, receive_all, reset
from tests.server.test_header import closed, result
from tests.server.tls import Encrypted, accept_tls, destination, hello_with_name, source


def test_tls_that_ends_at_the_relay(relaying: Relaying, certificates: Certificates) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates))
    client = relaying.keep(running.connect_tls(certificates.client_context(), SERVER_NAME))
    client.sendall(b"x" * 1_000_000)
    accepted = backend.accept()
    assert accepted.first + receive(accepted.sock, 1_000_000 - len(accepted.first)) == b"x" * 1_000_000
    accepted.sock.sendall(b"thanks")
    assert client.recv(100) == b"thanks"

    assert accepted.result is not None
    facts = accepted.result.tlv.ssl
    assert (facts.has_ssl, facts.version, facts.cipher) == (True, client.version(), client.cipher()[0])
    assert not facts.has_cert_conn
    assert (facts.cn, facts.client_cert) == (None, None)
    assert accepted.result.tlv.authority is None


@pytest.mark.parametrize(
    ("offered", "agreed"), [(["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), (["spdy"], None), ([], None)]
)
def test_the_relay_takes_its_first_protocol_that_the_client_offers(
    relaying: Relaying, certificates: Certificates, offered: list[str], agreed: str | None
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address + "?tlv=alpn", source(certificates, "&alpn=h2,http/1.1"))
    context = certificates.client_context()
    context.set_alpn_protocols(offered)
    client = relaying.keep(running.connect_tls(context, SERVER_NAME))
    assert client.selected_alpn_protocol() == agreed
    accepted = backend.accept()
    assert accepted.result is not None
    assert accepted.result.tlv.alpn == (None if agreed is None else agreed.encode())


def test_the_relay_offers_protocols_to_a_destination(relaying: Relaying, certificates: Certificates) -> None:
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates, "&alpn=h2,http/1.1"))
    relaying.keep(running.connect())
    context = certificates.server_context()
    context.set_alpn_protocols(["http/1.1"])
    server = Encrypted(backend.accept_exactly().sock, context, server_side=True)
    assert server.tls.selected_alpn_protocol() == "http/1.1"


def test_tls_that_begins_at_the_relay(relaying: Relaying, certificates: Certificates) -> None:
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates))
    client = relaying.keep(running.connect_and_send(b"hello"))
    accepted, server = accept_tls(backend, certificates)

    assert accepted.result is not None
    assert accepted.result.peername == client.getsockname()
    assert server.recv(100) == b"hello"
    server.sendall(b"y" * 1_000_000)
    assert receive(client, 1_000_000) == b"y" * 1_000_000


def test_the_header_and_the_client_hello_leave_in_one_piece(relaying: Relaying, certificates: Certificates) -> None:
    backend = relaying.backend()
    relaying.keep(relaying.relay(destination(backend, certificates)).connect())
    assert backend.accept().first[:1] == b"\x16"


def test_tls_on_both_sides_and_both_half_closes(relaying: Relaying, certificates: Certificates) -> None:
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates), source(certificates))
    raw = relaying.keep(running.connect())
    ends: list[Encrypted] = []
    thread = in_thread(lambda: ends.append(accept_tls(backend, certificates)[1]))
    client = Encrypted(raw, certificates.client_context(), server_side=False)
    thread.join(PATIENCE)
    (server,) = ends

    client.sendall(b"question")
    client.half_close()
    assert receive_all(server) == b"question"  # type: ignore[arg-type]
    thread = in_thread(lambda: server.say_all(b"answer" * 100_000))
    assert receive_all(client) == b"answer" * 100_000  # type: ignore[arg-type]
    thread.join(PATIENCE)
    running.wait_until_empty()


@pytest.mark.parametrize("first", ["client", "server"])
def test_an_end_of_file_without_a_close_notify_is_a_half_close(
    relaying: Relaying, certificates: Certificates, first: str
) -> None:
    """OpenSSL sends nothing more after such an end, and the other half was lost."""
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates), source(certificates))
    raw = relaying.keep(running.connect())
    accepted: list[tuple[Accepted, Encrypted]] = []
    thread = in_thread(lambda: accepted.append(accept_tls(backend, certificates)))
    client = Encrypted(raw, certificates.client_context(), server_side=False)
    thread.join(PATIENCE)
    ((behind, server),) = accepted
    ends: list[Any] = [(client, raw), (server, behind.sock)]
    (speaker, socket_of_speaker), (other, _) = ends if first == "client" else reversed(ends)

    speaker.sendall(b"question")
    socket_of_speaker.shutdown(socket.SHUT_WR)
    assert receive_all(other) == b"question"
    thread = in_thread(lambda: other.say_all(b"answer" * 100_000))
    assert receive_all(speaker) == b"answer" * 100_000
    thread.join(PATIENCE)
    running.wait_until_empty()


def test_a_half_close_loses_no_byte_of_the_other_direction(relaying: Relaying, certificates: Certificates) -> None:
    # sending the close_notify must not drop a record that has arrived meanwhile
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates))
    client = relaying.keep(running.connect())
    _, server = accept_tls(backend, certificates)
    thread = in_thread(lambda: server.say_all(b"z" * 5_000_000))
    received = receive(client, 1_000_000)
    client.shutdown(socket.SHUT_WR)
    received += receive_all(client)
    thread.join(PATIENCE)
    assert received == b"z" * 5_000_000


def test_bytes_received_before_the_client_half_closed_reach_the_client(
    relaying: Relaying, certificates: Certificates
) -> None:
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates), buffer_length=4096)
    client = relaying.keep(running.connect(room=4096))
    _, server = accept_tls(backend, certificates)
    running.call(lambda: server.sendall(b"z" * 40_000))  # in one piece for the relay, which reads it at once
    (connection,) = running.relay.connections
    link = connection._link
    assert link is not None
    wait_for(lambda: bool(link.down.pending))
    client.shutdown(socket.SHUT_WR)
    assert server.recv(10) == b""
    assert receive(client, 40_000) == b"z" * 40_000


def test_a_close_notify_in_one_piece_with_the_last_bytes_is_passed_on(
    relaying: Relaying, certificates: Certificates
) -> None:
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates))
    client = relaying.keep(running.connect())
    _, server = accept_tls(backend, certificates)
    running.call(lambda: server.say_all(b"answer"))
    # this is the end of TLS alone; the connection is still open
    assert receive_all(client) == b"answer"


@pytest.mark.parametrize("piece", [1000, 100_000])
def test_a_stalled_reader_stops_the_sender_over_tls(relaying: Relaying, certificates: Certificates, piece: int) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates))
    # accepted sockets inherit this small buffer of the system, so that bytes stay in TLS
    running.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    client = relaying.keep(running.connect_tls(certificates.client_context(), SERVER_NAME))
    server = backend.accept().sock
    sent = fill(server, piece)
    (connection,) = running.relay.connections
    assert connection._link is not None
    kept = len(connection._link.down.pending) + len(connection._client._unsent)  # type: ignore[attr-defined]
    assert 0 < kept <= 65536 + 4096  # what was read at once, with TLS around it
    assert not connection._link.down.source.reading  # the selector does not report it again and again
    # the system decides how much arrives at once, so that the measured sizes alone would prove little
    assert (len(connection._link.down.buffer), len(connection._link.up.buffer)) == (65536, 196608)

    server.settimeout(PATIENCE)
    server.shutdown(socket.SHUT_WR)
    assert len(receive_all(client)) == sent


def test_bytes_that_wait_in_tls_for_a_stalled_server_are_not_lost(
    relaying: Relaying, certificates: Certificates
) -> None:
    backend = relaying.backend()
    backend.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    # with a small buffer, a part of most records waits in TLS
    running = relaying.relay(backend.address, source(certificates), buffer_length=4096)
    client = relaying.keep(running.connect_tls(certificates.client_context(), SERVER_NAME))
    accepted = backend.accept()
    data = bytes(range(251)) * 30_000
    thread = in_thread(lambda: client.sendall(data))
    (connection,) = running.relay.connections
    link = connection._link
    assert link is not None
    wait_for(lambda: bool(link.up.pending))
    received = accepted.first + receive(accepted.sock, len(data) - len(accepted.first))
    thread.join(PATIENCE)
    assert received == data


def test_the_relay_reads_nothing_from_a_client_with_too_many_unsent_bytes(
    relaying: Relaying, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    # only answers of TLS itself exceed the limit, and Python's own clients cannot ask for them
    monkeypatch.setattr("proxyprotocol.server._relay.tls._MOST_UNSENT", 1000)
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates))
    running.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    client = relaying.keep(running.connect_tls(certificates.client_context(), SERVER_NAME))
    server = backend.accept().sock
    sent = fill(server)
    client.sendall(b"hello")
    (connection,) = running.relay.connections
    assert not connection._client.reading
    server.settimeout(0.3)
    with pytest.raises(TimeoutError):
        server.recv(10)
    server.settimeout(PATIENCE)
    server.shutdown(socket.SHUT_WR)
    assert len(receive_all(client)) == sent
    assert server.recv(10) == b"hello"


@pytest.mark.parametrize(("buffer_length", "record", "count"), [(4096, 16_000, 1), (65536, 10_000, 7)])
def test_a_record_larger_than_the_free_buffer_is_relayed_without_waiting_for_the_next(
    relaying: Relaying, certificates: Certificates, buffer_length: int, record: int, count: int
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates), buffer_length=buffer_length)
    client = relaying.keep(running.connect_tls(certificates.client_context(), SERVER_NAME))
    server = backend.accept().sock

    def send_at_once() -> None:
        for _ in range(count):
            client.sendall(b"x" * record)

    running.call(send_at_once)  # while the relay does nothing
    assert receive(server, count * record) == b"x" * count * record


def test_bytes_that_wait_inside_tls_on_both_sides_queue_one_call_at_a_time(
    relaying: Relaying, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates), source(certificates))
    client = relaying.keep(running.connect_tls(certificates.client_context(), SERVER_NAME))
    _, server = accept_tls(backend, certificates)
    client.sendall(b"hello")
    assert server.recv(10) == b"hello"
    queued = []
    readable = Flow.readable

    def watched(flow: Flow) -> None:
        queued.append(len(running._loop._ready))  # type: ignore[attr-defined]
        readable(flow)

    monkeypatch.setattr(Flow, "readable", watched)

    def send_at_once() -> None:
        client.sendall(b"x" * 500_000)
        server.sendall(b"x" * 500_000)

    running.call(send_at_once)
    assert len(receive(client, 500_000)) == 500_000
    assert len(receive(server, 500_000)) == 500_000
    # the number of queued calls doubled with every turn of the loop
    assert max(queued) < 8


def test_a_client_s_certificate_and_the_name_it_asked_for(relaying: Relaying, certificates: Certificates) -> None:
    backend = relaying.backend()
    address = backend.address + "?tlv=ssl,client-cert,authority"
    listener = source(certificates, f"&verify=CERT_REQUIRED&cafile={certificates.authority}")
    running = relaying.relay(address, listener)
    client = relaying.keep(running.connect_tls(certificates.client_context(certified=True), SERVER_NAME))
    client.sendall(b"x")
    got = backend.accept().result

    assert got is not None
    assert got.tlv.authority == SERVER_NAME
    assert got.tlv.ssl.client_verified
    assert got.tlv.ssl.cn == CLIENT_NAME
    pem = certificates.client.read_text()
    assert got.tlv.ssl.client_cert == ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT") :])
    assert got.tlv.unique_id == b""
    assert not got.tlv.ext


def test_a_relay_that_does_not_pass_names_on_ignores_an_invalid_name(
    relaying: Relaying, certificates: Certificates
) -> None:
    running = relaying.relay(relaying.backend().address, source(certificates))
    client = relaying.keep(running.connect())
    # pytest turns an error that Python ignores into a warning, and the warning into a failure
    client.sendall(hello_with_name(b"\xff\xfe\xfd.example"))
    client.recv(1)
    reset(client)
    running.wait_until_empty()


def test_a_client_without_the_certificate_it_needs_is_refused(
    relaying: Relaying, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    listener = source(certificates, f"&verify=CERT_REQUIRED&cafile={certificates.authority}")
    running = relaying.relay(relaying.backend().address, listener)
    client = relaying.keep(running.connect_tls(certificates.client_context(), SERVER_NAME))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        client.recv(10)
    running.wait_until_empty()
    (line,) = lines(caplog)
    assert "the TLS handshake failed: [SSL: PEER_DID_NOT_RETURN_A_CERTIFICATE]" in line


def test_a_header_and_tls_after_it(relaying: Relaying, certificates: Certificates) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, source(certificates, "&accept=v2"))
    raw = relaying.keep(running.connect())
    context = certificates.client_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=SERVER_NAME)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    # header and ClientHello in one segment
    raw.sendall(ProxyProtocolV2().pack(result()) + outgoing.read())
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            incoming.write(raw.recv(65536))
    tls.write(b"hello")
    raw.sendall(outgoing.read())
    accepted = backend.accept()
    assert isinstance(accepted.result, ProxyResultIPv4)
    assert accepted.result.peername == ("192.0.2.1", 1000)
    # nothing is added without tlv=
    assert set(accepted.result.tlv) == {3}


@pytest.mark.parametrize("header", [b"", ProxyProtocolV2().pack(result())], ids=["", "after a header"])
def test_a_client_without_tls_is_refused_with_one_line(
    relaying: Relaying, certificates: Certificates, caplog: pytest.LogCaptureFixture, header: bytes
) -> None:
    running = relaying.relay(relaying.backend().address, source(certificates, "&accept=v2" if header else ""))
    client = relaying.keep(running.connect_and_send(header + b"GET / HTTP/1.0\r\n\r\n"))
    receive = b"x"
    while receive:  # an alert, perhaps
        try:
            receive = client.recv(100)
        except ConnectionResetError:
            break
    running.wait_until_empty()
    (line,) = lines(caplog)
    assert "the TLS handshake failed: [SSL: HTTP_REQUEST]" in line


@pytest.mark.parametrize("end", [reset, socket.socket.close])
def test_a_client_that_leaves_in_the_handshake_is_a_debug_line(
    relaying: Relaying, certificates: Certificates, caplog: pytest.LogCaptureFixture, end: Callable[[Any], None]
) -> None:
    caplog.set_level(logging.DEBUG, "proxyprotocol.server")
    running = relaying.relay(relaying.backend().address, source(certificates))
    client = running.connect_and_send(hello_with_name(b"x"))
    client.recv(1)
    end(client)
    running.wait_until_empty()
    (record,) = (record for record in caplog.records if "the TLS handshake failed" in record.getMessage())
    assert record.levelname == "DEBUG"
    assert running.values[REFUSALS[RefusalCode.TLS]] == 1


def test_a_handshake_has_a_deadline(
    relaying: Relaying, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    running = relaying.relay(relaying.backend().address, source(certificates, "&tls_timeout=0.3"))
    assert closed(relaying.keep(running.connect()))
    assert lines(caplog)[-1].endswith("it was not done within 0.3 seconds")


def test_a_destination_with_the_wrong_certificate_gets_no_data(
    relaying: Relaying, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    backend = relaying.backend()
    running = relaying.relay(f"ssl://{backend.address}?cafile={certificates.authority}&server_name=other.example")
    client = relaying.keep(running.connect_and_send(b"secret"))
    accepted = backend.accept_exactly()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Encrypted(accepted.sock, certificates.server_context(), server_side=True).recv(10)
    assert closed(client)
    assert "the certificate is invalid: Hostname mismatch" in lines(caplog)[-1]


def test_a_destination_that_does_not_finish_tls_in_time_closes_the_client(
    relaying: Relaying, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    backend = relaying.backend()
    running = relaying.relay(destination(backend, certificates), connect_timeout=0.3)
    client = relaying.keep(running.connect())
    backend.accept()
    assert closed(client)
    assert lines(caplog)[-1].endswith("it did not answer within 0.3 seconds")


def test_new_certificates_are_read_and_bad_ones_are_not_used(
    relaying: Relaying, certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pem = tmp_path / "served.pem"
    shutil.copy(certificates.client, pem)
    backend = relaying.backend()
    running = relaying.relay(backend.address, f"ssl://127.0.0.1:0?cert={pem}")

    def served() -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with running.connect_tls(context, SERVER_NAME) as client:
            der = client.getpeercert(True)
        assert der is not None
        return der

    first = served()
    shutil.copy(certificates.server, pem)
    assert served() == first
    running.call(running.relay.reload)
    second = served()
    assert second != first

    pem.write_text("no certificate")
    running.call(running.relay.reload)
    assert served() == second
    (line,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert "keeps its old certificates" in line
    assert str(pem) in line
