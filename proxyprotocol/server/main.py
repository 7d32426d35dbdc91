"""Floor 6: the ``proxyprotocol-server`` command: a relay that tells the destination who the client is."""

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
    "HOST:PORT, ssl://HOST:PORT or unix:PATH, with options behind a question mark: accept=detect&trusted=::1 for "
    "a source that stands behind a proxy itself, pp=v1 for a destination that wants version 1, cert=FILE for TLS."
)
_BUFFER_LENGTHS: Final = (4096, 1 << 24)
_MOST_WORKERS: Final = 256
_METRICS_BACKLOG: Final = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those behind the command's name; the process's own unless given.

    Returns:
        The exit status: 0 when the relay was ended by a signal, 2 where it could not begin.
    """
    return run_parser(_NAME, _DESCRIPTION, add_arguments, run, arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what arguments the command takes.

    Args:
        parser: The command's.
    """
    add = parser.add_argument
    add(
        "--service",
        nargs=2,
        action="append",
        default=[],
        metavar=("SOURCE:PORT", "DEST:PORT"),
        help="where to listen, and where to connect to; several are possible",
    )
    add("--buf-len", type=_buffer_length, default=BUFFER_LENGTH, metavar="BYTES", help="moved in one go (%(default)s)")
    add("-q", "--quiet", action="store_true", help="log only what goes wrong, not every connection")
    add("--dnsbl", metavar="HOST", help="a DNS block list that is asked about each client")
    add("--dnsbl-timeout", type=_seconds, default=5.0, metavar="SECONDS", help="for its answer (%(default)s)")
    add(
        "--connect-timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="for each address that a destination's name has, its TLS included (%(default)s)",
    )
    add(
        "--idle-timeout",
        type=_seconds_or_none,
        default=3600.0,
        metavar="SECONDS",
        help="how long nothing may move on a connection, 0 for no limit (%(default)s)",
    )
    add(
        "--drain",
        type=_seconds_or_none,
        default=30.0,
        metavar="SECONDS",
        help="how long open connections may go on after SIGTERM (%(default)s)",
    )
    add("--workers", type=_workers, default=1, metavar="N", help="processes that share the work (%(default)s)")
    add("--metrics", metavar="[HOST:]PORT", help="where Prometheus is answered, on 127.0.0.1 without a host")


def run(options: argparse.Namespace) -> int:
    """Relay until a signal ends it.

    Args:
        options: The arguments.

    Returns:
        The exit status.

    Raises:
        ProgramError: An argument is wrong, or an address cannot be had.
    """
    if not options.service:
        raise ProgramError("At least one --service is needed: where to listen, and where to connect to")
    services = [_parse(*addresses) for addresses in options.service]
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO,
        format="%(asctime)s %(process)d %(message)s" if options.workers > 1 else "%(asctime)s %(message)s",
    )
    _raise_file_limit()
    with held_back():
        return _Program(services, options).run()


def _raise_file_limit() -> None:
    """Let this process open as many files as it may, two for each connection.

    The usual soft limit has place for 500 connections. It is there for programs that use ``select()``.
    """
    import resource  # not every system has it on which --help is asked for

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS says that there is no limit, and has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _parse(source: str, destination: str) -> Service:
    try:
        return parse_service(source, destination)
    except ValueError as error:
        raise ProgramError(str(error)) from None


class _Program:
    """Everything that is opened before the first connection is accepted, so that what is wrong is told at once.

    Args:
        services: What is relayed.
        options: The arguments.
    """

    def __init__(self, services: list[Service], options: argparse.Namespace) -> None:
        self._services, self._options = services, options
        self._counters = metrics.Counters(options.workers)
        self._metrics = _listen_for_metrics(options.metrics)
        # of each worker: the sockets of each service
        first = [listen(service.source, reuse_port=options.workers > 1) for service in services]
        self._sockets = [first, *(self._share(first) for _ in range(1, options.workers))]

    def _share(self, first: list[list[socket.socket]]) -> list[list[socket.socket]]:
        pairs = zip(self._services, first, strict=True)
        return [[share(sock, service.source.backlog) for sock in sockets] for service, sockets in pairs]

    def run(self) -> int:
        if self._options.workers == 1:
            return self._work(0, -1)
        workers = Workers(self._options.workers, self._work, self._stop_listening, self._forget)
        return workers.run()

    def _forget(self, worker: int) -> None:
        metrics.reset_open(self._counters.of(worker))

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
            if options.workers == 1:  # of several none removes the path that all have
                unlink(sock)
            sock.close()
        await _first_of(relay.drain(), signals.second.wait(), options.drain or 0)
        relay.close()


def _log_unraisable(what: Any) -> None:
    """Log in one line what Python can raise to nobody: a name in a client's TLS, say, that is none."""
    _log.error("Python ignored an error: %r", what.exc_value)


class _Signals:
    """What the relay is told: by SIGTERM and SIGINT to end, and again to end at once; by SIGHUP to reload.

    Args:
        relay: The relay.
        parent: What a worker is told by to end, in place of the two signals; -1 for none.
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


async def _first_of(one: Any, other: Any, seconds: float) -> None:
    """Wait for the first of two coroutines, and not longer than so many seconds."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    _, pending = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


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
        raise ProgramError(
            "--metrics takes a port, with a host and a colon in front of it or without, and brackets around IPv6, "
            f"not {where!r}"
        ) from None
    if not address.host:  # what is told is not for everybody, unless that is asked for
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
