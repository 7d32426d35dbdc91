"""Starts, asks and stops the programs of these tests: HAProxy, nginx and the servers that they connect to.

Nothing waits for a fixed time: a program is ready when it accepts a connection or has written its first line. Every
wait that takes too long ends with an error that shows the output of the program.
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

PATIENCE = 20.0  # seconds; nothing takes more than a fraction of one, except on a very busy machine
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def find_program(name: str) -> str:
    """Return the path of a program, also from folders that are not in a user's PATH. Without it the test is skipped."""
    path = shutil.which(name, path=SBIN)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class Program:
    """A running program.

    :meth:`line` reads its standard output, and :meth:`errors` its standard error. It inherits *descriptors*.
    """

    def __init__(self, command: Sequence[str], directory: Path, descriptors: Sequence[int] = ()) -> None:
        descriptor, path = tempfile.mkstemp(".log", dir=directory)
        self._error_path = Path(path)
        # The program imports the package that the tests import, installed or not.
        package = str(Path(proxyprotocol.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": package, "PYTHONUNBUFFERED": "1"}
        with open(descriptor, "w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=descriptors,
            )
        assert self._process.stdout is not None
        self._lines: queue.Queue[str | None] = queue.Queue()
        # A thread, because no way to read a pipe with a time limit works on all systems.
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

    def status(self) -> int | None:
        """Return the exit status of a program that has ended."""
        return self._process.poll()

    def errors(self) -> str:
        """Return the standard error of the program up to now."""
        return self._error_path.read_text()

    def line(self) -> str:
        """Return the next line of the program's output."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            line = None
        assert line is not None, f"the program wrote no line; it is {self._process.args!r}, and said:\n{self.errors()}"
        return line

    def remaining_lines(self) -> list[str]:
        """Return the rest of the output of a program that was stopped."""
        lines = []
        with contextlib.suppress(queue.Empty):  # line() has read the end already
            while (line := self._lines.get_nowait()) is not None:
                lines.append(line)
        return lines

    def stop(self) -> str:
        """End the program.

        Returns:
            Its standard error.
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
    """Reserve a port for a program that will listen on it with SO_REUSEPORT or SO_REUSEADDR.

    Another test could take a port between the moment when it is found free and the start of the program. This one stays
    bound here, without listening, and the system gives it only to programs that ask for this number.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((host, 0))
            # only now: earlier, the system could give two sockets the same number
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
    """Check the condition every 10 ms until it is true, and fail after :data:`PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
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
    """Receive *size* bytes, or fewer if the stream ends before."""
    received = b""
    while len(received) < size and (data := client.recv(size - len(received))):
        received += data
    return received


def assert_echo(client: socket.socket, message: bytes = b"ping") -> None:
    """Send a message; it must come back."""
    client.sendall(message)
    assert receive_all(client, len(message)) == message


class Address(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def of(cls, name: tuple[object, ...]) -> Address:
        """Return the host and the port of a result of ``getsockname`` or ``getpeername``."""
        host, port = name[:2]
        assert isinstance(host, str)
        assert isinstance(port, int)
        return cls(host, port)
