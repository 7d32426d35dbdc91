"""Starts the applications of other projects, and reaches them in different ways."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.vectors import IPV6_BLOCK, PROXY, v2

from ._programs import Address, Program, connect, wait_for

TWISTD = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"
#: The part of an endpoint description that asks for a free port on the loopback interface.
LOOPBACK = "0:interface=127.0.0.1"

#: The headers that a test sends itself, and the clients that they name.
HEADERS = {
    "v1": (b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n", Address("192.0.2.1", 1000)),
    "v2-IPv6": (v2(PROXY, 0x21, IPV6_BLOCK), Address("2001:db8::1", 1000)),
}

#: Runs a test with each of them, as header and client.
every_header = pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)


def twistd(*arguments: str) -> list[str]:
    """Return the command for twistd in the foreground. It logs to standard output and writes its id to twistd.pid."""
    return [sys.executable, "-c", TWISTD, "-n", "--pidfile", "twistd.pid", *arguments]


def application(name: str, *descriptions: str) -> list[str]:
    """Return the command for one of ``applications``, at these endpoints."""
    return [sys.executable, "-m", f"tests.interop.applications.{name}", *descriptions]


def tls_endpoint(certificate: Path) -> str:
    """Return the endpoint string for TLS after the header, with a file of key and certificate."""
    return f"proxyprotocol:ssl:{LOOPBACK}:privateKey={certificate}:certKey={certificate}"


class Application(NamedTuple):
    """A running application.

    Attributes:
        program: Its process.
        ports: Where it listens, one for each of its endpoints.
    """

    program: Program
    ports: list[int]

    def logged(self, text: str) -> str:
        """Return the next line of the log that contains *text*."""
        return find_line(self.program, text)


def find_line(program: Program, text: str) -> str:
    """Read a program's output up to the first line that contains *text*, and return that line."""
    while text not in (line := program.line()):
        assert "Traceback" not in line, line
    return line


def ports_in_the_log(program: Program, listeners: int) -> list[int]:
    """Find the ports of an application in its standard output: Twisted's log, or other programs with the same words."""
    return [int(find_line(program, " starting on ").rpartition(" ")[2]) for _ in range(listeners)]


def ports_told(pattern: str) -> Callable[[Program, int], list[int]]:
    """Return a function that finds the ports in an application's standard error. The pattern's group is the port."""

    def find(program: Program, listeners: int) -> list[int]:
        def told() -> list[str]:
            assert program.running(), program.errors()
            return re.findall(pattern, program.errors())

        wait_for(lambda: len(told()) == listeners)
        return list(map(int, told()))

    return find


ports_told_by_daphne = ports_told(r"Listening on TCP address 127.0.0.1:(\d+)\n")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    listeners: int = 1,
    find_ports: Callable[[Program, int], list[int]] = ports_in_the_log,
) -> Iterator[Application]:
    """Run an application. At the end it must still run, and must have logged no traceback.

    Args:
        command: The command that starts it.
        directory: Its working directory.
        listeners: The number of endpoints that the command names.
        find_ports: The function that finds their ports.
    """
    program = Program(command, directory)
    try:
        yield Application(program, find_ports(program, listeners))
        survived = program.running()
    finally:
        log = program.stop() + "\n".join(program.remaining_lines())
    assert survived, log
    assert "Traceback" not in log, log


class Way(NamedTuple):
    """A way to an application: straight there with a header, or through a proxy that sends one.

    Attributes:
        address: Where to connect.
        header: The bytes to send first; a proxy gets none.
        client: The client that the header names; None for a proxy, which names the one that connected.
    """

    address: Address
    header: bytes = b""
    client: Address | None = None

    def connect(self, data: bytes = b"") -> tuple[socket.socket, Address]:
        """Connect, and send *data* in the same segment as the header.

        Returns:
            The connection, and the client that the application must see.
        """
        client = connect(self.address)
        client.sendall(self.header + data)
        return client, self.client or Address.of(client.getsockname())

    def ask(self, request: bytes) -> tuple[bytes, Address]:
        """Connect, send a request, and read until the end.

        Returns:
            The answer, and the client that the application must have seen.
        """
        connection, client = self.connect(request)
        with connection, connection.makefile("rb") as answer:
            return answer.read(), client


class Listener(NamedTuple):
    """One listener of an application.

    Attributes:
        application: The application.
        port: Its port on 127.0.0.1.
        context: The TLS context for its clients; None for plain connections.
    """

    application: Application
    port: int
    context: ssl.SSLContext | None = None

    @property
    def address(self) -> Address:
        """The address to connect to."""
        return Address("127.0.0.1", self.port)

    @property
    def answer(self) -> str:
        """The answer of an application: the client's host, its port, and the scheme."""
        return "{} {} " + ("http" if self.context is None else "https")

    def way(self, header: tuple[bytes, Address] = HEADERS["v1"]) -> Way:
        """Return the direct way, with a header that names this client."""
        return Way(self.address, *header)
