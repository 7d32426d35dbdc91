"""The counters for Prometheus."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from proxyprotocol import ProxyProtocolError, ProxyProtocolV1, ProxyProtocolV2, ProxyResultIPv4, Receiver, metrics
from proxyprotocol.metrics import ProxyProtocolMetrics

PEER, LOCAL = ("10.0.0.1", 40000), ("10.0.0.2", 80)
RESULT = ProxyResultIPv4((IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 443))
ON_HERE = '{listener="here"}'


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def receiver(registry: CollectorRegistry, time: Time) -> Receiver:
    return Receiver(trusted="10.0.0.0/8", metrics=ProxyProtocolMetrics(registry, clock=time), listener="here")


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"proxyprotocol_{name}", {"listener": "here", **labels})


def test_everything_is_counted(receiver: Receiver, registry: CollectorRegistry, time: Time) -> None:
    waiting = receiver.connection(PEER, LOCAL)
    assert sample(registry, "pending_headers") == 1
    time.now = 0.3
    waiting.feed(ProxyProtocolV2().pack(RESULT))
    receiver.connection(PEER, LOCAL).feed(ProxyProtocolV1().pack(RESULT))
    with pytest.raises(ProxyProtocolError):
        receiver.connection(PEER, LOCAL).feed(b"GET /")
    with pytest.raises(ProxyProtocolError):
        receiver.connection(("192.0.2.1", 1), LOCAL)
    closed = receiver.connection(PEER, LOCAL)
    del closed
    gc.collect()
    assert sample(registry, "connections_total") == 5
    assert sample(registry, "headers_received_total", version="v1") == 1
    assert sample(registry, "headers_received_total", version="v2") == 1
    for reason in ("no_header", "untrusted", "closed"):
        assert sample(registry, "refusals_total", reason=reason) == 1
    assert sample(registry, "pending_headers") == 0
    assert sample(registry, "header_seconds_sum") == pytest.approx(0.3)
    assert sample(registry, "header_seconds_bucket", le="0.1") == 1
    assert sample(registry, "header_seconds_bucket", le="0.5") == 2


def test_a_registry_has_them_once(registry: CollectorRegistry) -> None:
    ProxyProtocolMetrics(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        ProxyProtocolMetrics(registry)


def test_several_processes_are_counted_together(tmp_path: Path) -> None:
    program = """
from proxyprotocol import Receiver, ProxyProtocolV2, ProxyResultIPv4
from proxyprotocol.metrics import ProxyProtocolMetrics
receiver = Receiver(trusted="any", metrics=ProxyProtocolMetrics(), listener="here")
header = ProxyProtocolV2().pack(ProxyResultIPv4(("203.0.113.7", 1), ("198.51.100.9", 2)))
receiver.connection(("10.0.0.1", 1), None).feed(header)
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    collect = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""
    done = subprocess.run(
        [sys.executable, "-c", collect], env=environment, check=True, timeout=60, capture_output=True, text=True
    )
    assert f"proxyprotocol_connections_total{ON_HERE} 2.0" in done.stdout


def test_the_garbage_collector_never_waits_for_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run where this thread holds the lock of prometheus_client's files, which is not reentrant: a deadlock."""
    registry = CollectorRegistry()
    receiver = Receiver(metrics=ProxyProtocolMetrics(registry), listener="here")
    connection, labels = receiver.connection(None, None), {"listener": "here"}
    with monkeypatch.context() as patch:
        patch.setattr("prometheus_client.metrics.MetricWrapperBase.labels", None)  # every count asks for it
        patch.setattr("sys.unraisablehook", lambda raised: raised_errors.append(raised.exc_value))
        raised_errors: list[Any] = []
        del connection
        gc.collect()
        assert raised_errors == []
    assert registry.get_sample_value("proxyprotocol_refusals_total", labels | {"reason": "closed"}) == 1
    assert registry.get_sample_value("proxyprotocol_pending_headers", labels) == 0


def test_the_next_connection_counts_those_that_were_dropped() -> None:
    """In the multi-process mode another process answers Prometheus."""
    counters = ProxyProtocolMetrics(CollectorRegistry())
    for _ in range(3):
        Receiver(metrics=counters).connection(None, None)
        gc.collect()
        assert len(counters._dropped) == 1  # no public name tells what is not counted yet


def test_counters_of_several_processes_are_those_of_the_living(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, dict[str, Any]] = {}
    for kind in ("Gauge", "Histogram"):
        original = getattr(metrics, kind)

        def make(name: str, *rest: Any, original: Any = original, **keywords: Any) -> Any:
            made[name] = keywords
            return original(name, *rest, **keywords)

        monkeypatch.setattr(metrics, kind, make)
    ProxyProtocolMetrics(CollectorRegistry())
    assert made["pending_headers"]["multiprocess_mode"] == "livesum"
    assert made["header_seconds"]["buckets"] == (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0)
