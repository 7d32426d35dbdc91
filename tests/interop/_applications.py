"""Starting the applications that no one here wrote, and the ways to reach them."""

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
#: What an endpoint is told for a free port of this machine.
LOOPBACK = "0:interface=127.0.0.1"

#: The headers of the ways without a proxy, and the clients that they name.
HEADERS = {
    "v1": (b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n", Address("192.0.2.1", 1000)),
    "v2-IPv6": (v2(PROXY, 0x21, IPV6_BLOCK), Address("2001:db8::1", 1000)),
}

#: Each of them in turn, as header and client.
every_header = pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)


def twistd(*arguments: str) -> list[str]:
    """The command for twistd in the foreground, that logs to its standard output and leaves its id in twistd.pid."""
    return [sys.executable, "-c", TWISTD, "-n", "--pidfile", "twistd.pid", *arguments]


def application(name: str, *descriptions: str) -> list[str]:
    """The command for one of ``applications``, at these endpoints."""
    return [sys.executable, "-m", f"tests.interop.applications.{name}", *descriptions]


def tls_endpoint(certificate: Path) -> str:
    """The endpoint string for TLS behind the header, with a file of key and certificate."""
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
        """The next line of the log with this in it."""
        return find_line(self.program, text)


def find_line(program: Program, text: str) -> str:
    """Take lines of a program's output until one has this in it, which is returned."""
    while text not in (line := program.line()):
        assert "Traceback" not in line, line
    return line


def ports_in_the_log(program: Program, listeners: int) -> list[int]:
    """Where an application listens, from its standard output: Twisted's log, or what writes the same words."""
    return [int(find_line(program, " starting on ").rpartition(" ")[2]) for _ in range(listeners)]


def ports_told(pattern: str) -> Callable[[Program, int], list[int]]:
    """What finds out where an application listens that writes it to its standard error, in the group of the pattern."""

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
        command: How it is started.
        directory: Where.
        listeners: How many endpoints the command names.
        find_ports: How their ports are found out.
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
        header: What to say first; nothing to a proxy.
        client: Who the header says we are; None for a proxy, that says who has connected.
    """

    address: Address
    header: bytes = b""
    client: Address | None = None

    def connect(self, data: bytes = b"") -> tuple[socket.socket, Address]:
        """Connect, and say something in the segment that the header is in.

        Returns:
            The connection, and the client that the application is to see.
        """
        client = connect(self.address)
        client.sendall(self.header + data)
        return client, self.client or Address.of(client.getsockname())

    def ask(self, request: bytes) -> tuple[bytes, Address]:
        """Connect, say something, and listen until the end.

        Returns:
            What was answered, and the client that the application is to have seen.
        """
        connection, client = self.connect(request)
        with connection, connection.makefile("rb") as answer:
            return answer.read(), client


class Listener(NamedTuple):
    """One of the places where an application listens.

    Attributes:
        application: The application.
        port: The port, on this machine.
        context: What its clients do TLS with; None where they do none.
    """

    application: Application
    port: int
    context: ssl.SSLContext | None = None

    @property
    def address(self) -> Address:
        """Where to connect."""
        return Address("127.0.0.1", self.port)

    @property
    def answer(self) -> str:
        """How an application writes the client's host and port, and how it was asked."""
        return "{} {} " + ("http" if self.context is None else "https")

    def way(self, header: tuple[bytes, Address] = HEADERS["v1"]) -> Way:
        """The way straight there, with a header that names this client."""
        return Way(self.address, *header)
