"""Processes that are stopped for longer than the time-out: headers that came meanwhile are in the sockets, not late.

All servers are stopped together, so that the tests wait only once.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.stalled import KINDS, TIMEOUT
from tests.interop._certificates import Certificates
from tests.interop._programs import connect, wait_for
from tests.sockets.servers import HEADER, TLSClient

ACCEPTING = 0.05  # seconds; a connection that is accepted after the stop would test nothing
CLIENTS = 20


class Server:
    """A server, its clients, and a silent client."""

    def __init__(self, kind: str, certificates: Certificates, directory: Path, stack: contextlib.ExitStack) -> None:
        log = stack.enter_context((directory / f"{kind}.log").open("w"))
        command = [sys.executable, "-m", "tests.adapters.stalled", kind, str(certificates.server)]
        self.process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True))
        stack.callback(self.process.kill)
        self.log = Path(log.name)
        self.tls = "TLS" in kind
        self.stack, self.certificates = stack, certificates

    def wait_until_it_listens(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.address = "127.0.0.1", int(line)

    def connect(self) -> None:
        """Connect the clients, and send the first half of their bytes."""
        *self.clients, self.silent = (self.stack.enter_context(connect(self.address)) for _ in range(CLIENTS + 1))
        if self.tls:
            self.tunnels = [TLSClient(client, self.certificates) for client in self.clients]
            self.silent.sendall(HEADER)
            halves = [(HEADER + hello[:50], hello[50:]) for hello in (tls.greeting() for tls in self.tunnels)]
        else:
            halves = [(HEADER[:9], HEADER[9:])] * CLIENTS
        self.rest = [second for _, second in halves]
        for client, (first, _) in zip(self.clients, halves, strict=True):
            client.sendall(first)

    def send_the_rest(self) -> None:
        for client, rest in zip(self.clients, self.rest, strict=True):
            with contextlib.suppress(ConnectionError):  # its answer will be missing
                client.sendall(rest)

    def go_on(self) -> None:
        """Continue the process, and read its answers; in TLS the clients must first complete the handshake at once."""
        self.process.send_signal(signal.SIGCONT)
        self.answers: list[bytes | OSError] = []
        for number, client in enumerate(self.clients):
            try:
                if self.tls:
                    self.tunnels[number].shake_hands(b"")
                self.answers.append(self.tunnels[number].read() if self.tls else client.recv(100))
            except OSError as error:  # SSLError is one
                self.answers.append(error)


@pytest.fixture(scope="module")
def servers(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """The servers, after they were stopped and continued."""
    with contextlib.ExitStack() as stack:
        directory = tmp_path_factory.mktemp("logs")
        servers = {kind: Server(kind, certificates, directory, stack) for kind in KINDS}
        for server in servers.values():
            server.wait_until_it_listens()
        for server in servers.values():
            server.connect()
            time.sleep(ACCEPTING)
            server.process.send_signal(signal.SIGSTOP)
            server.send_the_rest()
        time.sleep(TIMEOUT)
        for server in servers.values():
            server.go_on()
        yield servers


@pytest.mark.parametrize("kind", KINDS)
def test_clients_that_sent_during_a_stall_are_served_and_a_silent_one_is_dropped(
    servers: dict[str, Server], kind: str
) -> None:
    server = servers[kind]
    assert server.answers == [b"192.0.2.1"] * CLIENTS
    with contextlib.suppress(ConnectionResetError):
        assert server.silent.recv(1) == b""
    wait_for(lambda: "Refused a connection" in server.log.read_text())
    log = server.log.read_text()
    assert (log.count("Refused a connection"), log.count("Traceback")) == (1, 0)
