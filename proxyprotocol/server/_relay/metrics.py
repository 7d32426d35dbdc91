"""The relay's counters, and the server that Prometheus asks for them."""

from __future__ import annotations

import contextlib
import mmap
import socket
import threading
import time
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from typing import Any, ClassVar, Final, NamedTuple

from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolMissingError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
)
from proxyprotocol.server._process.program import ProgramError

__all__: list[str] = []


class _Counter(NamedTuple):
    name: str
    text: str
    label: str
    values: tuple[str, ...]


REFUSALS: Final = ("untrusted", "missing", "incomplete", "timeout", "malformed", "tls", "destination")
_COUNTERS: Final = (
    _Counter("connections", "Connections that were accepted.", "", ("",)),
    _Counter("bytes", "Bytes that were relayed, without headers.", "direction", ("up", "down")),
    _Counter("headers_received", "Headers at the front of connections.", "version", ("v1", "v2")),
    _Counter("headers_sent", "Headers sent to the destination.", "version", ("v1", "v2")),
    _Counter("refusals", "Connections that were refused.", "reason", REFUSALS),
)
_NUMBERS: Final = {
    (counter.name, value): number
    for number, (counter, value) in enumerate((counter, value) for counter in _COUNTERS for value in counter.values)
}
OPEN: Final = len(_NUMBERS)
CONNECTIONS: Final = _NUMBERS["connections", ""]
BYTES_UP: Final = _NUMBERS["bytes", "up"]
BYTES_DOWN: Final = _NUMBERS["bytes", "down"]
_SIZE: Final = 8 * (len(_NUMBERS) + 1)
_LONGEST: Final = 10.0  # seconds for one request and its response
_MOST_REQUESTS: Final = 16  # at once: each takes a thread
_CUT: Final = 1.0  # seconds in which the thread of a request that was cut must end
_REASONS: Final = (
    (ProxyProtocolUntrustedError, "untrusted"),
    (ProxyProtocolMissingError, "missing"),
    (ProxyProtocolIncompleteError, "incomplete"),
    (ProxyProtocolTimeoutError, "timeout"),
)


def refusal(reason: str) -> int:
    """Return the number of the counter for one of :data:`REFUSALS`."""
    return _NUMBERS["refusals", reason]


def refusal_of(error: ProxyProtocolError) -> int:
    """Return the number of the counter for a connection that is refused with this error."""
    return refusal(next((reason for kind, reason in _REASONS if isinstance(error, kind)), "malformed"))


def header(direction: str, first: int) -> int:
    """Return the number of the counter of headers ``received`` or ``sent`` that begin with the byte *first*."""
    return _NUMBERS[f"headers_{direction}", "v1" if first == ord("P") else "v2"]


class Counters:
    """The counters of all workers, in memory that they share: the worker that Prometheus asks answers for all."""

    def __init__(self, workers: int) -> None:
        # anonymous memory, which every process that is forked later shares
        self._memory = mmap.mmap(-1, workers * _SIZE)
        everything = memoryview(self._memory)
        self._workers = [everything[at : at + _SIZE].cast("q") for at in range(0, workers * _SIZE, _SIZE)]

    def of(self, worker: int) -> memoryview:
        """Return the counters of one worker, from 0. Only that worker writes them."""
        return self._workers[worker]

    def reset_open(self, worker: int) -> None:
        """Forget the open connections of a worker that has died."""
        self._workers[worker][OPEN] = 0

    def total(self, number: int) -> int:
        """Return the sum of one counter over all workers."""
        return sum(values[number] for values in self._workers)

    def collect(self) -> Iterator[Any]:
        """Yield all counters as Prometheus' own classes."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, text, label, values in _COUNTERS:
            family = CounterMetricFamily(f"proxyprotocol_{name}", text, labels=[label] if label else [])
            for value in values:
                family.add_metric([value] if label else [], self.total(_NUMBERS[name, value]))
            yield family
        yield GaugeMetricFamily("proxyprotocol_open_connections", "Connections that are open.", self.total(OPEN))


def check_installed() -> None:
    """Raise a :class:`ProgramError` if the library for metrics is missing."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ProgramError(
            f"--metrics needs prometheus_client ({error}): the extra proxyprotocol[metrics] installs it"
        ) from None


def serve(listeners: list[socket.socket], counters: Counters) -> None:
    """Answer Prometheus in threads until the process ends; *listeners* are listening sockets."""
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    from prometheus_client import CollectorRegistry, make_wsgi_app

    class Handler(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True
        # for all listeners together: free places, and the start of each request, the oldest first
        free = threading.Semaphore(_MOST_REQUESTS)
        requests: ClassVar[dict[Any, float]] = {}

        def verify_request(self, request: Any, client_address: Any) -> bool:
            if not self.free.acquire(blocking=False):
                # cut the oldest: silent clients must not keep others out
                self.cut(list(self.requests)[:1])
                if not self.free.acquire(timeout=_CUT):
                    return False
            self.requests[request] = time.monotonic()
            return True

        def service_actions(self) -> None:
            # one deadline for the whole request: a client that sends a byte now and then must not keep a thread
            now = time.monotonic()
            self.cut([request for request, begun in list(self.requests.items()) if now - begun > _LONGEST])

        def cut(self, requests: list[Any]) -> None:
            for request in requests:
                self.requests.pop(request, None)
                with contextlib.suppress(OSError):  # the request has just ended
                    request.shutdown(socket.SHUT_RDWR)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                self.requests.pop(request, None)
                self.free.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # the client has gone

    registry = CollectorRegistry()
    registry.register(counters)
    for listener in listeners:
        server = Server(listener.getsockname()[:2], Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        # server_bind() would set these, but it looks up the name of this machine, which may take long
        server.server_name, server.server_port = listener.getsockname()[:2]
        server.setup_environ()
        server.set_app(make_wsgi_app(registry))
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
