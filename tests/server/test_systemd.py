"""Socket activation: systemd:NAME as the address to listen on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyprotocol.server import parse_service
from proxyprotocol.server.main import make_parser
from tests.interop._certificates import SERVER_NAME, Certificates
from tests.interop._programs import Program, wait_for
from tests.server.relays import PATIENCE, Backend, Relaying, receive_all

# What systemd does: the sockets become the descriptors from 3 on, and the variables name the process that will be the
# program. Its arguments: the names, the descriptors, and the program.
STARTER = """
import fcntl, os, sys
names, descriptors, *command = sys.argv[1:]
# out of the way of those that follow
numbers = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in descriptors.split(",")]
for place, number in enumerate(numbers, 3):
    os.dup2(number, place, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""

Start = Callable[..., Program]


@pytest.fixture
def activate(tmp_path: Path) -> Iterator[Start]:
    """Starts a command with sockets, given by their names."""
    programs: list[Program] = []

    def start(names: str, sockets: list[socket.socket], *arguments: str, module: str = "main") -> Program:
        descriptors = [sock.fileno() for sock in sockets]
        command = [sys.executable, "-m", f"proxyprotocol.server.{module}", *arguments]
        passed = [names, ",".join(map(str, descriptors))]
        program = Program([sys.executable, "-c", STARTER, *passed, *command], tmp_path, descriptors)
        programs.append(program)
        return program

    yield start
    for program in programs:
        assert "Traceback" not in program.stop()


@pytest.fixture
def listener(relaying: Relaying) -> socket.socket:
    return relaying.keep(socket.create_server(("127.0.0.1", 0)))  # type: ignore[no-any-return]


def ask(address: tuple[str, int], backend: Backend) -> None:
    with socket.create_connection(address, PATIENCE) as client:
        client.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\nhello")
        accepted = backend.accept()
        assert accepted.result is not None
        assert accepted.result.peername == ("192.0.2.1", 1000)
        assert accepted.first == b"hello"
        accepted.sock.close()
        assert receive_all(client) == b""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", ["web", "1"])
def test_the_relay_listens_on_a_socket_of_systemd(
    activate: Start, relaying: Relaying, listener: socket.socket, name: str, workers: str
) -> None:
    backend, other = relaying.backend(), relaying.keep(socket.create_server(("127.0.0.1", 0)))
    service = [f"systemd:{name}?accept=v1&trusted=127.0.0.1", backend.address]
    relay = activate("mail:web", [other, listener], "--service", *service, "--workers", workers)
    for _ in range(4):
        ask(listener.getsockname(), backend)
    relay.stop()
    # systemd's socket is still open: clients wait there for the next start
    waiting = relaying.keep(socket.create_connection(listener.getsockname(), PATIENCE))
    waiting.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n")
    activate("mail:web", [other, listener], "--service", *service)
    assert backend.accept().result is not None


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_socket_of_systemd_may_leave_the_file_and_come_back(
    activate: Start, relaying: Relaying, listener: socket.socket, tmp_path: Path, workers: str
) -> None:
    backend, file = relaying.backend(), tmp_path / "services.toml"

    def write(*sources: str) -> None:
        tables = (f'[[service]]\nsource = "{source}"\ndestination = "{backend.address}"\n' for source in sources)
        file.write_text("".join(tables))

    write("systemd:web?accept=v1&trusted=any")
    relay = activate("web", [listener], "--services", str(file), "--workers", workers)
    ask(listener.getsockname(), backend)
    write("127.0.0.1:0")
    os.kill(relay.pid, signal.SIGHUP)
    wait_for(lambda: "again: services: 1 new, 1 gone" in relay.errors())
    write("127.0.0.1:0", "systemd:web?accept=v1&trusted=any")
    os.kill(relay.pid, signal.SIGHUP)
    wait_for(lambda: "again: services: 1 new, 0 gone" in relay.errors())
    ask(listener.getsockname(), backend)


def test_several_sockets_may_have_one_name_and_a_path_stays(
    activate: Start, relaying: Relaying, listener: socket.socket, short_path: Path
) -> None:
    backend, unix = relaying.backend(), relaying.keep(socket.socket(socket.AF_UNIX))
    unix.bind(f"{short_path}/front")
    unix.listen()
    relay = activate("web:web", [listener, unix], "--service", "systemd:web?accept=v1&trusted=any", backend.address)
    ask(listener.getsockname(), backend)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(f"{short_path}/front")
        client.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n")
        backend.accept().sock.close()
        assert client.recv(1) == b""
    relay.stop()
    assert (short_path / "front").exists()


def test_an_ipv4_client_of_a_dual_stack_socket_is_an_ipv4_client(activate: Start, relaying: Relaying) -> None:
    backend = relaying.backend()
    both = relaying.keep(socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True))
    activate("web", [both], "--service", "systemd:web", backend.address)
    with socket.create_connection(("127.0.0.1", both.getsockname()[1]), PATIENCE) as client:
        result = backend.accept().result
        assert result is not None
        assert result.peername == client.getsockname()


def test_tls_on_a_socket_of_systemd(
    activate: Start, relaying: Relaying, listener: socket.socket, certificates: Certificates
) -> None:
    backend = relaying.backend()
    activate("web", [listener], "--service", f"ssl+systemd:web?cert={certificates.server}", backend.address)
    with socket.create_connection(listener.getsockname(), PATIENCE) as client:
        tls = certificates.client_context().wrap_socket(client, server_hostname=SERVER_NAME)
        tls.sendall(b"hello")
        result = backend.accept().result
        assert result is not None
        assert result.tlv.ssl.has_ssl
        tls.close()


def test_the_echo_server_listens_on_a_socket_of_systemd(activate: Start, relaying: Relaying, short_path: Path) -> None:
    unix = relaying.keep(socket.socket(socket.AF_UNIX))
    unix.bind(f"{short_path}/echo")
    unix.listen()
    echo = activate("echo.socket", [unix], "systemd:echo.socket?pp=v1&trusted=unix", module="echo")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(f"{short_path}/echo")
        client.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\nhello")
        assert client.recv(10) == b"hello"
    echo.stop()
    assert (short_path / "echo").exists()


@pytest.mark.parametrize(
    ("names", "sources", "sentence"),
    [
        ("web", ["systemd:wbe"], "systemd:wbe: unknown socket wbe; did you mean web?"),
        ("web", ["systemd:7"], "systemd:7: unknown socket 7; known are web"),
        ("web", ["systemd:web", "systemd:0"], "systemd:web and systemd:0 are one socket: write one service for it"),
        ("web", ["systemd:web", "systemd:web"], "systemd:web and systemd:web are one socket: write one service for"),
        ("web:more", ["systemd:web"], "systemd:web: LISTEN_FDS, LISTEN_FDNAMES and the open files differ: "),
        ("", ["systemd:web"], "systemd:web: unknown socket web; known are 0"),
    ],
)
def test_a_socket_that_systemd_has_not_passed_is_a_sentence(
    activate: Start, listener: socket.socket, names: str, sources: list[str], sentence: str
) -> None:
    services = [argument for source in sources for argument in ("--service", source, "127.0.0.1:1")]
    relay = activate(names, [listener], *services)
    wait_for(lambda: not relay.running())
    assert relay.errors().startswith(f"proxyprotocol-server: {sentence}")


def test_the_unit_names_a_service_that_is_right(project_root: Path) -> None:
    folder = project_root / "examples" / "systemd"
    unit = (folder / "proxyprotocol-server.service").read_text().replace("\\\n", "")
    (command,) = re.findall("^ExecStart=(.*)$", unit, re.MULTILINE)
    (addresses,) = make_parser().parse_args(shlex.split(command)[1:]).service
    name = parse_service(*addresses).source.address.passed
    assert f"FileDescriptorName={name}\n" in (folder / "proxyprotocol-server.socket").read_text()


def test_a_socket_that_does_not_listen_is_a_sentence(activate: Start, relaying: Relaying) -> None:
    bound = relaying.keep(socket.socket())
    bound.bind(("127.0.0.1", 0))
    relay = activate("web", [bound], "--service", "systemd:web", "127.0.0.1:1")
    wait_for(lambda: not relay.running())
    expected = "systemd:web does not listen: its unit needs ListenStream= and Accept=no\n"
    assert relay.errors() == f"proxyprotocol-server: {expected}"
