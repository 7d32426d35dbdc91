"""The metrics of proxyprotocol-server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import prometheus_client
import pytest

from proxyprotocol.errors import RefusalCode
from proxyprotocol.metrics import ProxyProtocolMetrics
from proxyprotocol.server._relay.metrics import OPEN as OPEN_CONNECTIONS
from proxyprotocol.server._relay.metrics import Counters, ServiceMetrics  # the counters have no public names
from tests.interop._programs import reserved_port, wait_for
from tests.server.programs import Starter, scrape
from tests.server.relays import PATIENCE, receive_all

OPEN = 'proxyprotocol_open_connections{listener="127.0.0.1:0",service="127.0.0.1:0"}'


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
        wait_for(lambda: scrape(port)[OPEN] == 1)
        told = scrape(port)
    assert {name: value for name, value in told.items() if value and "_bucket" not in name} == {
        f'proxyprotocol_build_info{{version="{version("proxyprotocol")}"}}': 1,
        'proxyprotocol_connections_total{listener="127.0.0.1:0",service="127.0.0.1:0"}': 2,
        'proxyprotocol_headers_received_total{listener="127.0.0.1:0",service="127.0.0.1:0",version="v1"}': 1,
        'proxyprotocol_headers_sent_total{listener="127.0.0.1:0",service="127.0.0.1:0",version="v2"}': 1,
        'proxyprotocol_refusals_total{listener="127.0.0.1:0",reason="no_header",service="127.0.0.1:0"}': 1,
        'proxyprotocol_bytes_total{direction="up",listener="127.0.0.1:0",service="127.0.0.1:0"}': 5,
        'proxyprotocol_bytes_total{direction="down",listener="127.0.0.1:0",service="127.0.0.1:0"}': 2,
        'proxyprotocol_header_seconds_count{listener="127.0.0.1:0",service="127.0.0.1:0"}': 1,
        'proxyprotocol_header_seconds_sum{listener="127.0.0.1:0",service="127.0.0.1:0"}': pytest.approx(
            1, abs=0.999999
        ),  # a microsecond at least
        OPEN: 1,
    }


def test_each_service_has_counters_of_its_own_over_all_workers(start: Starter, short_path: Path) -> None:
    with reserved_port("127.0.0.1") as port:
        pass
    inside = f"unix:{short_path}/relay"
    more = ("--service", f"{inside}?accept=v2", start.backend.address)
    server = start("--metrics", str(port), "--workers", "2", *more, source="127.0.0.1:0?pp=v1")
    server.wait_for_line("Listening on", 4)
    assert server.log.count(f"Serving metrics on http://127.0.0.1:{port}/metrics") == 1
    for _ in range(8):  # the system chooses the worker
        with server.connect() as client:
            client.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n")
            start.backend.accept().sock.close()
            assert receive_all(client) == b""
    with socket.socket(socket.AF_UNIX) as wrong, socket.socket(socket.AF_UNIX) as slow:
        for client in (wrong, slow):
            client.settimeout(PATIENCE)
            client.connect(f"{short_path}/relay")
        wrong.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert wrong.recv(1) == b""
        pending = f'proxyprotocol_pending_headers{{listener="{inside}",service="{inside}"}}'
        wait_for(lambda: scrape(port)[pending] == 1)
        told = scrape(port)
    assert told['proxyprotocol_connections_total{listener="127.0.0.1:0",service="127.0.0.1:0"}'] == 8
    assert told['proxyprotocol_headers_received_total{listener="127.0.0.1:0",service="127.0.0.1:0",version="v1"}'] == 8
    assert told['proxyprotocol_header_seconds_bucket{le="+Inf",listener="127.0.0.1:0",service="127.0.0.1:0"}'] == 8
    assert told[f'proxyprotocol_connections_total{{listener="{inside}",service="{inside}"}}'] == 2
    assert told[f'proxyprotocol_refusals_total{{listener="{inside}",reason="version",service="{inside}"}}'] == 1
    assert told['proxyprotocol_refusals_total{listener="127.0.0.1:0",reason="version",service="127.0.0.1:0"}'] == 0
    wait_for(
        lambda: (
            scrape(port)[f'proxyprotocol_refusals_total{{listener="{inside}",reason="missing",service="{inside}"}}']
            == 1
        )
    )
    assert scrape(port)[pending] == 0


def test_the_names_and_their_meaning_are_those_of_the_adapters_metrics() -> None:
    registry = prometheus_client.CollectorRegistry()
    adapters = ProxyProtocolMetrics(registry)
    adapters.connected("127.0.0.1:80").accepted("v1")
    adapters.connected("127.0.0.1:80").refused(RefusalCode.CLOSED)
    counters = Counters(1, [":80"])
    relays = ServiceMetrics(counters.of(0)[":80"])
    relays.connected("").accepted("v1")
    relays.connected("").refused(RefusalCode.CLOSED)
    both = {family.name: family for family in counters.collect()}
    for family in registry.collect():
        ours = both[family.name]
        assert (ours.type, ours.documentation) == (family.type, family.documentation)
        samples = [set(), set()]  # type: list[set[tuple[str, str, float]]]
        for found, source, names in zip(samples, (family, ours), ({"listener"}, {"listener", "service"}), strict=True):
            for sample in source.samples:
                assert names <= sample.labels.keys()
                (label,) = [value for key, value in sample.labels.items() if key not in names] or [""]
                if "_bucket" in sample.name:  # which of them counts depends on the time that the test took
                    found.add((sample.name, label, 0))
                elif not sample.name.endswith(("_created", "_sum")) and sample.value:
                    found.add((sample.name, label, sample.value))
        assert samples[0] == samples[1]


def test_the_counters_of_a_dead_worker_count_on_except_for_what_was_open() -> None:
    counters = Counters(2, [":80", ":81", ":80"])
    ServiceMetrics(counters.of(1)[":81"]).connected("")
    counters.of(1)[":81"][OPEN_CONNECTIONS] = 5
    counters.reset_gauges(1)
    told = {(sample.name, sample.labels["service"]): sample.value for sample in samples(counters)}
    assert told["proxyprotocol_connections_total", ":81"] == 1
    assert told["proxyprotocol_pending_headers", ":81"] == told["proxyprotocol_open_connections", ":81"] == 0
    assert told["proxyprotocol_connections_total", ":80"] == 0


def samples(counters: Counters) -> list[Any]:
    return [sample for family in counters.collect() for sample in family.samples if "service" in sample.labels]


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
        assert scrape(port, host)[OPEN] == 0
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
            assert scrape(port)[OPEN] == 0
        assert time.monotonic() - begin < 5
        # the relay has cut the oldest, and needs no threads
        assert silent[0].recv(1) == b""
        assert len(os.listdir(f"/proc/{server.process.pid}/task")) < 20
    assert server.end() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_health_check_is_good_until_the_relay_ends(start: Starter, workers: str) -> None:
    with reserved_port("127.0.0.1") as port:
        pass
    server = start("--metrics", str(port), "--workers", workers)
    server.wait_for_line("Listening on", int(workers))
    assert ask(port, b"GET /healthz HTTP/1.1") == (b"HTTP/1.0 200 OK", b"ok\n")
    assert ask(port, b"HEAD /healthz?probe=1 HTTP/1.1") == (b"HTTP/1.0 200 OK", b"")
    assert ask(port, b"POST /healthz HTTP/1.1") == (b"HTTP/1.0 405 Method Not Allowed", b"")
    with server.connect() as client:
        start.backend.accept()
        server.process.send_signal(signal.SIGTERM)
        start.wait_until_refused(client.getpeername())
        # of several workers the first answers; it ends when it has no connection of its own
        with contextlib.suppress(*([ConnectionError] if workers == "2" else [])):
            wait_for(lambda: ask(port, b"GET /healthz HTTP/1.1") == (b"HTTP/1.0 503 Service Unavailable", b"ending\n"))
            assert ask(port, b"HEAD /healthz HTTP/1.1") == (b"HTTP/1.0 503 Service Unavailable", b"")
    assert server.end() == 0


def ask(port: int, line: bytes) -> tuple[bytes, bytes]:
    """Send a request, and return the first line of the response and its body."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(line + b"\r\n\r\n")
        head, _, body = receive_all(client).partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body


def test_services_beyond_the_room_count_together() -> None:
    counters = Counters(2, ["a"])
    names = [f":{port}" for port in range(1100)]
    counters.add(names[:10])
    counters.add(names)
    values = counters.of(1)
    for name in (":9", ":1022", ":1050", ":1099"):
        ServiceMetrics(values[name]).connected("")
    told = {
        sample.labels["service"]: sample.value for sample in samples(counters) if "connections_total" in sample.name
    }
    assert {name: value for name, value in told.items() if value} == {":9": 1, ":1022": 1, ":1023": 2}
