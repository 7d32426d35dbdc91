"""The metrics of proxyprotocol-server."""

from __future__ import annotations

import contextlib
import os
import socket
import time

import pytest

from tests.interop._programs import reserved_port, wait_for
from tests.server.programs import Starter, scrape
from tests.server.relays import PATIENCE, receive_all


@pytest.mark.parametrize("workers", ["1", "2"])
def test_metrics(start: Starter, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = start(
        "--metrics", str(port), "--workers", workers, source="127.0.0.1:0?accept=detect", options="?tlv=unique-id"
    )
    server.wait_for_line("Listening on", int(workers))
    with server.connect() as client:
        client.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\nhello")
        accepted = start.backend.accept()
        accepted.sock.sendall(b"hi")
        assert client.recv(10) == b"hi"
        with server.connect() as bad:
            bad.sendall(b"GET")
            with contextlib.suppress(ConnectionResetError):
                bad.recv(10)
        wait_for(lambda: scrape(port)["proxyprotocol_open_connections{}"] == 1)
        told = scrape(port)
    assert told["proxyprotocol_connections_total{}"] == 2
    assert told['proxyprotocol_headers_received_total{version="v1"}'] == 1
    assert told['proxyprotocol_headers_sent_total{version="v2"}'] == 1
    assert told['proxyprotocol_refusals_total{reason="malformed"}'] == 1
    assert told['proxyprotocol_bytes_total{direction="up"}'] == 5
    assert told['proxyprotocol_bytes_total{direction="down"}'] == 2


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics?name[]=x HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n", b"HTTP/1.0 200 OK"),
        (b"POST / HTTP/1.1\r\n\r\n", b"HTTP/1.0 405 Method Not Allowed"),
        (b"GET / HTTP/1.1\r\nAccept: \xff\xfe\r\n\r\n", b"HTTP/1.0 200 OK"),
        (b"GET / HTTP/1.1\r\nAccept: application/openmetrics-text; version=abc\r\n\r\n", b"HTTP/1.0 400 Bad Request"),
        (b"nonsense\r\n\r\n", b"HTTP/1.0 400 Bad Request"),
        (b"GET / HTTP/1.1\r\n" + b"X" * 70_000 + b"\r\n\r\n", b"HTTP/1.0 431 Request Header Fields Too Large"),
        (b"x" * 200_000, b""),
    ],
    ids=["gzip", "post", "odd bytes", "odd version", "nonsense", "long", "too long"],
)
def test_a_request_for_metrics_gets_a_response_or_is_cut(start: Starter, request_: bytes, status: bytes) -> None:
    with reserved_port("127.0.0.1") as port:
        pass
    server = start("--metrics", str(port))
    server.wait_for_line("Listening on")
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        response = b""
        with contextlib.suppress(ConnectionError):
            client.sendall(request_)
            response = receive_all(client)
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.partition(b"\r\n")[0] == status
    assert not status or f"Content-Length: {len(body)}".encode() in head
    assert server.end() == 0


def test_without_metrics_their_library_is_not_needed(start: Starter) -> None:
    server = start(before="import sys; sys.modules['prometheus_client'] = None")
    server.wait_for_line("Listening on")
    assert server.end() == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_metrics_are_served_on_any_host_while_one_client_is_slow(start: Starter, host: str) -> None:
    with reserved_port("::1" if host == "[::1]" else "127.0.0.1") as port:
        pass
    server = start("--metrics", f"{host}:{port}")
    server.wait_for_line("Listening on")
    with socket.create_connection((host.strip("[]"), port), PATIENCE) as slow:
        slow.sendall(b"GET /")
        begin = time.monotonic()
        assert scrape(port, host)["proxyprotocol_open_connections{}"] == 0
        assert time.monotonic() - begin < 5


def test_metrics_are_served_while_many_clients_are_silent(start: Starter) -> None:
    with reserved_port("127.0.0.1") as port:
        pass
    server = start("--metrics", str(port))
    server.wait_for_line("Listening on")
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)) for _ in range(40)]
        begin = time.monotonic()
        for _ in range(3):
            assert scrape(port)["proxyprotocol_open_connections{}"] == 0
        assert time.monotonic() - begin < 5
        # the relay has cut the oldest, and needs no threads
        assert silent[0].recv(1) == b""
        assert len(os.listdir(f"/proc/{server.process.pid}/task")) < 20
    assert server.end() == 0
