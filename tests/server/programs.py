"""Helpers for the tests of the proxyprotocol-server command: the command as a process, and questions about it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import proxyprotocol
from tests.interop._programs import wait_for
from tests.server.relays import PATIENCE, Backend, Relaying


class Server:
    """The command, running; its log is read line by line.

    Args:
        arguments: Its arguments.
        directory: Where its log is written.
        files: The soft and the hard limit of its file descriptors; None for those of this process.
        start_new_session: Whether it has a process group of its own.
        before: Python code to run before the command, in its process.
        module: The module of the command.
    """

    def __init__(
        self,
        arguments: list[str],
        directory: Path,
        files: tuple[int, int] | None = None,
        start_new_session: bool = False,
        before: str = "",
        module: str = "proxyprotocol.server.main",
    ) -> None:
        self.log_file = directory / f"{time.monotonic_ns()}.log"
        environment = {**os.environ, "PYTHONPATH": str(Path(proxyprotocol.__file__).parent.parent)}
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, files)) if files else None
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{before}\nfrom {module} import main\nraise SystemExit(main())", *arguments],
                env=environment,
                stderr=log,
                preexec_fn=limit,
                start_new_session=start_new_session,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for_line(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until *count* lines of the log match, and return the last match."""

        def found() -> bool:
            assert self.process.poll() is None or re.search(pattern, self.log), self.log
            return len(re.findall(pattern, self.log)) >= count

        wait_for(found)
        return list(re.finditer(pattern, self.log))[-1]

    @property
    def port(self) -> int:
        return int(self.wait_for_line(r"Listening on \S+:(\d+) for")[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    @property
    def memory(self) -> int:
        """Its resident memory, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


class Starter:
    """Starts the command, with one service to one server.

    Args:
        stack: Ends with the test.
        relaying: Starts servers.
        directory: Where to write logs.
    """

    def __init__(self, stack: contextlib.ExitStack, relaying: Relaying, directory: Path) -> None:
        self._stack, self._directory = stack, directory
        self.backend: Backend = relaying.backend()

    def __call__(
        self, *arguments: str, source: str = "127.0.0.1:0", destination: str = "", options: str = "", **keywords: Any
    ) -> Server:
        service = ["--service", source, (destination or self.backend.address) + options]
        return self.program("proxyprotocol.server.main", *service, *arguments, **keywords)

    def program(self, module: str, *arguments: str, **keywords: Any) -> Server:
        """Start another command, by its module."""
        server = Server(list(arguments), self._directory, module=module, **keywords)
        self._stack.callback(self._stop, server)
        return server

    def wait_until_refused(self, address: tuple[str, int]) -> None:
        """Wait until nothing listens there, and close the connections that were made to find out."""
        wait_for(lambda: refused(address))
        self.end_others()

    def end_others(self) -> None:
        """Close the connections that wait to be accepted."""
        self.backend.sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                self.backend.accept().sock.close()

    def _stop(self, server: Server) -> None:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        assert "Traceback" not in server.log


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, PATIENCE).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def processor_time(pid: int) -> float:
    """The processor time that a process has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(server: Server) -> list[int]:
    path = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    caught = re.findall(r"SigCgt:\s+(\S+)", Path(f"/proc/{pid}/status").read_text())[0]
    return bool(int(caught, 16) >> (number - 1) & 1)


def scrape(port: int, host: str = "127.0.0.1") -> dict[str, float]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{host}:{port}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name if "{" in name else name + "{}": float(value) for name, _, value in samples}
