"""The ``proxyprotocol-server`` command: a relay that tells the destination who the client is."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

from proxyprotocol.dnsbl import Dnsbl
from proxyprotocol.server._process.program import ProgramError, number, run_parser
from proxyprotocol.server._process.signals import ENDING, held_back, let_through
from proxyprotocol.server._process.sockets import listen, listen_at, share, unlink
from proxyprotocol.server._process.workers import Workers
from proxyprotocol.server._relay import metrics
from proxyprotocol.server._relay.lookups import LookUps
from proxyprotocol.server.address import Address
from proxyprotocol.server.relay import BUFFER_LENGTH, Relay, Service, parse_service

__all__ = ["add_arguments", "main", "run"]

_log = logging.getLogger("proxyprotocol.server")

_NAME: Final = "proxyprotocol-server"
_DESCRIPTION: Final = (
    "Relays connections, and tells the destination in a PROXY protocol header who the client is. An address is "
    "HOST:PORT, ssl://HOST:PORT or unix:PATH, with options after a question mark: accept=detect&trusted=::1 for "
    "a source behind another proxy, pp=v1 for a destination that wants version 1, cert=FILE for TLS."
)
_BUFFER_LENGTHS: Final = (4096, 1 << 24)
_MOST_WORKERS: Final = 256
_METRICS_BACKLOG: Final = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the command's name; None for the process's own.

    Returns:
        The exit status: 0 if a signal ended the relay, 2 if it could not start.
    """
    return run_parser(_NAME, _DESCRIPTION, add_arguments, run, arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    add = parser.add_argument
    add(
        "--service",
        nargs=2,
        action="append",
        default=[],
        metavar=("SOURCE:PORT", "DEST:PORT"),
        help="where to listen, and where to connect to; may be repeated",
    )
    add(
        "--buf-len",
        type=_buffer_length,
        default=BUFFER_LENGTH,
        metavar="BYTES",
        help="most bytes to move at once (%(default)s)",
    )
    add("-q", "--quiet", action="store_true", help="log only problems, not every connection")
    add("--dnsbl", metavar="HOST", help="ask this DNS block list about each client")
    add(
        "--dnsbl-timeout",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long to wait for its answer (%(default)s)",
    )
    add(
        "--connect-timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long to try each address of a destination, TLS included (%(default)s)",
    )
    add(
        "--idle-timeout",
        type=_seconds_or_none,
        default=3600.0,
        metavar="SECONDS",
        help="close a connection on which nothing moves for so long; 0: never (%(default)s)",
    )
    add(
        "--drain",
        type=_seconds_or_none,
        default=30.0,
        metavar="SECONDS",
        help="how long open connections may continue after SIGTERM (%(default)s)",
    )
    add("--workers", type=_workers, default=1, metavar="N", help="processes that share the work (%(default)s)")
    add("--metrics", metavar="[HOST:]PORT", help="where to serve metrics for Prometheus; without a host, on 127.0.0.1")


def run(options: argparse.Namespace) -> int:
    """Relay until a signal ends the relay, and return the exit status.

    Raises:
        ProgramError: An argument is wrong, or listening on an address is impossible.
    """
    if not options.service:
        raise ProgramError("At least one --service is needed: where to listen, and where to connect to")
    try:
        services = [parse_service(*addresses) for addresses in options.service]
    except ValueError as error:
        raise ProgramError(str(error)) from None
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO,
        format="%(asctime)s %(process)d %(message)s" if options.workers > 1 else "%(asctime)s %(message)s",
    )
    _raise_file_limit()
    with held_back():
        return _Program(services, options).run()


def _raise_file_limit() -> None:
    """Let this process open as many files as the hard limit allows: each connection takes two.

    The usual soft limit is enough for 500 connections. It protects programs that use ``select()``.
    """
    import resource  # here, so that --help works on systems without it

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS reports no limit, but has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Program:
    """Opens everything before the relay accepts the first connection, so that every error shows at once."""

    def __init__(self, services: list[Service], options: argparse.Namespace) -> None:
        self._services, self._options = services, options
        self._counters = metrics.Counters(options.workers)
        self._metrics = _listen_for_metrics(options.metrics)
        # for each worker, the sockets of each service
        first = [listen(service.source, reuse_port=options.workers > 1) for service in services]
        self._sockets = [first]
        for _ in range(1, options.workers):
            pairs = zip(services, first, strict=True)
            self._sockets.append([[share(sock, service.source.backlog) for sock in own] for service, own in pairs])

    def run(self) -> int:
        if self._options.workers == 1:
            return self._work(0, -1)
        return Workers(self._options.workers, self._work, self._stop_listening, self._counters.reset_open).run()

    def _stop_listening(self) -> None:
        for sock in self._all_sockets():
            unlink(sock)
            sock.close()

    def _all_sockets(self) -> list[socket.socket]:
        return [sock for worker in self._sockets for service in worker for sock in service]

    def _work(self, worker: int, parent: int) -> int:
        own = {sock for service in self._sockets[worker] for sock in service}
        for sock in self._all_sockets():
            if sock not in own:
                sock.close()
        if worker:
            for sock in self._metrics:
                sock.close()
        elif self._metrics:
            metrics.serve(self._metrics, self._counters)
        sys.unraisablehook = _log_unraisable
        lookups = LookUps()
        asyncio.run(self._serve(worker, parent, lookups))
        lookups.leave_the_rest()
        return 0

    async def _serve(self, worker: int, parent: int, lookups: LookUps) -> None:
        options = self._options
        asyncio.get_running_loop().set_default_executor(lookups)
        relay = Relay(
            buffer_length=options.buf_len,
            connect_timeout=options.connect_timeout,
            idle_timeout=options.idle_timeout,
            dnsbl=Dnsbl.load(options.dnsbl, timeout=options.dnsbl_timeout) if options.dnsbl else None,
            counters=self._counters.of(worker),
        )
        signals = _Signals(relay, parent)
        for service, sockets in zip(self._services, self._sockets[worker], strict=True):
            relay.listen(service, sockets)
        await signals.first.wait()
        relay.stop_listening()
        for sock in (sock for service in self._sockets[worker] for sock in service):
            if options.workers == 1:  # several workers share the path: their parent removes it
                unlink(sock)
            sock.close()
        drained = [asyncio.ensure_future(wait) for wait in (relay.drain(), signals.second.wait())]
        _, pending = await asyncio.wait(drained, timeout=options.drain or 0, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        relay.close()


def _log_unraisable(what: Any) -> None:
    """Log an error that Python cannot raise to any caller, such as an invalid name in a client's TLS, in one line."""
    _log.error("Python ignored an error: %r", what.exc_value)


class _Signals:
    """The relay's signals: the first SIGTERM or SIGINT ends it, the second ends it at once, SIGHUP reloads.

    A worker reads from the file descriptor *parent* instead of handling SIGTERM and SIGINT; -1 is no worker.
    """

    def __init__(self, relay: Relay, parent: int) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, relay.reload)
        if parent >= 0:
            loop.add_reader(parent, self._take, loop, parent)
        else:
            for number in ENDING:
                loop.add_signal_handler(number, self._end)
        let_through()

    def _end(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def _take(self, loop: asyncio.AbstractEventLoop, parent: int) -> None:
        told = os.read(parent, 2)
        for _ in told:
            self._end()
        if not told:  # the parent is gone
            loop.remove_reader(parent)
            self.first.set()


def _listen_for_metrics(where: str | None) -> list[socket.socket]:
    if where is None:
        return []
    metrics.check_installed()
    try:
        address = Address(where if ":" in where else f"127.0.0.1:{where}", server=True)
        if address.url.scheme or "?" in where:
            raise ValueError
        address.check(())
    except ValueError:
        raise ProgramError(f"--metrics takes PORT, HOST:PORT or [IPV6]:PORT, not {where!r}") from None
    if not address.host:  # the metrics are not for everybody, unless the user names a host
        address = Address(f"127.0.0.1:{address.port}", server=True)
    try:
        return listen_at(address, _METRICS_BACKLOG, False)
    except ProgramError as error:
        raise ProgramError(f"--metrics: {error}") from None


_buffer_length = number(int, *_BUFFER_LENGTHS, "it takes a number of bytes from {} to {}".format(*_BUFFER_LENGTHS))
_workers = number(int, 1, _MOST_WORKERS, f"it takes a number from 1 to {_MOST_WORKERS}")
_seconds = number(float, 0.001, 1e9, "it takes a number of seconds above 0")
_or_none = number(float, 0, 1e9, "it takes a number of seconds")


def _seconds_or_none(text: str) -> float | None:
    return _or_none(text) or None


if __name__ == "__main__":
    sys.exit(main())
