"""The relay's counters, and the server that Prometheus asks for them.

The names are those of :mod:`proxyprotocol.metrics`. Here is a second implementation, because the relay's workers share
their counters, and count without ``prometheus_client`` too.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.parser import BytesHeaderParser
from importlib.metadata import version
from itertools import accumulate
from typing import Any, Final

from proxyprotocol.asyncio import start_server
from proxyprotocol.errors import RefusalCode
from proxyprotocol.policy import HeaderPolicy
from proxyprotocol.result import describe_address

_log = logging.getLogger("proxyprotocol.server")

_BUCKETS: Final = ("0.0005", "0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1.0", "2.5", "5.0", "+Inf")
_NANOSECONDS: Final = 10**9
# kind, name, description, label, and the values of the label
_TABLE: Final = (
    ("Counter", "connections", "Connections that were accepted.", "", ("",)),
    ("Counter", "bytes", "Bytes that were relayed, without headers.", "direction", ("up", "down")),
    ("Counter", "headers_received", "Headers at the front of connections.", "version", ("v1", "v2")),
    ("Counter", "headers_sent", "Headers sent to the destination.", "version", ("v1", "v2")),
    ("Counter", "refusals", "Connections that were refused.", "reason", tuple(code.value for code in RefusalCode)),
    ("Histogram", "header_seconds", "Seconds from accept to the whole header.", "", (*_BUCKETS, "nanoseconds")),
    ("Gauge", "pending_headers", "Connections that wait for their header.", "", ("",)),
    ("Gauge", "open_connections", "Connections that are open.", "", ("",)),
)
_KEYS: Final = [(name, value) for _, name, _, _, values in _TABLE for value in values]
_NUMBERS: Final = {key: number for number, key in enumerate(_KEYS)}
CONNECTIONS: Final = _NUMBERS["connections", ""]
BYTES_UP: Final = _NUMBERS["bytes", "up"]
BYTES_DOWN: Final = _NUMBERS["bytes", "down"]
OPEN: Final = _NUMBERS["open_connections", ""]
_PENDING: Final = _NUMBERS["pending_headers", ""]
_HEADERS_RECEIVED: Final = {name: _NUMBERS["headers_received", name] for name in ("v1", "v2")}
#: By the first byte of the header.
HEADERS_SENT: Final = {ord("P"): _NUMBERS["headers_sent", "v1"], ord("\r"): _NUMBERS["headers_sent", "v2"]}
REFUSALS: Final = {code: _NUMBERS["refusals", code.value] for code in RefusalCode}
_FIRST_BUCKET: Final = _NUMBERS["header_seconds", _BUCKETS[0]]
_LIMITS: Final = [int(float(limit) * _NANOSECONDS) for limit in _BUCKETS[:-1]]
_SUM: Final = _NUMBERS["header_seconds", "nanoseconds"]
_SIZE: Final = 8 * len(_NUMBERS)
# How many services may come while the relay runs, by new names. Memory must be reserved before the workers are forked.
_MORE_SERVICES: Final = 1024
_LONGEST: Final = 10.0  # seconds for one request and its response
_MOST_REQUESTS: Final = 16  # at once
_HEALTH: Final = "/healthz"


class ServiceMetrics:
    """Counts the connections of one service in one process, as a receiver tells them. *values* are its counters."""

    def __init__(self, values: memoryview) -> None:
        self._values = values

    def connected(self, listener: str) -> _Observation:
        """Count a new connection."""
        self._values[CONNECTIONS] += 1
        self._values[_PENDING] += 1
        return _Observation(self._values)

    def handshake_failed(self, listener: str) -> None:
        """Count a connection that was refused after its header, because its TLS handshake failed."""
        self._values[REFUSALS[RefusalCode.TLS]] += 1


class _Observation:
    """One connection that waits for its header."""

    __slots__ = ("_since", "_values")

    def __init__(self, values: memoryview) -> None:
        self._values, self._since = values, time.perf_counter_ns()

    def accepted(self, version: str | None) -> None:
        values = self._values
        values[_PENDING] -= 1
        if version is not None:
            values[_HEADERS_RECEIVED[version]] += 1
            took = time.perf_counter_ns() - self._since
            values[_FIRST_BUCKET + bisect_left(_LIMITS, took)] += 1
            values[_SUM] += took

    def refused(self, code: RefusalCode) -> None:
        self._values[_PENDING] -= 1
        self._values[REFUSALS[code]] += 1


class Counters:
    """The counters of all workers, in memory that they share: the worker that Prometheus asks answers for all.

    Each worker has counters for each of *services*, which are their names. Services of one name share them.
    """

    def __init__(self, workers: int, services: Sequence[str]) -> None:
        self._most = len(services) + _MORE_SERVICES
        # Anonymous memory, which every process that is forked later shares. The system provides what is used.
        self._memory = memoryview(mmap.mmap(-1, workers * self._most * _SIZE))
        self._workers: list[dict[str, memoryview]] = [{} for _ in range(workers)]
        self._services: list[str] = []
        self.add(services)

    def add(self, services: Sequence[str]) -> None:
        """Add services. Each process must do this with the same names in the same order.

        Where there is no room for more, the last name counts for all others too.
        """
        for service in services:
            if service in self._workers[0]:
                continue
            if len(self._services) < self._most:
                self._services.append(service)
            for worker, counters in enumerate(self._workers):
                at = (worker * self._most + len(self._services) - 1) * _SIZE
                counters[service] = self._memory[at : at + _SIZE].cast("q")

    def of(self, worker: int) -> dict[str, memoryview]:
        """Return the counters of one worker, from 0, by the names of the services. Only that worker writes them."""
        return self._workers[worker]

    def reset_gauges(self, worker: int) -> None:
        """Forget the open connections of a worker that has died."""
        for values in self._workers[worker].values():
            values[OPEN] = values[_PENDING] = 0

    def collect(self) -> Iterator[Any]:
        """Yield all counters, added up over the workers, as Prometheus' own classes."""
        from prometheus_client import core

        yield core.InfoMetricFamily(
            "proxyprotocol_build", "The installed version.", {"version": version("proxyprotocol")}
        )
        totals = {
            service: [sum(values) for values in zip(*(worker[service] for worker in self._workers), strict=True)]
            for service in self._services
        }
        for kind, name, text, label, values in _TABLE:
            # "listener" is the adapters' name: the same queries count both
            labels = ["listener", "service", label] if label else ["listener", "service"]
            family = getattr(core, f"{kind}MetricFamily")(f"proxyprotocol_{name}", text, labels=labels)
            for service, numbers in totals.items():
                told = [numbers[_NUMBERS[name, value]] for value in values]
                if kind == "Histogram":
                    buckets = list(zip(_BUCKETS, accumulate(told[:-1]), strict=True))
                    family.add_metric([service, service], buckets, told[-1] / _NANOSECONDS)
                    continue
                for value, total in zip(values, told, strict=True):
                    family.add_metric([service, service, value] if label else [service, service], total)
            yield family


async def serve(listeners: list[socket.socket], counters: Counters, ready: Callable[[], bool] = lambda: True) -> None:
    """Answer Prometheus on listening sockets for as long as the loop runs, and health checks by *ready*."""
    from prometheus_client import CollectorRegistry, make_wsgi_app

    registry = CollectorRegistry()
    registry.register(counters)
    exporter: Callable[[Any, Any], Iterable[bytes]] = make_wsgi_app(registry)

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != _HEALTH:
            return exporter(environ, start_response)
        allowed = environ["REQUEST_METHOD"] in ("GET", "HEAD")
        status = "405 Method Not Allowed" if not allowed else "200 OK" if ready() else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain"), ("Cache-Control", "no-store")])
        return [b"ok\n" if ready() else b"ending\n"] if environ["REQUEST_METHOD"] == "GET" else []

    requests: dict[asyncio.StreamWriter, None] = {}  # the oldest first

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(requests) == _MOST_REQUESTS:
            oldest = next(iter(requests))  # silent clients must not keep others out
            del requests[oldest]
            oldest.transport.abort()
        requests[writer] = None
        try:
            await asyncio.wait_for(_answer(application, reader, writer), _LONGEST)
        except (OSError, EOFError, asyncio.TimeoutError):
            pass  # the client has left, or is too slow
        except asyncio.CancelledError:
            pass  # the loop ends; until CPython 3.12, asyncio logs a traceback for a cancelled task of a stream
        finally:
            requests.pop(writer, None)
            writer.transport.abort()

    for listener in listeners:
        _log.info("Serving metrics on http://%s/metrics", describe_address(listener.getsockname()))
        await start_server(answer, sock=listener, policy=HeaderPolicy.SKIP)


async def _answer(
    application: Callable[[Any, Any], Iterable[bytes]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one request by a WSGI application that uses only these parts of the environment."""
    head: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        head[:] = (f"HTTP/1.0 {status}", *(f"{name}: {value}" for name, value in headers))

    body = b""
    try:
        line, _, fields = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        method, target, _ = line.decode("latin-1").split(" ")
        path, _, query = target.partition("?")
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
        for name, value in BytesHeaderParser().parsebytes(fields).items():
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = str(value)  # odd bytes make it another type
    except asyncio.LimitOverrunError:
        start_response("431 Request Header Fields Too Large", [])
    except ValueError:
        start_response("400 Bad Request", [])
    else:
        try:
            body = b"".join(application(environ, start_response))
        except Exception:  # prometheus_client raises for some odd values of Accept
            start_response("400 Bad Request", [])
    head.append(f"Content-Length: {len(body)}\r\n\r\n")
    writer.write("\r\n".join(head).encode("latin-1") + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
