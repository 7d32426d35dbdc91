"""Counters of connections and headers for `prometheus_client`; the extra ``proxyprotocol[metrics]`` installs it.

Give one object to every receiver: ``Receiver(trusted=["10.0.0.0/8"], metrics=ProxyProtocolMetrics())``. Each counter
has the label ``listener``, the address that a server listens on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from proxyprotocol.errors import RefusalCode

__all__ = ["ProxyProtocolMetrics"]

# seconds: a header in the first packet takes less than a millisecond; the default limit is 5
_BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0)


class ProxyProtocolMetrics:
    """Counts the connections of receivers.

    In several processes, follow the multi-process mode of `prometheus_client`: set ``PROMETHEUS_MULTIPROC_DIR`` before
    the program starts, and these counters work as they are.

    Args:
        registry: Where to register the counters. Make one object for each registry.
        clock: Returns the time in seconds; it does not go back.

    Raises:
        ValueError: The registry has these counters already.
    """

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock

        def labels(*more: str) -> dict[str, Any]:
            return {"labelnames": ("listener", *more), "namespace": "proxyprotocol", "registry": registry}

        self._connections = Counter("connections", "Connections that were accepted.", **labels())
        self._headers = Counter("headers_received", "Headers at the front of connections.", **labels("version"))
        self._refusals = Counter("refusals", "Connections that were refused.", **labels("reason"))
        self._seconds = Histogram(
            "header_seconds", "Seconds from accept to the whole header.", buckets=_BUCKETS, **labels()
        )
        self._pending = Gauge(
            "pending_headers",
            "Connections that wait for their header.",
            multiprocess_mode="livesum",
            **labels(),
        )

    def connected(self, listener: str) -> _Observation:
        """Count a new connection of a listener, which is named by its address."""
        self._connections.labels(listener).inc()
        self._pending.labels(listener).inc()
        return _Observation(self, listener)


class _Observation:
    """One connection that waits for its header."""

    __slots__ = ("_listener", "_metrics", "_since")

    def __init__(self, metrics: ProxyProtocolMetrics, listener: str) -> None:
        self._metrics, self._listener, self._since = metrics, listener, metrics._clock()

    def accepted(self, version: str | None) -> None:
        metrics, listener = self._metrics, self._listener
        metrics._pending.labels(listener).dec()
        if version is not None:
            metrics._headers.labels(listener, version).inc()
            metrics._seconds.labels(listener).observe(metrics._clock() - self._since)

    def refused(self, code: RefusalCode) -> None:
        self._metrics._pending.labels(self._listener).dec()
        self._metrics._refusals.labels(self._listener, code.value).inc()
