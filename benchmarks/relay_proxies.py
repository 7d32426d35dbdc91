"""The processes of ``relay.py``: the relay, HAProxy, and the server behind them. Not for running by hand."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["DEADLINE", "Proxy", "connect", "load", "relay_short_of_files", "started"]

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 16
DEADLINE = 60.0  # seconds for whatever is waited for
TICKS = os.sysconf("SC_CLK_TCK")


class Proxy:
    """A proxy in a process of its own.

    Args:
        name: What it is called where something is wrong.
        process: The process.
        ports: Where it listens for each of the server's ports.
    """

    def __init__(self, name: str, process: subprocess.Popen[str], ports: list[int]) -> None:
        self.name = name
        self.process = process
        self.bulk, self.answers, self.stalls, self.digests = ports

    @property
    def memory(self) -> int:
        """Its resident memory, in bytes."""
        # not statm, which on some kernels is out by dozens of pages
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.findall(r"^Rss: +(\d+) kB", rollup, re.MULTILINE)[0]) << 10

    @property
    def processor_time(self) -> float:
        """The processor time that it has taken, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


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


@contextlib.contextmanager
def started(python: str, more: list[str]) -> Iterator[tuple[Proxy, Proxy]]:
    """Start the server, HAProxy and the relay, and end them afterwards.

    Args:
        python: The interpreter of the relay.
        more: Options of the relay.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        backends = stack.enter_context(_server())
        theirs = stack.enter_context(_haproxy(directory, backends))
        ours = stack.enter_context(_relay(python, backends, more))
        for proxy in (theirs, ours):
            _wait_for(proxy)
        yield theirs, ours


@contextlib.contextmanager
def relay_short_of_files(python: str, more: list[str], files: int) -> Iterator[tuple[Proxy, Path]]:
    """Start the server, and a relay with so many file descriptors, and end both afterwards.

    Args:
        python: The interpreter of the relay.
        more: Options of the relay.
        files: How many file descriptors it may have.

    Yields:
        The relay, and the file that its log is in.
    """
    with contextlib.ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
        backends = stack.enter_context(_server())
        relay = stack.enter_context(_relay(python, backends, more, files, log))
        _wait_for(relay)
        yield relay, log


@contextlib.contextmanager
def _server() -> Iterator[list[int]]:
    """Run the server behind the proxies, and give its ports."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "relay_backend.py")],
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with _ending(process):
        assert process.stdout is not None
        yield [int(port) for port in re.findall(r"\d+", process.stdout.readline())]


@contextlib.contextmanager
def _haproxy(directory: Path, backends: list[int]) -> Iterator[Proxy]:
    """Run HAProxy in front of each of the server's ports."""
    path = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise SystemExit("haproxy is not installed: the relay has nobody to be compared with.")
    ports = _free_ports(len(backends))
    lines = [
        "global\n  nbthread 1\n  maxconn 4000",
        "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 300s\n  timeout server 300s",
    ]
    for port, backend in zip(ports, backends, strict=True):
        lines.append(f"listen l{port}\n  bind 127.0.0.1:{port}\n  server s 127.0.0.1:{backend} send-proxy-v2")
    configuration = directory / "haproxy.cfg"
    configuration.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([path, "-q", "-db", "-f", str(configuration)], text=True)
    with _ending(process):
        yield Proxy("HAProxy", process, ports)


@contextlib.contextmanager
def _relay(
    python: str, backends: list[int], more: list[str], files: int | None = None, log: Path | None = None
) -> Iterator[Proxy]:
    """Run our relay in front of each of the server's ports."""
    ports = _free_ports(len(backends))
    command = [python, "-m", "proxyprotocol.server.main", "-q", *more]
    for port, backend in zip(ports, backends, strict=True):
        command += ["--service", f"127.0.0.1:{port}", f"127.0.0.1:{backend}"]
    limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
    with log.open("w") if log else contextlib.nullcontext() as errors:
        process = subprocess.Popen(command, env=_environment(), text=True, stderr=errors, preexec_fn=limit)
    with _ending(process):
        yield Proxy("the relay", process, ports)


def _environment() -> dict[str, str]:
    """This checkout, whatever is installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def _ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process afterwards, and wait until it has."""
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def _free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def _wait_for(proxy: Proxy) -> None:
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
