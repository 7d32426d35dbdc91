"""Counters of connections and headers for `prometheus_client`; the extra ``proxyprotocol[metrics]`` installs it.

Give one object to every receiver: ``Receiver(trusted=["10.0.0.0/8"], metrics=ProxyProtocolMetrics())``. Each counter
has the label ``listener``, the address that a server listens on.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from proxyprotocol._wire import spec
from proxyprotocol.errors import RefusalCode

__all__ = ["ProxyProtocolMetrics", "addresses", "parse_address", "serve_metrics"]

_log = logging.getLogger("proxyprotocol.metrics")
_MULTIPROC: Final = "PROMETHEUS_MULTIPROC_DIR"
_ADDRESS: Final = re.compile(r"(?:(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^][:]+)):)?(?P<port>[1-9][0-9]{0,4})")

#: The hosts and ports where this process answers Prometheus: these listeners read no headers.
addresses: set[Any] = set()

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
        # The listeners of connections that adapters dropped without a word. The garbage collector tells us of them, and
        # may run while this thread holds a lock of prometheus_client.
        self._dropped: deque[str] = deque()
        registry.register(_Dropped(self))  # before the counters that it changes
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
        self._count_dropped()
        self._connections.labels(listener).inc()
        self._pending.labels(listener).inc()
        return _Observation(self, listener)

    def _count_dropped(self) -> None:
        with contextlib.suppress(IndexError):  # until none is left
            while True:
                listener = self._dropped.popleft()
                self._pending.labels(listener).dec()
                self._refusals.labels(listener, RefusalCode.CLOSED.value).inc()

    def handshake_failed(self, listener: str) -> None:
        """Count a connection that was refused after its header, because its TLS handshake failed."""
        self._refusals.labels(listener, RefusalCode.TLS.value).inc()


class _Dropped(Collector):
    """Counts the connections that adapters dropped, before Prometheus gets the counters."""

    def __init__(self, metrics: ProxyProtocolMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        self._metrics._count_dropped()
        return ()


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
        if code is RefusalCode.CLOSED:
            self._metrics._dropped.append(self._listener)
            return
        self._metrics._pending.labels(self._listener).dec()
        self._metrics._refusals.labels(self._listener, code.value).inc()


@functools.cache
def _of_this_process() -> ProxyProtocolMetrics:
    return ProxyProtocolMetrics()


def parse_address(where: str, option: str = "metrics") -> tuple[int, str, int]:
    """Return the family, host and port of an address for :func:`serve_metrics`. Raises ValueError if it is wrong."""
    parts = _ADDRESS.fullmatch(where)
    if parts is None or int(parts["port"]) > spec.MAX_PORT:
        raise ValueError(f"{option} takes PORT, HOST:PORT or [IPV6]:PORT, not {where!r}")
    family = socket.AF_INET6 if parts["ipv6"] else socket.AF_INET
    return family, parts["ipv6"] or parts["host"] or "127.0.0.1", int(parts["port"])


@functools.cache
def serve_metrics(where: str, option: str = "metrics") -> ProxyProtocolMetrics:
    """Return the counters of this process, and answer Prometheus with them.

    Of several processes that serve the same address, the first to come answers. With ``PROMETHEUS_MULTIPROC_DIR`` its
    answers are about all of them.

    Args:
        where: A port on 127.0.0.1, or ``HOST:PORT`` with IPv6 in brackets.
        option: Where the user has written this address, for messages.

    Raises:
        ValueError: There can be no server at this address.
    """
    family, host, port = parse_address(where, option)
    shared, registry = _MULTIPROC in os.environ, REGISTRY
    try:
        # from Python 3.14 http.server sets SO_REUSEPORT, and every process would answer for itself
        with socket.create_server((host, port), family=family) as probe:
            address = probe.getsockname()[:2]
        if shared:
            MultiProcessCollector(registry := CollectorRegistry())  # type: ignore[no-untyped-call]
        addresses.add(address)  # at once: its server may be one of those that we hook into
        start_http_server(port, host, registry)
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
            raise ValueError(f"{option}={where} cannot be served: {error}") from None
        alone = "" if shared else f"; set {_MULTIPROC} to let it count the connections of all workers"
        level = logging.INFO if shared else logging.WARNING
        _log.log(level, "Another process, probably another worker, serves the metrics on %s%s", where, alone)
    return _of_this_process()
