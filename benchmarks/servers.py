"""What a PROXY header costs a server on real sockets: throughput, processor time, memory of half-sent headers.

Run ``python -m benchmarks.servers`` or ``python benchmarks/servers.py``; ``--help`` names the options. Linux only.

**How.** Each subject is a server in a process of its own (``server_process.py``), and this process is the client of
all. They take turns, sample by sample, in both orders; a ratio is the median of the ratios of neighbouring samples.

- *bulk*: one connection, a header and then so many MiB; the time until the server has told that it has them all. The
  bare server is sent the header too, as data: without, its reads meet the kernel's pages so well that it is up to
  twice as fast for a reason that has nothing to do with the server.
- *connections*: so many connections in turn, each with a header and one byte behind it, and an answer; the processor
  time that the server took for each. "adds" is that time less the bare server's.
- *half-sent headers*: what the server's memory grows by for each of 800 connections that stop in their header, against
  as many idle connections of the bare server; and how long one whole connection takes meanwhile.
- *import*: the processor time that ``import proxyprotocol.asyncio`` adds to ``import asyncio, ssl``, with compiled
  files: the least of 20 processes, less the least of 20 without it, in turn.
- *closing*: how long ``close()`` and ``wait_closed()`` take among 100 peers that say nothing: the least of three.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Run by its path, this file would else not find its neighbour.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.codecs import peer_interpreter
from proxyprotocol.asyncio import start_server

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
V1 = b"PROXY TCP4 203.0.113.7 198.51.100.9 56324 443\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc6\x33\x64\x09\xdc\x04\x01\xbb"
CHUNK = bytes(1 << 20)
DEADLINE = 60.0  # seconds for whatever is waited for


class Server:
    """A server in a process of its own.

    Args:
        kind: Which, by its name in ``server_process.py``.
        python: The interpreter.
        wants_header: Whether connections begin with a header.
    """

    def __init__(self, kind: str, python: str, wants_header: bool) -> None:
        self.kind = kind
        self.wants_header = wants_header
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if python == sys.executable:
            environment["PYTHONPATH"] = str(ROOT)  # this checkout, whatever is installed
        self.process = subprocess.Popen(
            [python, str(ROOT / "benchmarks" / "server_process.py"), kind],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.port = int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.kind} ended with status {self.process.wait()}; its reason is above.")
        return line

    def ask(self, question: str) -> float:
        """Ask for ``cpu`` (seconds) or ``memory`` (bytes)."""
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process: its standard input ends."""
        self.process.communicate(timeout=DEADLINE)

    def connect(self, header: bytes, payload: bytes = b"") -> socket.socket:
        """Connect, and send a header where one is wanted."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        sock.sendall((header if self.wants_header else b"") + payload)
        return sock

    def transfer(self, header: bytes, mebibytes: int) -> float:
        """Give the seconds that a transfer takes. To the bare server the header is data."""
        begin = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as sock:
            sock.sendall(header)
            for _ in range(mebibytes):
                sock.sendall(CHUNK)
            finish(sock, mebibytes * len(CHUNK) + 1 + (0 if self.wants_header else len(header)))
        return time.perf_counter() - begin

    def serve(self, header: bytes, count: int) -> float:
        """Give the seconds of processor time that the server takes for one connection of many."""
        begin = self.ask("cpu")
        for _ in range(count):
            with self.connect(header, b"x") as sock:
                finish(sock, 2)
        return (self.ask("cpu") - begin) / count

    def one(self, header: bytes) -> float:
        """Give the seconds that one whole connection takes, as its client sees it."""
        begin = time.perf_counter()
        with self.connect(header, b"x") as sock:
            finish(sock, 2)
        return time.perf_counter() - begin


def finish(sock: socket.socket, expected: int) -> None:
    """Say that this was all, and make sure that all of it came."""
    sock.sendall(b"\n")
    told = b""
    while data := sock.recv(64):
        told += data
    assert told == b"%d" % expected, f"the server got {told!r} of {expected} bytes"


class Group(NamedTuple):
    """Servers that are compared, the bare one first and ours last; in between others that read headers."""

    name: str
    kinds: tuple[str, ...]


PEER = "asyncio-established"
GROUPS = (
    Group("Twisted", ("twisted-bare", "twisted-haproxy", "twisted-ours")),
    # ours, by the established name too
    Group("asyncio", ("asyncio-bare", PEER, "asyncio-callback", "asyncio-ours")),
)


def take_turns(servers: list[Server], samples: int, measure: Callable[[Server], float]) -> list[list[float]]:
    """Let the servers take turns, in both orders.

    Returns:
        The samples of each, in the order of the servers.
    """
    taken: list[list[float]] = [[] for _ in servers]
    for number in range(-1, samples):  # the first round warms up
        order = list(range(len(servers)))
        for which in order if number % 2 else reversed(order):
            sample = measure(servers[which])
            if number >= 0:
                taken[which].append(sample)
    return taken


def median_ratio(above: list[float], below: list[float]) -> float:
    """Give the median of the ratios of neighbouring samples."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def compare_bulk(servers: list[Server], samples: int, mebibytes: int) -> None:
    """Print the throughput of each, and its ratio to the bare server's."""
    taken = take_turns(servers, samples, lambda server: server.transfer(V2, mebibytes))
    for server, seconds in zip(servers, taken, strict=True):
        speed = mebibytes / statistics.median(seconds)
        print(
            f"  bulk, {server.kind:18} {speed:7.0f} MiB/s   {median_ratio(taken[0], seconds):5.3f} of bare", flush=True
        )


def compare_connections(servers: list[Server], samples: int, count: int) -> None:
    """Print the processor time of a connection, what a header adds to it, and what ours adds of the other's."""
    for name, header in (("v1", V1), ("v2", V2)):
        taken = take_turns(servers, samples, lambda server, header=header: server.serve(header, count))  # type: ignore[misc]
        bare, ours = (statistics.median(column) for column in (taken[0], taken[-1]))
        for server, seconds in zip(servers, taken, strict=True):
            mine = statistics.median(seconds)
            share = (
                ""
                if server in (servers[0], servers[-1])
                else f"   ours adds {(ours - bare) / (mine - bare):4.2f} of it"
            )
            print(
                f"  {name}, {server.kind:18} {mine * 1e6:6.1f} us   adds {(mine - bare) * 1e6:6.1f} us{share}",
                flush=True,
            )


def compare_pending(servers: list[Server], count: int) -> None:
    """Print what half-sent headers cost in memory, and whom they delay."""
    for what, server in (("idle connections", servers[0]), ("half-sent headers", servers[-1])):
        alone = median_of_one(server)
        before = server.ask("memory")
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(server.connect(V2[:20]))
            among = median_of_one(server)  # which comes behind all of them
            grown = (server.ask("memory") - before) / count
        print(f"  {count} {what}, {server.kind}: {grown / 1024:.2f} KiB each; ", end="")
        print(f"a whole connection takes {among * 1e6:.0f} us, without them {alone * 1e6:.0f} us", flush=True)


def median_of_one(server: Server) -> float:
    """Give the seconds that one whole connection takes."""
    return statistics.median(server.one(V2) for _ in range(200))


def compare_import() -> None:
    """Print what importing our package for asyncio adds to what every such server with TLS imports."""
    with tempfile.TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def measure(modules: str) -> float:
            program = f"import time; begin = time.process_time(); import {modules}; print(time.process_time() - begin)"
            return float(subprocess.check_output([sys.executable, "-c", program], env=environment, text=True))

        base, ours = "asyncio, ssl", "asyncio, ssl, proxyprotocol.asyncio"
        measure(ours)  # which compiles
        alone, mine = zip(*((measure(base), measure(ours)) for _ in range(20)), strict=True)
    added = min(mine) - min(alone)
    print(f"  import proxyprotocol.asyncio adds {added * 1e3:.1f} ms to import asyncio, ssl", flush=True)


async def close_among(count: int) -> float:
    """Give the seconds that a server takes to close among so many peers that say nothing."""
    server = await start_server(lambda reader, writer: None, "127.0.0.1", 0, timeout=DEADLINE, backlog=count)
    address = server.sockets[0].getsockname()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(address, timeout=DEADLINE))
        await asyncio.sleep(0.1)  # all of them are accepted, and wait for their headers
        begin = time.perf_counter()
        server.close()
        await asyncio.wait_for(server.wait_closed(), DEADLINE)
        return time.perf_counter() - begin


def measure_closing(count: int) -> None:
    """Print how long a server takes to close among silent peers."""
    taken = min(asyncio.run(close_among(count)) for _ in range(3))
    print(f"  closing among {count} silent peers takes {taken * 1e3:.1f} ms", flush=True)


@contextlib.contextmanager
def start(group: Group, peer_python: str) -> Iterator[list[Server]]:
    """Start the servers of a group, and end them afterwards."""
    with contextlib.ExitStack() as stack:
        servers = []
        for kind in group.kinds:
            python = peer_python if kind == PEER else sys.executable
            server = Server(kind, python, wants_header=not kind.endswith("-bare"))
            stack.callback(server.close)
            servers.append(server)
        yield servers


def main(arguments: list[str] | None = None) -> None:
    """Print the tables.

    Args:
        arguments: The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description="Compare servers with a header and without, on real sockets.")
    parser.add_argument("--mebibytes", type=int, default=100, help="of a bulk sample (100)")
    parser.add_argument("--connections", type=int, default=300, help="of a sample (300)")
    parser.add_argument("--samples", type=int, default=20, help="of each subject (20)")
    parser.add_argument("--pending", type=int, default=800, help="half-sent headers (800)")
    parser.add_argument(
        "--peer-python", metavar="PATH", help="an interpreter that has proxy-protocol 0.11.3 and crc32c"
    )
    parser.add_argument("--quick", action="store_true", help="5 samples")
    options = parser.parse_args(arguments)
    samples = 5 if options.quick else options.samples

    print(f"CPython {platform.python_version()}, {samples} samples")
    compare_import()
    measure_closing(100)
    with peer_interpreter(options.peer_python) as peer_python:
        for group in GROUPS:
            print(group.name)
            with start(group, peer_python) as servers:
                compare_connections(servers, samples, options.connections)
                compare_bulk(servers, 2 * samples, options.mebibytes)
                # last: 800 connections leave a heap behind in which all that follow are slower
                compare_pending(servers, options.pending)


if __name__ == "__main__":
    main()
