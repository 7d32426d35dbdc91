"""transparent=yes: servers that know nothing of headers see the client's own address, in any language.

Granian is written in Rust, and gRPC's server in C++. Everything runs in a network namespace with the routes of
docs/relay.rst.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from proxyprotocol import ProxyProtocolV2, ProxyResultLocal
from tests.server.programs import Server
from tests.server.relays import PATIENCE, receive_all
from tests.vectors import IPV6_BLOCK, PROXY, v2

from ._applications import Way, application, ports_in_the_log
from ._clients import assert_http
from ._namespace import Namespace, documented_routes
from ._programs import Address, Program, find_program, wait_for, wait_until_listening

# One worker starts the servers once.
pytestmark = pytest.mark.xdist_group("transparent")

V4 = (b"PROXY TCP4 203.0.113.7 198.51.100.2 1000 2000\r\n", Address("203.0.113.7", 1000))
V6 = (v2(PROXY, 0x21, IPV6_BLOCK), Address("2001:db8::1", 1000))
HTTP, GRPC, PLAIN, DEAD = 9001, 9002, 9003, 9009


class Network:
    """The namespace, with the servers in it and the relay before them.

    Args:
        stack: Ends them.
        directory: Where they write.
        page: The documentation that names the routes.
    """

    def __init__(self, stack: contextlib.ExitStack, directory: Path, page: Path) -> None:
        self.namespace = Namespace(documented_routes(page))
        stack.callback(self.namespace.close)
        with self.namespace.inside():
            app = "tests.interop.applications.asgi_app:application"
            for host in ("127.0.0.1", "::1"):
                command = ["-m", "granian", "--interface", "asginl", "--host", host, "--port", str(HTTP), app]
                server = Program([sys.executable, *command], directory)
                stack.callback(server.stop)
                wait_until_listening(server, (host, HTTP))
            grpc = Program(application("grpc_server", f"127.0.0.1:{GRPC}", f"[::1]:{GRPC}"), directory)
            stack.callback(grpc.stop)
            ports_in_the_log(grpc, 2)
            self.plain = {
                8003: stack.enter_context(socket.create_server(("127.0.0.1", PLAIN))),
                8006: stack.enter_context(socket.create_server(("::1", PLAIN), family=socket.AF_INET6)),
            }
            services = []
            for number, to in enumerate((f"localhost:{HTTP}", f"localhost:{GRPC}", f"127.0.0.1:{PLAIN}")):
                source = f"127.0.0.1:{8001 + number}?accept=detect&trusted=127.0.0.1"
                services += ["--service", source, f"{to}?transparent=yes"]
            services += ["--service", "127.0.0.1:8004", f"127.0.0.1:{PLAIN}?transparent=yes"]
            services += ["--service", "127.0.0.1:8005?accept=v1&trusted=any", f"[::1]:{HTTP}?transparent=yes"]
            services += ["--service", "127.0.0.1:8006?accept=detect&trusted=any", f"[::1]:{PLAIN}?transparent=yes"]
            services += [
                "--service",
                "127.0.0.1:8007?accept=v1&trusted=any",
                f"127.0.0.1:{PLAIN}?transparent=yes&pp=v1",
            ]
            services += ["--service", "127.0.0.1:8009?accept=v1&trusted=any", f"127.0.0.1:{DEAD}?transparent=yes"]
            self.relay = Server(services, directory)
            stack.callback(self.relay.end)
            self.relay.wait_for_line("Listening on", 8)

    def connect(self, port: int) -> socket.socket:
        with self.namespace.inside():
            return socket.create_connection(("127.0.0.1", port), PATIENCE)

    def accept(self, port: int = 8003) -> tuple[socket.socket, Any]:
        self.plain[port].settimeout(PATIENCE)
        sock, peer = self.plain[port].accept()
        sock.settimeout(PATIENCE)
        return sock, peer[:2]

    def refuse(self, data: bytes, reason: str, port: int = 8003) -> None:
        """Send a header, which the relay must refuse."""
        with self.connect(port) as client:
            client.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        self.relay.wait_for_line(reason)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Iterator[Network]:
    with contextlib.ExitStack() as stack:
        yield Network(stack, tmp_path_factory.mktemp("network"), project_root / "docs" / "relay.rst")


@pytest.mark.parametrize("header", [V4, V6], ids=["v1-IPv4", "v2-IPv6"])
def test_granian_sees_the_client(network: Network, header: tuple[bytes, Address]) -> None:
    with network.namespace.inside():
        assert_http(Way(Address("127.0.0.1", 8001), *header), answer="{} {} http")


@pytest.mark.parametrize(
    ("header", "peer"), [(V4[0], "ipv4:203.0.113.7:1000"), (V6[0], "ipv6:%5B2001:db8::1%5D:1000")], ids=["v4", "v6"]
)
def test_a_grpc_server_sees_the_client(network: Network, header: bytes, peer: str) -> None:
    with (
        network.namespace.inside(),
        balancer(("127.0.0.1", 8002), header) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        ask = channel.unary_unary("/who/am_i")
        for _ in range(2):
            assert ask(b"", timeout=PATIENCE).decode() == peer


@contextlib.contextmanager
def balancer(to: tuple[str, int], header: bytes) -> Iterator[int]:
    """Listen for one connection, and pass it on with a header before it."""

    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(to, PATIENCE) as server:
            server.sendall(header)
            back = threading.Thread(target=carry, args=(server, client))
            back.start()
            carry(client, server)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_a_header_is_sent_only_if_the_destination_asks_for_one(network: Network) -> None:
    with network.connect(8003) as client:
        client.sendall(V4[0] + b"hello")
        server, peer = network.accept()
        with server:
            assert peer == V4[1]
            assert server.recv(100) == b"hello"
            client.shutdown(socket.SHUT_WR)
            server.sendall(b"world")
        assert receive_all(client) == b"world"


def test_a_client_on_this_machine_and_a_health_check_keep_their_address_but_not_their_port(network: Network) -> None:
    # the client's socket has the port already
    for port, data in ((8004, b""), (8003, ProxyProtocolV2().pack(ProxyResultLocal()))):
        with network.connect(port) as client:
            client.sendall(data)
            server, peer = network.accept()
            with server:
                assert peer[0] == "127.0.0.1"
                assert peer[1] != client.getsockname()[1]


def test_a_destination_that_asks_for_a_header_gets_both(network: Network) -> None:
    with network.connect(8007) as client:
        client.sendall(V4[0] + b"hello")
        server, peer = network.accept()
        with server:
            assert peer == V4[1]
            assert server.recv(100) == V4[0] + b"hello"


@pytest.mark.parametrize(("port", "header"), [(8003, V4), (8006, V6)], ids=["IPv4", "IPv6"])
def test_a_client_gets_another_port_while_its_own_is_taken(
    network: Network, port: int, header: tuple[bytes, Address]
) -> None:
    data, (host, number) = header
    with network.connect(port) as first, network.connect(port) as second:
        first.sendall(data)
        one, peer = network.accept(port)
        assert peer == (host, number)
        second.sendall(data)
        two, peer = network.accept(port)
        assert peer[0] == host
        assert peer[1] != number
        one.close()
        two.close()


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"PROXY TCP4 0.0.0.0 0.0.0.0 1 2\r\n", "transparent=yes cannot connect from 0.0.0.0, which is not the"),
        (b"PROXY TCP6 ::ffff:0.0.0.0 ::1 1 2\r\n", "transparent=yes cannot connect from 0.0.0.0, which is not the"),
        (b"PROXY TCP4 224.0.0.1 1.1.1.1 1 2\r\n", "transparent=yes cannot connect from 224.0.0.1, which is not the"),
        (V6[0], "cannot connect to 127.0.0.1:9003: 127.0.0.1:9003 is of another family than 2001:db8::1, the client"),
        (v2(PROXY, 0x31, b"/a".ljust(216, b"\0")), "transparent=yes needs a client with an IP address"),
    ],
    ids=["unspecified", "mapped", "multicast", "family", "unix"],
)
def test_a_client_without_a_usable_address_is_refused(network: Network, header: bytes, reason: str) -> None:
    network.refuse(header, reason)


@pytest.mark.parametrize(
    ("port", "host"),
    [(8003, host) for host in ("0.1.2.3", "240.0.0.1", "255.255.255.254", "169.254.1.1", "127.1.2.3", "10.0.0.0")]
    + [(8006, host) for host in ("fe80::1", "::2", "::7f00:1", "2002::1", "fc00::", "64:ff9b::1")],
)
def test_an_odd_address_is_the_clients_or_refused_and_never_becomes_another(
    network: Network, port: int, host: str
) -> None:
    with network.connect(port) as client:
        client.sendall(f"PROXY TCP{6 if ':' in host else 4} {host} {host} 5 6\r\n".encode())
        network.plain[port].settimeout(0.3)
        try:
            server, peer = network.plain[port].accept()
        except TimeoutError:
            assert client.recv(1) == b""
        else:
            server.close()
            assert ip_address(peer[0]) == ip_address(host)


def test_a_client_that_claims_the_address_of_a_dead_server_is_not_connected_to_itself(network: Network) -> None:
    with network.connect(8009) as client:
        client.sendall(f"PROXY TCP4 127.0.0.1 127.0.0.1 {DEAD} 80\r\nhello".encode())
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(5) == b""
    network.relay.wait_for_line(f"cannot connect to 127.0.0.1:{DEAD}: Connection refused")


def test_an_ipv4_client_cannot_reach_an_ipv6_server(network: Network) -> None:
    network.refuse(V4[0], r"cannot connect to \[::1\]:9001: \[::1\]:9001 is of another family than 203.0.113.7", 8005)


def test_without_the_routes_the_log_says_what_to_look_at(tmp_path: Path) -> None:
    namespace = Namespace([])
    service = ["--service", "127.0.0.1:8001?accept=v1&trusted=any", f"127.0.0.1:{PLAIN}?transparent=yes"]
    with namespace.inside(), socket.create_server(("127.0.0.1", PLAIN)):
        relay = Server([*service, "--connect-timeout", "0.2"], tmp_path)
        relay.wait_for_line("Reads")
        with socket.create_connection(("127.0.0.1", 8001), PATIENCE) as client:
            client.sendall(V4[0])
            assert client.recv(1) == b""
    relay.wait_for_line(
        r"cannot connect to 127.0.0.1:9003: it did not answer within 0.2 seconds; are its answers to 203.0.113.7 "
        r"routed to this machine\?"
    )
    assert relay.end() == 0
    namespace.close()


def test_without_the_capability_the_relay_does_not_start() -> None:
    command = [sys.executable, "-m", "proxyprotocol.server.main", "--service", ":0", "127.0.0.1:1?transparent=yes"]
    limits = [find_program("setpriv"), "--bounding-set=-all", "--inh-caps=-all"]
    ran = subprocess.run([*limits, *command], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert ran.stderr == (
        "proxyprotocol-server: transparent=yes needs the capability CAP_NET_RAW or CAP_NET_ADMIN (Operation not "
        "permitted): start the relay as root, or with AmbientCapabilities=CAP_NET_RAW in its unit of systemd\n"
    )


def test_the_smaller_capability_is_enough_and_a_low_port_becomes_another(network: Network, tmp_path: Path) -> None:
    service = ["--service", "127.0.0.1:8008?accept=v1&trusted=any", f"127.0.0.1:{PLAIN}?transparent=yes"]
    limits = [find_program("setpriv"), "--bounding-set=-all,+net_raw", "--inh-caps=-all"]
    with network.namespace.inside():
        relay = Program([*limits, sys.executable, "-m", "proxyprotocol.server.main", *service], tmp_path)
    try:
        wait_for(lambda: "Reads version 1" in relay.errors())
        with network.connect(8008) as client:
            client.sendall(b"PROXY TCP4 203.0.113.7 198.51.100.2 443 2000\r\n")
            server, peer = network.accept()
            server.close()
            assert peer[0] == "203.0.113.7"
            assert peer[1] != 443
    finally:
        relay.stop()


def test_the_unit_for_systemd_sets_the_documented_routes(project_root: Path) -> None:
    unit = (project_root / "examples" / "systemd" / "proxyprotocol-transparent.service").read_text()
    routes = documented_routes(project_root / "docs" / "relay.rst")
    assert len(routes) == 4
    assert [line.partition("/sbin/")[2].split() for line in unit.splitlines() if "StartPre" in line] == routes
