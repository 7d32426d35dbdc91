"""The relay's counters, and the server that Prometheus asks for them."""

from __future__ import annotations

import asyncio
import mmap
import socket
from collections.abc import Callable, Iterable, Iterator
from email.parser import BytesHeaderParser
from typing import Any, Final

from proxyprotocol.asyncio import start_server
from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolMissingError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
)
from proxyprotocol.policy import HeaderPolicy

_REASONS: Final = ("untrusted", "missing", "incomplete", "timeout", "malformed", "tls", "destination")
# name, description, label, and the values of the label
_COUNTERS: Final = (
    ("connections", "Connections that were accepted.", "", ("",)),
    ("bytes", "Bytes that were relayed, without headers.", "direction", ("up", "down")),
    ("headers_received", "Headers at the front of connections.", "version", ("v1", "v2")),
    ("headers_sent", "Headers sent to the destination.", "version", ("v1", "v2")),
    ("refusals", "Connections that were refused.", "reason", _REASONS),
)
_KEYS: Final = [(name, value) for name, _, _, values in _COUNTERS for value in values]
_NUMBERS: Final = {key: number for number, key in enumerate(_KEYS)}
CONNECTIONS: Final = _NUMBERS["connections", ""]
BYTES_UP: Final = _NUMBERS["bytes", "up"]
BYTES_DOWN: Final = _NUMBERS["bytes", "down"]
OPEN: Final = len(_NUMBERS)
#: By the first byte of the header.
HEADERS_RECEIVED: Final = {ord("P"): _NUMBERS["headers_received", "v1"], ord("\r"): _NUMBERS["headers_received", "v2"]}
HEADERS_SENT: Final = {ord("P"): _NUMBERS["headers_sent", "v1"], ord("\r"): _NUMBERS["headers_sent", "v2"]}
#: By the reason.
REFUSALS: Final = {reason: _NUMBERS["refusals", reason] for reason in _REASONS}
_REASONS_OF_ERRORS: Final[dict[type[ProxyProtocolError], str]] = {
    ProxyProtocolUntrustedError: "untrusted",
    ProxyProtocolMissingError: "missing",
    ProxyProtocolIncompleteError: "incomplete",
    ProxyProtocolTimeoutError: "timeout",
}
_SIZE: Final = 8 * (len(_NUMBERS) + 1)
_LONGEST: Final = 10.0  # seconds for one request and its response
_MOST_REQUESTS: Final = 16  # at once


def refusal_of(error: ProxyProtocolError) -> int:
    """Return the number of the counter for a connection that is refused with this error."""
    return REFUSALS[_REASONS_OF_ERRORS.get(type(error), "malformed")]


class Counters:
    """The counters of all workers, in memory that they share: the worker that Prometheus asks answers for all."""

    def __init__(self, workers: int) -> None:
        # anonymous memory, which every process that is forked later shares
        everything = memoryview(mmap.mmap(-1, workers * _SIZE))
        self._workers = [everything[at : at + _SIZE].cast("q") for at in range(0, workers * _SIZE, _SIZE)]

    def of(self, worker: int) -> memoryview:
        """Return the counters of one worker, from 0. Only that worker writes them."""
        return self._workers[worker]

    def reset_open(self, worker: int) -> None:
        """Forget the open connections of a worker that has died."""
        self._workers[worker][OPEN] = 0

    def collect(self) -> Iterator[Any]:
        """Yield all counters, added up over the workers, as Prometheus' own classes."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        totals = [sum(values) for values in zip(*self._workers, strict=True)]
        for name, text, label, values in _COUNTERS:
            family = CounterMetricFamily(f"proxyprotocol_{name}", text, labels=[label] if label else [])
            for value in values:
                family.add_metric([value] if label else [], totals[_NUMBERS[name, value]])
            yield family
        yield GaugeMetricFamily("proxyprotocol_open_connections", "Connections that are open.", totals[OPEN])


async def serve(listeners: list[socket.socket], counters: Counters) -> None:
    """Answer Prometheus on listening sockets for as long as the loop runs."""
    from prometheus_client import CollectorRegistry, make_wsgi_app

    registry = CollectorRegistry()
    registry.register(counters)
    application = make_wsgi_app(registry)
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
