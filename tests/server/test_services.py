"""--services: services in a file, which SIGHUP reads again while connections go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol.server._process import services
from proxyprotocol.server.main import main
from tests.interop._certificates import SERVER_NAME, Certificates
from tests.interop._programs import reserved_port, wait_for
from tests.server.programs import Server, Starter, children, refused, scrape
from tests.server.relays import PATIENCE, Backend, Relaying, receive_all

every_count = pytest.mark.parametrize("workers", ["1", "2"])


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(reserved_port("127.0.0.1")) for _ in range(count)]


class Configured:
    """The relay with a file of services.

    Args:
        start: Starts it.
        path: The file.

    Attributes:
        path: The argument.
        server: The relay, after :meth:`run`.
    """

    server: Server

    def __init__(self, start: Starter, path: Path) -> None:
        self._start, self.path = start, path

    def write(self, *services: tuple[str, str]) -> None:
        tables = (f'[[service]]\nsource = "{source}"\ndestination = "{to}"\n' for source, to in services)
        self.path.write_text("\n".join(tables))

    def run(self, workers: str, *arguments: str, **keywords: Any) -> Server:
        arguments = ("--services", str(self.path), "--workers", workers, *arguments)
        self.server = self._start.program("proxyprotocol.server.main", *arguments, **keywords)
        self.server.wait_for_line("Reads", int(workers))
        return self.server

    def run_without(self, workers: str, *service: str) -> Server:
        """Start the relay without a file."""
        self.server = self._start.program("proxyprotocol.server.main", "--service", *service, "--workers", workers)
        self.server.wait_for_line("Reads", int(workers))
        return self.server

    def reload(self) -> None:
        """Send SIGHUP, and wait until each process has read the file."""
        before = self.server.log.count("again: services: ")
        self.server.process.send_signal(signal.SIGHUP)
        self.server.wait_for_line("again: services: ", before + 1)


@pytest.fixture
def configured(start: Starter, tmp_path: Path) -> Configured:
    return Configured(start, tmp_path / "services.toml")


def ask(port: int, backend: Backend) -> bytes:
    """Connect, and return what came through to the server."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(b"hello")
        accepted = backend.accept()
        received = accepted.first or accepted.sock.recv(100)
        accepted.sock.close()
        assert receive_all(client) == b""
        return received


@every_count
def test_new_services_open_and_removed_ones_close_while_connections_go_on(
    configured: Configured, relaying: Relaying, workers: str
) -> None:
    kept, gone, new = free_ports(3)
    one, two = relaying.backend(), relaying.backend()
    configured.write((f"127.0.0.1:{kept}", one.address), (f"127.0.0.1:{gone}", one.address))
    server = configured.run(workers)
    server.wait_for_line("Reads", 2 * int(workers))
    clients, servers = [], []
    for port in (kept, gone, kept, gone):
        clients.append(relaying.keep(socket.create_connection(("127.0.0.1", port), PATIENCE)))
        servers.append(one.accept().sock)

    configured.write((f"127.0.0.1:{kept}", one.address), (f"127.0.0.1:{new}", two.address))
    configured.reload()
    server.wait_for_line("Read .*services.toml again: services: 1 new, 1 gone, 1 unchanged")
    server.wait_for_line(f"Stopped listening on 127.0.0.1:{gone}", int(workers))
    assert refused(("127.0.0.1", gone))
    for _ in range(4):  # the system chooses the worker
        assert ask(new, two) == b"hello"
        assert ask(kept, one) == b"hello"
    for client, behind in zip(clients, servers, strict=True):
        client.sendall(b"still")
        assert behind.recv(10) == b"still"
        behind.sendall(b"here")
        assert client.recv(10) == b"here"
    for sock in (*clients, *servers):
        sock.close()
    assert server.end() == 0


@every_count
def test_a_service_changes_and_another_stays_without_a_gap(
    configured: Configured, relaying: Relaying, workers: str
) -> None:
    (port, other), one, two = free_ports(2), relaying.backend(), relaying.backend()
    unchanged = (f"127.0.0.1:{other}", relaying.backend().address)
    configured.write((f"127.0.0.1:{port}", one.address), unchanged)
    server = configured.run(workers)
    client = relaying.keep(socket.create_connection(("127.0.0.1", port), PATIENCE))
    behind = one.accept().sock
    with never_refused(port), never_refused(other):
        for to, options in ((two, "?pp=v1"), (one, "?pp=noop"), (two, "")):
            configured.write((f"127.0.0.1:{port}?backlog=64", to.address + options), unchanged)
            configured.reload()
    behind.sendall(b"still")
    assert client.recv(10) == b"still"
    assert server.log.count(f"Listening on 127.0.0.1:{other} for") == int(workers)
    assert "Traceback" not in server.log


@contextlib.contextmanager
def never_refused(port: int) -> Iterator[None]:
    """Connect all the time; no connection may be refused."""
    over, refusals = threading.Event(), list[OSError]()

    def connect() -> None:
        while not over.is_set():
            try:
                socket.create_connection(("127.0.0.1", port), PATIENCE).close()
            except OSError as error:
                refusals.append(error)
                return

    thread = threading.Thread(target=connect)
    thread.start()
    yield
    over.set()
    thread.join()
    assert refusals == []


BROKEN = {
    "[[service]": r"services.toml is not TOML: .* \(at line 1, column 10\)",
    "": r"services.toml has no service: write \[\[service\]\], and source = and destination = below it",
    "\xff": "services.toml is not TOML: .*",
    "a=" + "[" * 100_000: "services.toml is not TOML: .*",
    "[[services]]": r"services.toml: unknown key services; did you mean service\?",
    "service = [1]": r"services.toml: service 1: write \[\[service\]\], and source = ",
    '[[service]]\nsource=":1"\ndestnation="b:1"': r"service 1: unknown key destnation; did you mean destination\?",
    '[[service]]\nsource=80\ndestination="b:1"': 'service 1: source = takes an address in quotes, such as ":80"',
    '[[service]]\nsource="127.0.0.1:0"\ndestination="b:1"\n[[service]]\nsource=":0?trust=::1"\ndestination="b:1"': (
        r"services.toml: service 2: ':0\?trust=::1': unknown option trust; did you mean trusted\?"
    ),
    '[[service]]\nsource="127.0.0.1:{taken}"\ndestination="b:1"': "service 1: Cannot listen on 127.0.0.1:",
}


@every_count
def test_a_broken_file_keeps_the_old_services_and_the_log_says_why(
    configured: Configured, relaying: Relaying, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    backend, taken = relaying.backend(), relaying.backend()
    (port,), path = free_ports(1), tmp_path / "services.toml"
    configured.write((f"127.0.0.1:{port}", backend.address))
    server = configured.run(workers)
    for text, reason in BROKEN.items():
        path.write_text(text.replace("{taken}", taken.address.rpartition(":")[2]), "latin-1")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line(f"The old services stay: .*{reason}")
        # at the start, the same sentence ends the program
        assert main(["--services", str(path)]) == 2
        assert re.match(f"proxyprotocol-server: .*{reason}.*\n$", capsys.readouterr().err)
    assert ask(port, backend) == b"hello"
    configured.write((f"127.0.0.1:{port}", backend.address))
    configured.reload()
    assert server.end() == 0


FAILS_ONCE = """
import os, proxyprotocol.server._process.services as services
real, parent, failed = services.parse_service, os.getpid(), []
def parse(*texts):
    if os.getpid() != parent and not failed:
        failed.append(texts)
        raise ValueError("cert=site.pem cannot be read")
    return real(*texts)
services.parse_service = parse
"""


def test_a_worker_that_finds_a_file_half_written_tries_again(configured: Configured, relaying: Relaying) -> None:
    backend, (old, new) = relaying.backend(), free_ports(2)
    configured.write((f"127.0.0.1:{old}", backend.address))
    server = configured.run("2", before=FAILS_ONCE)
    configured.write((f"127.0.0.1:{new}", backend.address))
    configured.reload()
    server.wait_for_line("This worker keeps its old services, and tries again: cert=site.pem cannot be read", 2)
    assert ask(old, backend) == b"hello"
    server.wait_for_line(f"Reads .* 127.0.0.1:{new}", 2)
    for _ in range(4):
        assert ask(new, backend) == b"hello"
    assert refused(("127.0.0.1", old))


SLOW_NAMES = """
import socket, time
real = socket.getaddrinfo
def slow(host, *arguments, **keywords):
    if host == "slow.example":
        time.sleep(60)
    return real(host, *arguments, **keywords)
socket.getaddrinfo = slow
"""


def test_connections_go_on_while_a_name_in_the_file_is_looked_up(configured: Configured, relaying: Relaying) -> None:
    backend, (port,) = relaying.backend(), free_ports(1)
    configured.write((f"127.0.0.1:{port}", backend.address))
    server = configured.run("1", before=SLOW_NAMES)
    configured.write((f"127.0.0.1:{port}", backend.address), ("slow.example:0", backend.address))
    server.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)  # let the look-up begin; it leaves no sign
    assert ask(port, backend) == b"hello"
    assert server.end() == 0


def open_files(server: Server) -> list[int]:
    """Return how many files each worker has open."""
    return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in children(server)]


@pytest.mark.parametrize("broken", [True, False], ids=["broken", "none"])
def test_a_worker_opens_nothing_for_sighup_without_a_change(
    configured: Configured, relaying: Relaying, broken: bool
) -> None:
    backend, (old, new) = relaying.backend(), free_ports(2)
    configured.write((f"127.0.0.1:{old}", backend.address))
    if broken:
        server = configured.run("2")
        configured.write((f"127.0.0.1:{old}", backend.address), (f"127.0.0.1:{new}", backend.address))
        configured.reload()
        server.wait_for_line(f"Reads .* 127.0.0.1:{new}", 2)
        configured.path.write_text("broken")
    else:
        server = configured.run_without("2", f"127.0.0.1:{old}", backend.address)
    before = open_files(server)
    lines = server.log.count("Listening on")
    for _ in range(3):
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.1)  # without a file, nothing tells when it is over
    assert ask(old, backend) == b"hello"
    wait_for(lambda: open_files(server) == before)
    assert server.log.count("Listening on") == lines
    assert "topped listening" not in server.log


@every_count
def test_an_error_that_nobody_expects_keeps_the_old_services_too(
    configured: Configured, relaying: Relaying, workers: str
) -> None:
    backend, (port,) = relaying.backend(), free_ports(1)
    configured.write((f"127.0.0.1:{port}", backend.address))
    server = configured.run(workers, before=FAILS_LATER)
    configured.write(("127.0.0.1:0", backend.address))
    for count in (1, 2):
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line("The old services stay: unheard of\n.*\n", count)
    assert ask(port, backend) == b"hello"
    assert server.end() == 0
    server.log_file.write_text(server.log.replace("Traceback", "The traceback"))  # which is right here


FAILS_LATER = """
import proxyprotocol.server._process.services as services
real, parsed = services.parse_service, []
def parse(*texts):
    if parsed:
        raise RuntimeError("unheard of")
    parsed.append(texts)
    return real(*texts)
services.parse_service = parse
"""


def test_a_wrong_file_ends_the_start_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--services", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err == f"proxyprotocol-server: {tmp_path}/none.toml: No such file or directory\n"


def test_without_tomli_an_old_python_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise ImportError("No module named 'tomli'")

    monkeypatch.setattr(services, "import_module", fail)
    assert main(["--services", "services.toml"]) == 2
    assert capsys.readouterr().err == (
        "proxyprotocol-server: --services needs tomli (No module named 'tomli'): install the extra "
        "proxyprotocol[services]\n"
    )


@every_count
def test_services_of_the_command_line_stay(
    configured: Configured, relaying: Relaying, short_path: Path, workers: str
) -> None:
    backend, (port, new) = relaying.backend(), free_ports(2)
    configured.write((f"unix:{short_path}/front", backend.address))
    server = configured.run(workers, "--service", f"127.0.0.1:{port}", backend.address)
    server.wait_for_line("Reads", 2 * int(workers))
    configured.write((f"127.0.0.1:{new}", backend.address))
    configured.reload()
    wait_for(lambda: not (short_path / "front").exists())
    assert ask(port, backend) == ask(new, backend) == b"hello"
    configured.write((f"unix:{short_path}/front", backend.address))
    configured.reload()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(f"{short_path}/front")
        backend.accept().sock.close()
        assert client.recv(1) == b""
    assert server.end() == 0
    assert not (short_path / "front").exists()


def test_a_new_worker_has_the_services_of_the_last_reload(configured: Configured, relaying: Relaying) -> None:
    backend, (old, new) = relaying.backend(), free_ports(2)
    configured.write((f"127.0.0.1:{old}", backend.address))
    server = configured.run("2")
    configured.write((f"127.0.0.1:{new}", backend.address))
    configured.reload()
    server.wait_for_line(f"Listening on 127.0.0.1:{new}", 2)
    for pid in children(server):
        os.kill(pid, signal.SIGKILL)
    server.wait_for_line(f"Listening on 127.0.0.1:{new}", 4)
    assert ask(new, backend) == b"hello"
    assert refused(("127.0.0.1", old))
    configured.write((f"127.0.0.1:{old}", backend.address))
    configured.reload()
    server.wait_for_line(f"Listening on 127.0.0.1:{old}", 4)
    assert ask(old, backend) == b"hello"


@every_count
def test_new_services_are_counted(configured: Configured, relaying: Relaying, workers: str) -> None:
    backend, (old, new, metrics) = relaying.backend(), free_ports(3)
    configured.write((f"127.0.0.1:{old}", backend.address))
    server = configured.run(workers, "--metrics", str(metrics))
    configured.write((f"127.0.0.1:{new}", backend.address))
    configured.reload()
    server.wait_for_line(f"Listening on 127.0.0.1:{new}", int(workers))
    for _ in range(6):
        ask(new, backend)
    name = f'proxyprotocol_bytes_total{{direction="up",listener="127.0.0.1:{new}",service="127.0.0.1:{new}"}}'
    wait_for(lambda: scrape(metrics).get(name) == 6 * len(b"hello"))


@every_count
def test_certificates_are_read_again_and_a_broken_one_keeps_the_service(
    configured: Configured, relaying: Relaying, certificates: Certificates, tmp_path: Path, workers: str
) -> None:
    backend, (port, other) = relaying.backend(), free_ports(2)
    pem = tmp_path / "served.pem"
    pem.write_text(certificates.server.read_text())
    secured = (f"ssl://127.0.0.1:{port}?cert={pem}", backend.address)
    configured.write(secured)
    server = configured.run(workers)
    pem.write_text("nothing")
    configured.write(secured, (f"127.0.0.1:{other}", backend.address))
    configured.reload()
    server.wait_for_line("keeps its old certificates: The certificate .* cannot be used", int(workers))
    assert ask(other, backend) == b"hello"
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        certificates.client_context().wrap_socket(client, server_hostname=SERVER_NAME).close()


def test_a_worker_that_does_not_read_its_orders_is_replaced(configured: Configured, relaying: Relaying) -> None:
    backend, (port,) = relaying.backend(), free_ports(1)
    configured.write((f"127.0.0.1:{port}", backend.address))
    server = configured.run("2", before="import proxyprotocol.server._process.workers as w; w._TELL = 0.2")
    server.wait_for_line("Listening on", 2)
    os.kill(children(server)[0], signal.SIGSTOP)
    # more than fits into the connection to a worker
    configured.write((f"127.0.0.1:{port}", f"unix:/{'x' * 400_000}"))
    configured.reload()
    server.wait_for_line("A worker does not answer its parent, and is killed")
    server.wait_for_line("Worker 0 ended by signal 9; a new one replaces it")
    server.wait_for_line("Listening on .* for .*xxx", 2)
    configured.write((f"127.0.0.1:{port}", backend.address))
    configured.reload()
    server.wait_for_line(f"Listening on .* for {backend.address}", 4)
    for _ in range(4):
        assert ask(port, backend) == b"hello"
    assert server.end() == 0


def test_the_example_is_read(configured: Configured, project_root: Path, relaying: Relaying) -> None:
    backend, text = relaying.backend(), (project_root / "examples" / "services.toml").read_text()
    ports = dict(zip(("8080", "8443"), free_ports(2), strict=True))
    for old, new in {**ports, "8081": backend.address.rpartition(":")[2]}.items():
        text = text.replace(f":{old}", f":{new}")
    configured.path.write_text(text)
    server = configured.run("1")
    server.wait_for_line("Reads", 2)
    with socket.create_connection(("127.0.0.1", ports["8080"]), PATIENCE) as client:
        client.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n")
        result = backend.accept().result
        assert result is not None
        assert result.peername == ("192.0.2.1", 1000)
