"""Starting, asking and stopping the programs of these tests: HAProxy, nginx and the servers behind them.

No wait is a fixed one: a program is ready when it accepts a connection or has written its first line, and every wait
ends with an error that shows what the program has written.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import pytest

import proxyprotocol

PATIENCE = 20.0  # seconds; what is waited for takes a fraction of one, unless the machine is very busy
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def find_program(name: str) -> str:
    """The path of a program, also where an ordinary user's PATH does not lead; the test is skipped without it."""
    path = shutil.which(name, path=SBIN)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class Program:
    """A running program.

    Its standard output is taken line by line, its standard error is kept for :meth:`stop`.
    """

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        descriptor, path = tempfile.mkstemp(".log", dir=directory)
        self._error_path = Path(path)
        # The program imports the package that the tests import, installed or not.
        package = str(Path(proxyprotocol.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": package, "PYTHONUNBUFFERED": "1"}
        with open(descriptor, "w") as errors:
            self._process = subprocess.Popen(
                command, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, stderr=errors
            )
        assert self._process.stdout is not None
        self._lines: queue.Queue[str | None] = queue.Queue()
        # A thread, because a pipe cannot be read with a time limit in one way that all systems know.
        self._thread = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._thread.start()

    def _read(self, output: IO[str]) -> None:
        for line in output:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def errors(self) -> str:
        """What the program has written to its standard error."""
        return self._error_path.read_text()

    def line(self) -> str:
        """Take the next line of the program's output."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            line = None
        assert line is not None, f"the program wrote no line; it is {self._process.args!r}, and said:\n{self.errors()}"
        return line

    def remaining_lines(self) -> list[str]:
        """Take what is left of the output of a program that has been stopped."""
        lines = []
        with contextlib.suppress(queue.Empty):  # if its end was taken already
            while (line := self._lines.get_nowait()) is not None:
                lines.append(line)
        return lines

    def stop(self) -> str:
        """End the program.

        Returns:
            What it has written to its standard error.
        """
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self.errors()


@contextlib.contextmanager
def reserved_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Reserve a port for a program that is to listen on it with SO_REUSEPORT or SO_REUSEADDR.

    A port that is free when asked for may be taken a moment later, by another test in another process. This one stays
    bound here, without listening, and is given to nobody who does not ask for just this number.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((host, 0))
            # only now: the system would give out a number twice that both may use
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            pytest.skip(f"there is no {host} on this machine: {error}")
        yield holder.getsockname()[1]


def connect(address: tuple[str, int] | str) -> socket.socket:
    """Connect to a TCP address, or to the path of a UNIX socket."""
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout=PATIENCE)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    try:
        client.connect(address)
    except OSError:
        client.close()
        raise
    return client


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition is met: asked again and again, with a rest between, and not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)


def wait_until_listening(program: Program, address: tuple[str, int]) -> None:
    """Wait until the program accepts connections at the address."""

    def listening() -> bool:
        assert program.running(), program.errors()
        try:
            connect(address).close()
        except ConnectionRefusedError:
            return False
        return True

    wait_for(listening)


def receive_all(client: socket.socket, size: int) -> bytes:
    """Receive just so many bytes, or as many as come before the end."""
    received = b""
    while len(received) < size and (data := client.recv(size - len(received))):
        received += data
    return received


def assert_echo(client: socket.socket, message: bytes = b"ping") -> None:
    """Say something, and hear it said back."""
    client.sendall(message)
    assert receive_all(client, len(message)) == message


class Address(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def of(cls, name: tuple[object, ...]) -> Address:
        """Take host and port from what ``getsockname`` and ``getpeername`` give."""
        host, port = name[:2]
        assert isinstance(host, str)
        assert isinstance(port, int)
        return cls(host, port)
