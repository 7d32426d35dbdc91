"""Starts the servers of other projects, and checks what each must do with a header.

A test gives :func:`start` the command of a server with an application of ``whoami.py``, and runs each of :data:`CHECKS`
against it. The server trusts :data:`PROXY` alone.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

import pytest

from proxyprotocol import ProxyProtocolV1, ProxyProtocolV2, ProxyResultIPv4
from tests.interop._certificates import SERVER_NAME
from tests.interop._programs import PATIENCE, Address, Program, reserved_port, wait_for, wait_until_listening

ROOT = Path(__file__).parent.parent.parent
PROXY = "127.0.0.1"  # the only peer that the servers trust
STRANGER = "127.0.0.2"
CLIENT = Address("203.0.113.7", 5678)
CLIENT_RESULT = ProxyResultIPv4((IPv4Address(CLIENT.host), CLIENT.port), (IPv4Address("198.51.100.9"), 443))
V1 = ProxyProtocolV1().pack(CLIENT_RESULT)
V2 = ProxyProtocolV2().pack(CLIENT_RESULT)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
UNKNOWN = b"PROXY UNKNOWN\r\n"
#: Keeps Jupyter Server away from the files of whoever runs the tests.
ALONE = {f"JUPYTER_{name}_DIR": name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}


class Server(NamedTuple):
    """A running server.

    Attributes:
        program: Its process.
        address: Where it listens.
        context: The client's TLS context, if the server does TLS.
        extension: Whether the application also answers with the header.
        ports: Whether the application knows its client's port.
        keep_alive: Whether the server takes a second request on a connection.
    """

    program: Program
    address: Address
    context: ssl.SSLContext | None = None
    extension: bool = True
    ports: bool = True
    keep_alive: bool = True

    def ask(self, connection: socket.socket) -> str:
        """Send a request on a connection, and return the answer."""
        request = f"GET / HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n".encode()
        connection.sendall(request)
        return self.answer(connection)

    def answer(self, connection: socket.socket) -> str:
        response = http.client.HTTPResponse(connection)
        response.begin()
        body = response.read().decode()
        assert response.status == 200, body
        return body

    @contextlib.contextmanager
    def connect(self, header: bytes, source: str = PROXY, bytewise: bool = False) -> Iterator[socket.socket]:
        """Connect, send a header, and begin TLS if the server does it."""
        with socket.create_connection(self.address, PATIENCE, (source, 0)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in [bytes([byte]) for byte in header] if bytewise else [header]:
                connection.sendall(piece)
            if self.context is None:
                yield connection
            else:
                with self.context.wrap_socket(connection, server_hostname=SERVER_NAME) as secured:
                    yield secured

    def assert_client(self, answer: str, client: tuple[str, int], result: str) -> None:
        """See that an answer of the application names the client, and the header."""
        expected = [client[0], str(client[1]) if self.ports else "?", result if self.extension else "-"]
        assert answer.split(" ", 2) == expected, self.program.errors()

    def assert_refused(self, header: bytes, source: str = PROXY) -> None:
        """Send a request that the application must not get, and see that the log has one line for it."""
        with socket.socket() as connection:
            connection.settimeout(PATIENCE)
            connection.bind((source, 0))
            # a line about another peer, such as the one of an earlier test, may still come
            line = re.compile(rf"Refused a connection from {re.escape(source)}:{connection.getsockname()[1]}\b")
            with contextlib.suppress(ConnectionError):  # a reset is a good answer too, and may come at once
                connection.connect(self.address)
                connection.sendall(header + b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")
                assert connection.recv(1) == b""
        wait_for(lambda: line.search(self.program.errors()) is not None)
        assert len(line.findall(self.program.errors())) == 1
        assert "Traceback" not in self.program.errors()


def _names(header: bytes, bytewise: bool = False) -> Callable[[Server], None]:
    def check(server: Server) -> None:
        with server.connect(header, bytewise=bytewise) as connection:
            for _ in range(1 + server.keep_alive):  # the address holds for the second request of a connection too
                server.assert_client(server.ask(connection), CLIENT, str(CLIENT_RESULT))

    return check


def _unknown(header: bytes) -> Callable[[Server], None]:
    def check(server: Server) -> None:
        with server.connect(header) as connection:
            answer = server.ask(connection)
            server.assert_client(answer, connection.getsockname()[:2], answer.split(" ", 2)[2])

    return check


def check_one_segment(server: Server) -> None:
    """The header and the request come together."""
    if server.context is not None:
        _names(V2)(server)  # a ClientHello follows the header at once in any case
        return
    with socket.create_connection(server.address, PATIENCE, (PROXY, 0)) as connection:
        connection.sendall(V2 + f"GET / HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n".encode())
        server.assert_client(server.answer(connection), CLIENT, str(CLIENT_RESULT))


def check_silent(server: Server) -> None:
    """Three peers that send nothing, or half a header, hold up nobody."""
    with contextlib.ExitStack() as stack:
        for header in (b"", V1[:9], V2[:15]):
            connection = stack.enter_context(socket.create_connection(server.address, PATIENCE, (PROXY, 0)))
            connection.sendall(header)
        _names(V2)(server)


#: What each server must do, by name. ``silent`` is not for servers that serve one connection at a time.
CHECKS: dict[str, Callable[[Server], None]] = {
    "v1": _names(V1),
    "v2": _names(V2),
    "v1-bytewise": _names(V1, bytewise=True),
    "v2-bytewise": _names(V2, bytewise=True),
    "one-segment": check_one_segment,
    "local": _unknown(LOCAL),
    "unknown": _unknown(UNKNOWN),
    "untrusted": lambda server: server.assert_refused(V2, STRANGER),
    "no-header": lambda server: server.assert_refused(b""),
    "silent": check_silent,
}
every_check = pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)


@contextlib.contextmanager
def start(
    command: Sequence[str],
    directory: Path,
    *,
    context: ssl.SSLContext | None = None,
    environment: dict[str, str] | None = None,
    run: Sequence[str] | None = None,
    extension: bool = True,
    ports: bool = True,
    keep_alive: bool = True,
) -> Iterator[Server]:
    """Start a server, and end it.

    Args:
        command: The command. ``{port}`` in it becomes the port on 127.0.0.1 that the server must listen on. It may
            begin with the name of a console script beside this Python.
        directory: Where the server runs; ``whoami`` can be imported there.
        context: The client's TLS context, if the server does TLS.
        environment: Further variables of the environment; with ``run`` none are needed.
        run: Put ``proxyprotocol run --trusted 127.0.0.1`` with these further options before the command.
        extension: As for :class:`Server`.
        ports: As for :class:`Server`.
        keep_alive: As for :class:`Server`.
    """
    with reserved_port() as port, pytest.MonkeyPatch.context() as patch:
        words = [word.replace("{port}", str(port)) for word in command]
        script = Path(sys.executable).parent / words[0]
        if script.exists():
            words[0] = str(script)
        if run is not None:
            words = [sys.executable, "-m", "proxyprotocol", "run", "--trusted", PROXY, *run, "--", *words]
        whoami = directory / "whoami.py"
        if not whoami.exists():
            whoami.write_text(Path(__file__).with_name("whoami.py").read_text())
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        program = Program(words, directory)
        try:
            address = Address(PROXY, port)
            wait_until_listening(program, address)
            yield Server(program, address, context, extension, ports, keep_alive)
        finally:
            log = program.stop()
        assert "Traceback" not in log, log
