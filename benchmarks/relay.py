"""The relay against HAProxy in TCP mode with one thread, both sending a version 2 header, on real sockets.

Run ``python -m benchmarks.relay`` or ``python benchmarks/relay.py``; ``--help`` names the options. Linux only, and
``haproxy`` must be installed.

**How.** The two proxies, the server behind them (``relay_backend.py``) and this process are a process each. The proxies
take turns, sample by sample, in both orders; a ratio is the median of the ratios of neighbouring samples.

- *bulk*: one connection, so many MiB up; the time until the server has told, after a half-close, that it has them all.
  The server throws them away unread, so that the proxy is what is slow.
- *connections*: so many connections, sixteen at a time, each with one byte and an answer. The rate is what a client
  sees; the processor time is what the proxy itself took for each.
- *idle*: what the proxy's resident memory grows by for each of so many connections that do nothing.
- *stalled*: what it grows by for one connection whose server reads nothing while the client sends all it can.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
CHUNK = bytes(1 << 20)
AT_ONCE = 16
DEADLINE = 60.0  # seconds for whatever is waited for
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Proxy:
    """A proxy in a process of its own.

    Args:
        name: What it is called in the table.
        process: The process.
        ports: Where it listens for each of the server's ports.
    """

    def __init__(self, name: str, process: subprocess.Popen[str], ports: list[int]) -> None:
        self.name = name
        self.process = process
        self.bulk, self.answers, self.stalls = ports

    @property
    def memory(self) -> int:
        """Its resident memory, in bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE

    @property
    def processor_time(self) -> float:
        """The processor time that it has taken, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def transfer(self, mebibytes: int) -> float:
        """Give the seconds that a transfer takes."""
        begin = time.perf_counter()
        with connect(self.bulk) as sock:
            for _ in range(mebibytes):
                sock.sendall(CHUNK)
            sock.shutdown(socket.SHUT_WR)
            told = int(sock.recv(64))
        assert mebibytes << 20 < told < (mebibytes << 20) + 200, f"{self.name}: {told} bytes came"
        return time.perf_counter() - begin

    def serve(self, count: int) -> tuple[float, float]:
        """Give seconds, and seconds of the proxy's processor time, for each of so many connections."""
        cpu, begin = self.processor_time, time.perf_counter()
        load(self.answers, count)
        return (time.perf_counter() - begin) / count, (self.processor_time - cpu) / count

    def idle(self, count: int) -> float:
        """Give the bytes that each of so many idle connections takes."""
        with contextlib.ExitStack() as stack:
            before = self.memory
            for _ in range(count):
                stack.enter_context(connect(self.answers))
            load(self.answers, 1)  # all those before it have been accepted
            time.sleep(0.5)
            return (self.memory - before) / count

    def stall(self, seconds: float) -> int:
        """Give the bytes that a connection takes whose server does not read."""
        before = self.memory
        with connect(self.stalls) as sock:
            sock.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                while True:
                    sock.sendall(CHUNK)
            time.sleep(seconds)
            return self.memory - before


def connect(port: int) -> socket.socket:
    """Connect to a port of this machine."""
    return socket.create_connection(("127.0.0.1", port), DEADLINE)


def load(port: int, count: int) -> None:
    """Make so many connections, some at a time, and wait for an answer on each."""
    begun, poll = 0, select.epoll()
    open_ones: dict[int, socket.socket] = {}
    with contextlib.closing(poll):
        while begun < count or open_ones:
            while begun < count and len(open_ones) < AT_ONCE:
                sock = connect(port)
                sock.send(b"x")
                open_ones[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
                begun += 1
            ready = poll.poll(DEADLINE)
            assert ready, "no answer came"
            for number, _ in ready:
                sock = open_ones.pop(number)
                assert sock.recv(16) == b"y"
                sock.close()


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def start_haproxy(directory: Path, backends: list[int]) -> Proxy:
    """Start HAProxy in front of each of the server's ports."""
    path = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise SystemExit("haproxy is not installed: the relay has nobody to be compared with.")
    ports = free_ports(len(backends))
    lines = [
        "global\n  nbthread 1\n  maxconn 4000",
        "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 300s\n  timeout server 300s",
    ]
    for port, backend in zip(ports, backends, strict=True):
        lines.append(f"listen l{port}\n  bind 127.0.0.1:{port}\n  server s 127.0.0.1:{backend} send-proxy-v2")
    configuration = directory / "haproxy.cfg"
    configuration.write_text("\n".join(lines) + "\n")
    return Proxy("HAProxy", subprocess.Popen([path, "-q", "-db", "-f", str(configuration)], text=True), ports)


def start_relay(python: str, backends: list[int], more: list[str]) -> Proxy:
    """Start our relay in front of each of the server's ports."""
    ports = free_ports(len(backends))
    command = [python, "-m", "proxyprotocol.server.main", "-q", *more]
    for port, backend in zip(ports, backends, strict=True):
        command += ["--service", f"127.0.0.1:{port}", f"127.0.0.1:{backend}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return Proxy("ours", subprocess.Popen(command, env=environment, text=True), ports)


@contextlib.contextmanager
def started(python: str, more: list[str]) -> Iterator[tuple[Proxy, Proxy]]:
    """Start the server and both proxies, and end them afterwards."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        backend = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "relay_backend.py")], stdout=subprocess.PIPE, text=True
        )
        stack.callback(end, backend)
        assert backend.stdout is not None
        backends = [int(port) for port in re.findall(r"\d+", backend.stdout.readline())]
        proxies = start_haproxy(directory, backends), start_relay(python, backends, more)
        for proxy in proxies:
            stack.callback(end, proxy.process)
        for proxy in proxies:
            wait_for(proxy)
        yield proxies


def end(process: subprocess.Popen[str]) -> None:
    """End a process, and wait until it has."""
    process.kill()
    process.communicate()


def wait_for(proxy: Proxy) -> None:
    """Wait until a proxy answers."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            load(proxy.answers, 1)
        except ConnectionRefusedError:
            if time.monotonic() > deadline or proxy.process.poll() is not None:
                raise SystemExit(f"{proxy.name} does not listen; its reason is above.") from None
            time.sleep(0.05)
        else:
            return


def take_turns(proxies: tuple[Proxy, Proxy], samples: int, measure: Callable[[Proxy], float]) -> list[list[float]]:
    """Let the proxies take turns, in both orders, and give the samples of each."""
    taken: list[list[float]] = [[], []]
    for number in range(-1, samples):  # the first round warms up
        for which in (0, 1) if number % 2 else (1, 0):
            sample = measure(proxies[which])
            if number >= 0:
                taken[which].append(sample)
    return taken


def ratio(taken: list[list[float]]) -> float:
    """Give HAProxy's time by ours: the median of neighbouring samples."""
    ratios = [theirs / mine for theirs, mine in zip(*taken, strict=True)]
    return float(statistics.median(ratios))


def main(arguments: list[str] | None = None) -> None:
    """Print the table.

    Args:
        arguments: The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description="Compare the relay with HAProxy.")
    parser.add_argument("--mebibytes", type=int, default=300, help="of a bulk sample (300)")
    parser.add_argument("--connections", type=int, default=1000, help="of a sample (1000)")
    parser.add_argument("--samples", type=int, default=15, help="of each (15)")
    parser.add_argument("--idle", type=int, default=2000, help="idle connections (2000)")
    parser.add_argument("--stall", type=float, default=60.0, help="seconds that a server does not read (60)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the relay")
    parser.add_argument("--quick", action="store_true", help="5 samples, a stall of 2 seconds")
    parser.add_argument("more", nargs="*", help="options of the relay, behind --")
    options = parser.parse_args(arguments)
    samples, stall = (5, 2.0) if options.quick else (options.samples, options.stall)

    print(f"CPython {platform.python_version()}, {samples} samples, ratios to HAProxy", flush=True)
    with started(options.python, options.more) as proxies:
        for proxy in proxies:
            print(f"  idle         {proxy.name:8} {proxy.idle(options.idle) / 1024:7.2f} KiB a connection", flush=True)
        print(f"  stalled      {proxies[1].name:8} {proxies[1].stall(stall) / 1024:7.0f} KiB", flush=True)
        bulk = take_turns(proxies, samples, lambda proxy: proxy.transfer(options.mebibytes))
        for proxy, seconds in zip(proxies, bulk, strict=True):
            print(f"  bulk         {proxy.name:8} {options.mebibytes / statistics.median(seconds):7.0f} MiB/s")
        print(f"  bulk         ratio    {ratio(bulk):7.2f}", flush=True)
        walls: dict[Proxy, list[float]] = {proxy: [] for proxy in proxies}
        cpus: dict[Proxy, list[float]] = {proxy: [] for proxy in proxies}

        def connections(proxy: Proxy) -> float:
            wall, cpu = proxy.serve(options.connections)
            walls[proxy].append(wall)
            cpus[proxy].append(cpu)
            return wall

        taken = take_turns(proxies, samples, connections)
        for proxy in proxies:
            rate, cpu = 1 / statistics.median(walls[proxy]), statistics.median(cpus[proxy])
            print(f"  connections  {proxy.name:8} {rate:7.0f} a second, {cpu * 1e6:.0f} us of processor time each")
        print(f"  connections  ratio    {ratio(taken):7.2f}")


if __name__ == "__main__":
    main()
