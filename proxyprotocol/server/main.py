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
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from proxyprotocol.dnsbl import Dnsbl
from proxyprotocol.server._process.program import ArgumentParser, ProgramError, escape, number, run_program
from proxyprotocol.server._process.services import Services
from proxyprotocol.server._process.signals import ENDING, held_back, let_through
from proxyprotocol.server._process.sockets import listen_at
from proxyprotocol.server._process.workers import Order, Parent, Workers
from proxyprotocol.server._relay import metrics
from proxyprotocol.server.address import Address
from proxyprotocol.server.relay import BUFFER_LENGTH, Relay

__all__ = ["add_arguments", "main", "make_parser", "run"]

_log = logging.getLogger("proxyprotocol.server")

_NAME: Final = "proxyprotocol-server"
_DESCRIPTION: Final = """\
Relay connections, and tell the destination in a PROXY protocol header who the
client is. An address is HOST:PORT, ssl://HOST:PORT or unix:PATH, to listen on
also systemd:NAME, with options after a question mark: accept=detect&trusted=::1
for a source behind another proxy, pp=v1 for a destination that wants version 1,
transparent=yes for one that knows no headers, cert=FILE for TLS.
"""
_EXAMPLES: Final = """\
examples:
  %(prog)s --service :80 app.internal:8080
  %(prog)s --service 'ssl://:443?cert=s.pem' 'app:8080?pp=v1'
  %(prog)s --service ':80?accept=detect&trusted=::1' unix:/app
  %(prog)s --services services.toml --metrics 9100
"""
_METRICS_BACKLOG: Final = 16
_AGAIN: Final = 1.0  # seconds until a worker tries again what its parent could do


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the command's name; None for the process's own.

    Returns:
        The exit status: 0 if a signal ended the relay, 2 if it could not start.
    """
    return run_program(_NAME, lambda: run(make_parser().parse_args(arguments)))


def make_parser() -> ArgumentParser:
    """Return the command's parser, from which the manual page is made too."""
    parser = ArgumentParser(_NAME)
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    add = parser.add_argument
    add(
        "--service",
        nargs=2,
        action="append",
        default=[],
        metavar=("SOURCE:PORT", "DEST:PORT"),
        help="where to listen, and where to connect to; may be repeated",
    )
    add("--services", metavar="FILE", help="a TOML file with services, each a [[service]]; SIGHUP reads it again")
    length = "most bytes to move at once (%(default)s)"
    add("--buf-len", type=_bytes, default=BUFFER_LENGTH, metavar="BYTES", help=length)
    add("-q", "--quiet", action="store_true", help="log only problems, not every connection")
    add("--dnsbl", metavar="HOST", help="ask this DNS block list about each client")
    for name, kind, default, text in (
        ("--dnsbl-timeout", _seconds, 5.0, "how long to wait for its answer"),
        ("--connect-timeout", _seconds, 10.0, "how long to try each address of a destination, TLS included"),
        ("--idle-timeout", _seconds_or_none, 3600.0, "close a connection on which nothing moves for so long; 0: never"),
        ("--drain", _seconds_or_none, 30.0, "how long open connections may continue after SIGTERM"),
    ):
        add(name, type=kind, default=default, metavar="SECONDS", help=f"{text} (%(default)s)")
    add("--workers", type=_workers, default=1, metavar="N", help="processes that share the work (%(default)s)")
    metrics_help = "where to serve metrics for Prometheus, and /healthz; without a host, on 127.0.0.1"
    add("--metrics", metavar="[HOST:]PORT", help=metrics_help)


def run(options: argparse.Namespace) -> int:
    """Relay until a signal ends the relay, and return the exit status.

    Raises:
        ProgramError: An argument is wrong, or listening on an address is impossible.
    """
    if not options.service and options.services is None:
        raise ProgramError("At least one --service is needed: where to listen, and where to connect to")
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO,
        format="%(asctime)s %(process)d %(message)s" if options.workers > 1 else "%(asctime)s %(message)s",
    )
    import resource  # here, so that --help works on systems without it

    # Each connection takes two files. The usual soft limit is enough for 500; it protects programs that use select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS reports no limit, but has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with held_back():
        return _Program(options).run()


class _LookUps(ThreadPoolExecutor):
    """The loop's default executor, which shuts down without waiting.

    Nobody can cancel the system's look-up of a name, and it lasts until the name server answers.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        super().shutdown(wait=False, cancel_futures=True)


class _Program:
    """Opens everything before the relay accepts the first connection, so that every error shows at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._metrics = _listen_for_metrics(options.metrics)
        self._services = Services(options.service, options.services, options.workers)
        self._counters = metrics.Counters(options.workers, self._services.names)
        self._listing: list[Any] = []  # the last of the parent

    def run(self) -> int:
        if self._options.workers == 1:
            return self._work(0, None)
        workers = Workers(
            self._options.workers, self._work, self._stop_listening, self._counters.reset_gauges, self._reload_in_parent
        )
        return workers.run()

    def _stop_listening(self) -> None:
        """Close the parent's sockets. A worker that ends closes the last copy of its own, so that none waits there."""
        self._services.close(remove=True)
        for sock in self._metrics:
            sock.close()

    def _reload(self) -> bool:
        """Read the file again, and return whether the services may have changed. If it is wrong, they stay."""
        if self._options.services is None:
            return False
        try:
            summary = self._services.reload()
            self._counters.add(self._services.names)
        except Exception as error:  # whatever it is, the relay goes on; only what nobody expects has a traceback
            _log.error("The old services stay: %s", escape(str(error)), exc_info=not isinstance(error, ProgramError))
            return False
        _log.info("Read %s again: services: %s", self._options.services, summary)
        return True

    def _reload_in_parent(self) -> Callable[[int], Iterable[tuple[Order, list[int]]]]:
        if self._reload():
            self._services.close_unused()
        return self._services.orders

    def _work(self, worker: int, parent: Parent | None) -> int:
        """Do the work of one process, which a parent may give orders."""
        self._services.keep(worker)
        if worker:
            for sock in self._metrics:
                sock.close()
        # what Python cannot raise to any caller, such as an invalid name in a client's TLS, is one line
        sys.unraisablehook = lambda what: _log.error("Python ignored an error: %r", what.exc_value)
        asyncio.run(self._serve(worker, parent))
        if threading.active_count() > 1:  # a look-up still runs, and Python would wait for it at exit
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        return 0

    async def _serve(self, worker: int, parent: Parent | None) -> None:
        options = self._options
        loop = asyncio.get_running_loop()
        loop.set_default_executor(_LookUps())
        relay = Relay(
            buffer_length=options.buf_len,
            connect_timeout=options.connect_timeout,
            idle_timeout=options.idle_timeout,
            dnsbl=Dnsbl.load(options.dnsbl, timeout=options.dnsbl_timeout) if options.dnsbl else None,
            counters=self._counters.of(worker),
        )
        ending, at_once, hangup = asyncio.Event(), asyncio.Event(), asyncio.Event()

        def end() -> None:
            (at_once if ending.is_set() else ending).set()

        if parent is None:
            loop.add_signal_handler(signal.SIGHUP, hangup.set)
            for number in ENDING:
                loop.add_signal_handler(number, end)
        else:
            loop.add_reader(parent, self._obey, parent, relay, worker, end, ending)
        let_through()
        if self._metrics and not worker:
            await metrics.serve(self._metrics, self._counters, lambda: not ending.is_set())
        relay.serve(self._services.of(worker))
        reloads = loop.create_task(self._reload_when(hangup, ending, relay))
        await ending.wait()
        self._listing = []
        relay.stop_listening()
        # several workers share the path of a UNIX socket: their parent removes it
        self._services.close(remove=parent is None)
        drained = [asyncio.ensure_future(wait) for wait in (relay.drain(), at_once.wait())]
        _, pending = await asyncio.wait(drained, timeout=options.drain or 0, return_when=asyncio.FIRST_COMPLETED)
        for task in (reloads, *pending):
            task.cancel()
        relay.close()

    async def _reload_when(self, hangup: asyncio.Event, ending: asyncio.Event, relay: Relay) -> None:
        """Read everything again after each SIGHUP, in a thread: files and names of hosts may take their time."""
        while True:
            await hangup.wait()
            hangup.clear()
            changed = await asyncio.get_running_loop().run_in_executor(None, self._reload)
            if ending.is_set():
                self._services.close(remove=True)
                return
            if changed:
                relay.serve(self._services.of(0))
                self._services.close_unused()
            relay.reload()

    def _obey(self, parent: Parent, relay: Relay, worker: int, end: Callable[[], None], ending: asyncio.Event) -> None:
        """Follow the orders of the parent, in a worker."""
        try:
            for (word, what), descriptors in parent.read():
                if word == "count":
                    self._counters.add(what)
                elif word == "open":
                    self._services.take(what, descriptors)
                elif word == "serve":
                    self._listing = what
                    self._follow(what, relay, worker)
                else:
                    end()
        except EOFError:  # the parent is gone
            relay.loop.remove_reader(parent)
            ending.set()

    def _follow(self, listing: list[Any], relay: Relay, worker: int) -> None:
        """Serve what the parent has listed, unless it has listed something else since."""
        if listing is not self._listing:
            return
        try:
            self._services.follow(listing)
        except ValueError as error:  # a file has changed since the parent read it, and may be half-written
            _log.error("This worker keeps its old services, and tries again: %s", escape(str(error)))
            relay.loop.call_later(_AGAIN, self._follow, listing, relay, worker)
        else:
            relay.serve(self._services.of(worker))
            self._services.close_unused(remove=False)
        relay.reload()


def _listen_for_metrics(where: str | None) -> list[socket.socket]:
    if where is None:
        return []
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ProgramError(
            f"--metrics needs prometheus_client ({error}): the extra proxyprotocol[metrics] installs it"
        ) from None
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


_bytes = number(int, 4096, 1 << 24, f"it takes a number of bytes from 4096 to {1 << 24}")
_workers = number(int, 1, 256, "it takes a number from 1 to 256")
_seconds = number(float, 0.001, 1e9, "it takes a number of seconds above 0")
_or_none = number(float, 0, 1e9, "it takes a number of seconds")


def _seconds_or_none(text: str) -> float | None:
    return _or_none(text) or None


if __name__ == "__main__":
    sys.exit(main())
