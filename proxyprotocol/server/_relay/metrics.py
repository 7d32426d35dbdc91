"""Floor 6: what the relay counts, and how Prometheus gets to know it."""

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
_LONGEST: Final = 10.0  # seconds for a question of Prometheus and its answer
_MOST_ASKERS: Final = 16  # at once, each of whom costs a thread
_PARTING: Final = 1.0  # seconds for the thread of one that was cut
_REASONS: Final = (
    (ProxyProtocolUntrustedError, "untrusted"),
    (ProxyProtocolMissingError, "missing"),
    (ProxyProtocolIncompleteError, "incomplete"),
    (ProxyProtocolTimeoutError, "timeout"),
)


def refusal(reason: str) -> int:
    """Give the number of the counter of a refusal.

    Args:
        reason: One of :data:`REFUSALS`.
    """
    return _NUMBERS["refusals", reason]


def refusal_of(error: ProxyProtocolError) -> int:
    """Give the number of the counter of a refusal.

    Args:
        error: Why the connection is refused.
    """
    return refusal(next((reason for kind, reason in _REASONS if isinstance(error, kind)), "malformed"))


def header(direction: str, first: int) -> int:
    """Give the number of the counter of a header.

    Args:
        direction: ``received`` or ``sent``.
        first: The first byte of the header.
    """
    return _NUMBERS[f"headers_{direction}", "v1" if first == ord("P") else "v2"]


class Counters:
    """The numbers of all workers, in memory that they share: whoever is asked can answer for all.

    Args:
        workers: How many there are.
    """

    def __init__(self, workers: int) -> None:
        # anonymous, and shared with every process that is forked later
        self._memory = mmap.mmap(-1, workers * _SIZE)
        everything = memoryview(self._memory)
        self._workers = [everything[at : at + _SIZE].cast("q") for at in range(0, workers * _SIZE, _SIZE)]

    def of(self, worker: int) -> memoryview:
        """Give the numbers of one worker, who alone writes them.

        Args:
            worker: Which, from 0.
        """
        return self._workers[worker]

    def total(self, number: int) -> int:
        """Add up one number.

        Args:
            number: Which.
        """
        return sum(values[number] for values in self._workers)

    def collect(self) -> Iterator[Any]:
        """Give everything as Prometheus wants it."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, text, label, values in _COUNTERS:
            family = CounterMetricFamily(f"proxyprotocol_{name}", text, labels=[label] if label else [])
            for value in values:
                family.add_metric([value] if label else [], self.total(_NUMBERS[name, value]))
            yield family
        yield GaugeMetricFamily("proxyprotocol_open_connections", "Connections that are open.", self.total(OPEN))


def check_installed() -> None:
    """Refuse to promise metrics without the library for them.

    Raises:
        ProgramError: There is none.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ProgramError(
            f"--metrics needs prometheus_client ({error}): the extra proxyprotocol[metrics] installs it"
        ) from None


def serve(listeners: list[socket.socket], counters: Counters) -> None:
    """Answer Prometheus in threads, for as long as the process lives.

    Args:
        listeners: Where, listening sockets.
        counters: What is told.
    """
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    from prometheus_client import CollectorRegistry, make_wsgi_app

    class Handler(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True
        # of all listeners: places for askers, and when each has come, the oldest first
        free = threading.Semaphore(_MOST_ASKERS)
        askers: ClassVar[dict[Any, float]] = {}

        def verify_request(self, request: Any, client_address: Any) -> bool:
            if not self.free.acquire(blocking=False):
                # the oldest gives way: silent askers must not keep the others out
                _cut(self.askers, list(self.askers)[:1])
                if not self.free.acquire(timeout=_PARTING):
                    return False
            self.askers[request] = time.monotonic()
            return True

        def service_actions(self) -> None:
            # for the whole of it: whoever sends a byte now and then must not keep a thread
            now = time.monotonic()
            _cut(self.askers, [asker for asker, begun in list(self.askers.items()) if now - begun > _LONGEST])

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                self.askers.pop(request, None)
                self.free.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # the asker has gone

    registry = CollectorRegistry()
    registry.register(counters)
    for listener in listeners:
        server = Server(listener.getsockname()[:2], Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        # what server_bind() would have set, which looks the name of this machine up and may take long
        server.server_name, server.server_port = listener.getsockname()[:2]
        server.setup_environ()
        server.set_app(make_wsgi_app(registry))
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _cut(askers: dict[Any, float], some: list[Any]) -> None:
    for asker in some:
        askers.pop(asker, None)
        with contextlib.suppress(OSError):  # it has ended just now
            asker.shutdown(socket.SHUT_RDWR)


def reset_open(values: memoryview) -> None:
    """Forget the open connections of a worker that has died.

    Args:
        values: Its numbers.
    """
    values[OPEN] = 0
