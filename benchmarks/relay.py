"""The relay against HAProxy in TCP mode with one thread, both sending a version 2 header, on real sockets.

Run ``python -m benchmarks.relay`` or ``python benchmarks/relay.py``; ``--help`` names the options. Linux only, and
``haproxy`` must be installed. A run of under three minutes shows everything that is wanted of the relay: a line that
falls short says so, and then the exit status is 1.

**How.** The two proxies, the server behind them (``relay_backend.py``) and this process are a process each. For what
grows in memory they are started anew: what one measurement leaves behind would be room for the next. Where speed is
measured the proxies take turns, sample by sample, in both orders; a ratio is the median of the ratios of neighbouring
samples, and in the other rows ours divided by HAProxy's.

- *bulk*: one connection, so many MiB up; the time until the server has told, after a half-close, that it has them all.
  The server throws them away unread, so that the proxy is what is slow.
- *connections*: so many connections, sixteen at a time, each with one byte and an answer. The rate is what a client
  sees; the processor time is what the proxy itself took for each.
- *exact*: one connection, so many MiB that differ all over, so that none can stand for another. The server tells after
  the half-close how much came, its SHA-256, and whom the header named.
- *idle*: what the proxy's resident memory grows by for each of so many connections that do nothing.
- *stalled*: what it grows by for the worst of eight connections, made one by one, whose clients send all they can to a
  server that reads nothing, and what all eight add to that later. What a first transfer takes once is taken before.
- *few descriptors*: a relay that may open 64 files, and 640 clients that say one byte each and stay. What it takes of
  the processor meanwhile, how many lines it has logged at the end, and how long it is from when the 640 begin to close
  until another client has its answer.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import platform
import random
import resource
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

# Run by its path, this file would else not find its neighbour.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.relay_proxies import DEADLINE, Proxy, connect, load, relay_short_of_files, started

__all__ = ["Row", "main"]

CHUNK = bytes(1 << 20)
STALLED = 8  # connections: what one keeps is anything up to its buffer
FILES, CLIENTS = 64, 640
WANTED_THROUGHPUT = 1.0  # of HAProxy's
WANTED_CONNECTIONS = 1 / 3  # of HAProxy's
MOST_IDLE = 8 << 10  # bytes
MOST_STALLED = 256 << 10  # bytes
MOST_BUSY = 0.1  # of a processor, by a relay that has nothing to do
MOST_LINES = 2  # one a minute, and the clients stay for less
MOST_SECONDS = 2.0  # until it serves again
LINE = "{:41} {:>12} {:>12} {:>6}  {:21} {}"

_T = TypeVar("_T")
Proxies = tuple[Proxy, Proxy]


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        what: What was measured.
        ours: What the relay makes of it.
        theirs: What HAProxy makes of it, where it was asked.
        ratio: Of the two.
        wanted: What is wanted of the relay.
        reached: Whether it is so; None where nothing is wanted.
    """

    what: str
    ours: str
    theirs: str = "-"
    ratio: float | None = None
    wanted: str = "-"
    reached: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "reached", False: "short", None: ""}[self.reached]
        ratio = "-" if self.ratio is None else f"{self.ratio:.3f}"
        return LINE.format(self.what, self.ours, self.theirs, ratio, self.wanted, verdict).rstrip()


def transfer(proxy: Proxy, mebibytes: int) -> float:
    """Give the seconds that a transfer takes."""
    begin = time.perf_counter()
    with connect(proxy.bulk) as sock:
        for _ in range(mebibytes):
            sock.sendall(CHUNK)
        sock.shutdown(socket.SHUT_WR)
        told = int(sock.recv(64))
    assert mebibytes << 20 < told < (mebibytes << 20) + 200, f"{proxy.name}: {told} bytes came"
    return time.perf_counter() - begin


def serve(proxy: Proxy, count: int) -> tuple[float, float]:
    """Give seconds, and seconds of the proxy's processor time, for each of so many connections."""
    cpu, begin = proxy.processor_time, time.perf_counter()
    load(proxy.answers, count)
    return (time.perf_counter() - begin) / count, (proxy.processor_time - cpu) / count


def send_noise(proxy: Proxy, mebibytes: int) -> str:
    """Send what differs all over, and give what is wrong with what came; "exact" where nothing is."""
    noise, digest, told = random.Random(mebibytes), hashlib.sha256(), b""
    try:
        with connect(proxy.digests) as sock:
            me = str(sock.getsockname())
            for _ in range(mebibytes):
                piece = noise.randbytes(1 << 20)
                digest.update(piece)
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(1024):
                told += data
    except OSError as error:
        return str(error)
    expected = str(mebibytes << 20), digest.hexdigest(), me
    came = told.decode().split(maxsplit=2)
    if not came:
        return "no answer"
    wrong = (name for name, a, b in zip(("length", "content", "client"), came, expected, strict=True) if a != b)
    return next((f"wrong {name}" for name in wrong), "exact")


def idle(proxy: Proxy, count: int) -> float:
    """Give the bytes that each of so many idle connections takes."""
    with contextlib.ExitStack() as stack:
        before = proxy.memory
        for _ in range(count):
            stack.enter_context(connect(proxy.answers))
        load(proxy.answers, 1)  # all those before it have been accepted
        time.sleep(0.5)
        return (proxy.memory - before) / count


def stall(proxies: Proxies, seconds: float) -> list[int]:
    """Give the most bytes, of each proxy, that a connection takes whose server does not read."""
    with contextlib.ExitStack() as stack:
        socks: list[socket.socket] = []
        worst = [fill(proxy, stack, socks) for proxy in proxies]
        full = [proxy.memory for proxy in proxies]
        most, end = full, time.monotonic() + seconds
        while time.monotonic() < end:
            push(socks)
            most = [max(so_far, proxy.memory) for so_far, proxy in zip(most, proxies, strict=True)]
    return [one + later - at_once for one, later, at_once in zip(worst, most, full, strict=True)]


def fill(proxy: Proxy, stack: contextlib.ExitStack, socks: list[socket.socket]) -> int:
    """Connect, one by one, to the server that does not read, and give the most bytes that one of them takes."""
    transfer(proxy, 8)
    most = 0
    for _ in range(STALLED):
        before = proxy.memory
        sock = stack.enter_context(connect(proxy.stalls))
        sock.setblocking(False)
        socks.append(sock)
        push([sock])
        most = max(most, proxy.memory - before)
    return most


def push(socks: list[socket.socket]) -> None:
    """Send until nothing is taken any more."""
    while writable := select.select([], socks, [], 0.2)[1]:
        for sock in writable:
            with contextlib.suppress(BlockingIOError):
                sock.send(CHUNK)


class Held(NamedTuple):
    """What was seen while more clients were there than a relay has descriptors for.

    Attributes:
        served: How many of them were answered.
        busy: The share of a processor that the relay took.
        gone: When they began to close.
    """

    served: int
    busy: float
    gone: float


def hold(relay: Proxy, log: Path, seconds: float) -> Held:
    """Let more clients come than there are descriptors for, stay so long and go."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(CLIENTS)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", relay.answers))
            with contextlib.suppress(BlockingIOError):  # where the system's queue is short
                client.send(b"x")
        wait_until_full(log)
        before = relay.processor_time
        time.sleep(seconds)
        busy = (relay.processor_time - before) / seconds
        return Held(sum(answered(client) for client in clients), busy, time.perf_counter())


def wait_until_full(log: Path) -> None:
    """Wait until the relay says that it takes no more, which it does once."""
    deadline = time.monotonic() + DEADLINE
    while "No more connections" not in log.read_text():
        assert time.monotonic() < deadline, "the relay did not say that it is full"
        time.sleep(0.01)


def answered(client: socket.socket) -> bool:
    """Return whether a non-blocking client has its answer."""
    try:
        return client.recv(16) == b"y"
    except BlockingIOError:
        return False


def take_turns(proxies: Proxies, samples: int, measure: Callable[[Proxy], _T]) -> list[list[_T]]:
    """Let the proxies take turns, in both orders, and give the samples of each."""
    taken: list[list[_T]] = [[], []]
    for number in range(-1, samples):  # the first round warms up
        for which in (0, 1) if number % 2 else (1, 0):
            sample = measure(proxies[which])
            if number >= 0:
                taken[which].append(sample)
    return taken


def faster(theirs: list[float], ours: list[float]) -> float:
    """Give HAProxy's time by ours: the median of neighbouring samples."""
    return float(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)))


def compare_speed(proxies: Proxies, options: argparse.Namespace) -> Iterator[Row]:
    """Measure bulk and connections."""
    theirs, ours = take_turns(proxies, options.samples, lambda proxy: transfer(proxy, options.mebibytes))
    ratio = faster(theirs, ours)
    mine, other = (f"{options.mebibytes / statistics.median(seconds):.0f} MiB/s" for seconds in (ours, theirs))
    reached = ratio >= WANTED_THROUGHPUT
    yield Row(f"bulk, {options.mebibytes} MiB", mine, other, ratio, "1.0 of HAProxy's", reached)

    taken = take_turns(proxies, options.samples, lambda proxy: serve(proxy, options.connections))
    (theirs, their_cpu), (ours, our_cpu) = ([list(column) for column in zip(*pairs, strict=True)] for pairs in taken)
    ratio = faster(theirs, ours)
    mine, other = (f"{1 / statistics.median(seconds):.0f} /s" for seconds in (ours, theirs))
    yield Row("new connections", mine, other, ratio, "a third of HAProxy's", ratio >= WANTED_CONNECTIONS)
    cpus = statistics.median(our_cpu), statistics.median(their_cpu)
    mine, other = (f"{seconds * 1e6:.0f} us" for seconds in cpus)
    yield Row("  processor time of each", mine, other, by(*cpus))


def by(ours: float, theirs: float) -> float | None:
    """Divide, where HAProxy took anything."""
    return ours / theirs if theirs > 0 else None


def compare_content(proxies: Proxies, mebibytes: int) -> Row:
    """See whether what is sent is what arrives."""
    theirs, ours = (send_noise(proxy, mebibytes) for proxy in proxies)
    what = f"{mebibytes} MiB, answer after the half-close"
    return Row(what, ours, theirs, wanted="exact", reached=ours == "exact")


def compare_idle(proxies: Proxies, count: int) -> Row:
    """Measure the memory of idle connections."""
    theirs, ours = (idle(proxy, count) for proxy in proxies)
    return memory_row(f"idle, each of {count}", ours, theirs, MOST_IDLE)


def compare_stalled(proxies: Proxies, seconds: float) -> Row:
    """Measure the memory of stalled connections."""
    theirs, ours = stall(proxies, seconds)
    return memory_row(f"stalled for {seconds:g} s, worst of {STALLED}", ours, theirs, MOST_STALLED)


def memory_row(what: str, ours: float, theirs: float, most: int) -> Row:
    """Write a row about memory, all in bytes."""
    mine, other = (f"{value / 1024:.2f} KiB" for value in (ours, theirs))
    return Row(what, mine, other, by(ours, theirs), f"under {most >> 10} KiB", ours < most)


def measure_few_files(options: argparse.Namespace) -> Iterator[Row]:
    """Measure a relay that is short of file descriptors."""
    with relay_short_of_files(options.python, options.more, FILES) as (relay, log):
        held = hold(relay, log, options.hold)
        again = when_served(relay) - held.gone
        lines = log.read_text().count("\n")
    what = f"{FILES} descriptors, {CLIENTS} clients: served"
    yield Row(what, f"{held.served}", wanted="at least 1", reached=held.served > 0)
    what = f"  processor, for {options.hold:g} s"
    yield Row(what, f"{held.busy:.1%}", wanted=f"under {MOST_BUSY:.0%}", reached=held.busy < MOST_BUSY)
    yield Row("  lines in the log", f"{lines}", wanted=f"at most {MOST_LINES}", reached=lines <= MOST_LINES)
    yield Row(
        "  serves again after", f"{again:.3f} s", wanted=f"under {MOST_SECONDS:g} s", reached=again < MOST_SECONDS
    )


def when_served(relay: Proxy) -> float:
    """Give when another client has its answer; never, where none comes."""
    try:
        load(relay.answers, 1)
    except (OSError, AssertionError):
        return math.inf
    return time.perf_counter()


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """Give the rows, one by one as they are measured."""
    allow_files(2 * options.idle + 1000)
    with started(options.python, options.more) as proxies:
        yield from compare_speed(proxies, options)
        yield compare_content(proxies, options.mebibytes)
    with started(options.python, options.more) as proxies:
        yield compare_idle(proxies, options.idle)
    with started(options.python, options.more) as proxies:
        yield compare_stalled(proxies, options.stall)
    yield from measure_few_files(options)


def allow_files(count: int) -> None:
    """Take as many file descriptors as may be had, for this process and those it starts; so many are needed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        raise SystemExit(f"{count} file descriptors are needed, and only {most} allowed: raise the limit (ulimit -Hn).")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(arguments: list[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The exit status: 1 if the relay falls short anywhere.
    """
    parser = argparse.ArgumentParser(description="Compare the relay with HAProxy.")
    add = parser.add_argument
    add("--mebibytes", type=int, default=300, help="of a bulk sample, and of the exact transfer (300)")
    add("--connections", type=int, default=1000, help="of a sample (1000)")
    add("--samples", type=int, default=15, help="of bulk and connections (15)")
    add("--idle", type=int, default=2000, help="idle connections (2000)")
    add("--stall", type=float, default=60.0, help="seconds that a server does not read (60)")
    add("--hold", type=float, default=5.0, help="seconds that there are too many clients (5)")
    add("--python", default=sys.executable, help="the interpreter of the relay")
    add("--quick", action="store_true", help="5 samples, a stall of 2 seconds, too many clients for 1")
    add("more", nargs="*", help="options of the relay, behind --")
    options = parser.parse_args(arguments)
    if options.quick:
        options.samples, options.stall, options.hold = 5, 2.0, 1.0

    print(f"CPython {platform.python_version()}, {options.samples} samples of each speed\n")
    print(LINE.format("", "ours", "HAProxy", "ratio", "wanted", "").rstrip(), flush=True)
    short = False
    for row in measure_all(options):
        print(row, flush=True)
        short = short or row.reached is False
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
