"""A real HAProxy in front of our servers: they see the client, and survive health checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ._programs import Address, assert_echo, connect, wait_for
from ._proxies import HAProxy
from ._servers import Seen, Server

STRING = "proxyprotocol:tcp:0:interface=127.0.0.1"
VERSIONS = ["send-proxy", "send-proxy-v2"]

Serve = Callable[[str], Server]


def seen_through(haproxy_port: int, server: Server, host: str = "127.0.0.1", *, among_checks: bool = False) -> Seen:
    """Connect to HAProxy, try the echo, and return what the server saw: this client and this frontend."""
    with connect((host, haproxy_port)) as client:
        assert_echo(client)
        me = Address.of(client.getsockname())
        seen = server.seen()
        while among_checks and seen.client != me:
            seen = server.seen()
        assert seen.client == me
    assert seen.destination == Address(host, haproxy_port)
    return seen


@pytest.mark.parametrize("version", VERSIONS)
def test_the_server_sees_the_client(haproxy: HAProxy, server: Server, version: str) -> None:
    port = haproxy.start(f"127.0.0.1:{server.address.port} {version}")

    seen_through(port, server)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_server_sees_an_ipv6_client(haproxy: HAProxy, server: Server, version: str) -> None:
    port = haproxy.start(f"127.0.0.1:{server.address.port} {version}", bind="::1:{port}")

    seen_through(port, server, "::1")


def test_each_of_many_clients_is_seen(haproxy: HAProxy, server: Server) -> None:
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2")

    clients = [connect(("127.0.0.1", port)) for _ in range(20)]
    names = {Address.of(client.getsockname()) for client in clients}
    for client in clients:
        assert_echo(client, b"x" * 100_000)
        client.close()

    assert {server.seen().client for _ in clients} == names


def test_the_checksum_and_the_unique_id_arrive(haproxy: HAProxy, serve: Serve) -> None:
    server = serve(STRING)
    port = haproxy.start(
        f"127.0.0.1:{server.address.port} send-proxy-v2 proxy-v2-options crc32c,unique-id",
        more="unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp",
    )

    seen = seen_through(port, server)

    assert seen.client is not None
    assert seen.header["type"] == "IPv4"
    # HAProxy writes the client's address in hexadecimal here, which confirms the address in the header
    assert seen.header["unique_id"] == f"7F000001:{seen.client.port:04X}_7F000001:{port:04X}"
    assert seen.header["crc32c"] is not None


@pytest.mark.parametrize("version", VERSIONS)
def test_behind_a_unix_frontend_twisted_gives_the_balancers_address(
    haproxy: HAProxy, serve: Serve, short_path: Path, version: str
) -> None:
    server = serve(STRING)
    path = str(short_path / "frontend")
    haproxy.start(f"127.0.0.1:{server.address.port} {version}", bind=f"unix@{path}")

    with connect(path) as client:
        assert_echo(client)
        seen = server.seen()

    assert seen.header["type"] == {"send-proxy": "UNKNOWN", "send-proxy-v2": "LOCAL"}[version]
    assert seen.client is not None
    assert seen.client.host == "127.0.0.1"
    assert seen.destination == server.address


def test_behind_a_unix_frontend_an_unknown_client_has_no_address_in_the_quickstart(
    haproxy: HAProxy, serve: Serve, short_path: Path
) -> None:
    server = serve("")
    path = str(short_path / "frontend")
    haproxy.start(f"127.0.0.1:{server.address.port} send-proxy", bind=f"unix@{path}")

    with connect(path) as client:
        assert_echo(client)

        assert server.seen() == Seen(None, None, {})


def test_behind_a_unix_frontend_a_local_header_leaves_the_quickstart_the_balancers_address(
    haproxy: HAProxy, serve: Serve, short_path: Path
) -> None:
    server = serve("")
    path = str(short_path / "frontend")
    haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2", bind=f"unix@{path}")

    with connect(path) as client:
        assert_echo(client)
        seen = server.seen()

    assert seen.client is not None
    assert seen.client.host == "127.0.0.1"
    assert seen.destination == server.address


@pytest.mark.parametrize("version", VERSIONS)
def test_the_server_sees_the_client_over_a_unix_socket(
    haproxy: HAProxy, serve: Serve, short_path: Path, version: str
) -> None:
    path = str(short_path / "backend")
    server = serve(f"proxyprotocol:unix:{path}")
    port = haproxy.start(f"unix@{path} {version}")

    seen_through(port, server)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_under_health_checks_is_up_and_goes_on_serving(haproxy: HAProxy, server: Server, version: str) -> None:
    port = haproxy.start(f"127.0.0.1:{server.address.port} {version} check inter 50ms check-send-proxy")

    wait_for(lambda: haproxy.statistics().last_check == "L4OK")
    checks = [server.seen() for _ in range(3)]
    seen_through(port, server, among_checks=True)

    # The connections of the checks: with version 2 they say LOCAL, with version 1 they name HAProxy itself.
    assert {check.client.host for check in checks if check.client} == {"127.0.0.1"}
    assert {check.destination for check in checks} == {server.address}
    assert haproxy.statistics() == ("UP", "L4OK", 0, 0)


def test_health_checks_without_a_header_do_no_harm(haproxy: HAProxy, server: Server) -> None:
    # A check with its own port has no header. Without "linger", HAProxy resets it before the server accepts it.
    port = haproxy.start(
        f"127.0.0.1:{server.address.port} send-proxy-v2 check inter 20ms",
        more=f"option tcp-check\n    tcp-check connect port {server.address.port} linger",
    )

    wait_for(lambda: haproxy.statistics().last_check == "L4OK")
    seen_through(port, server)

    assert haproxy.statistics() == ("UP", "L4OK", 0, 0)


def test_a_balancer_that_sends_no_header_is_refused_and_not_seen(haproxy: HAProxy, server: Server) -> None:
    port = haproxy.start(f"127.0.0.1:{server.address.port}")

    with connect(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100) == b""

    # this is the first connection that the server sees
    with connect(server.address) as client:
        client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
        assert server.seen()[:2] == (Address("192.0.2.1", 1), Address("192.0.2.2", 2))


def test_a_balancer_that_is_not_trusted_is_refused(haproxy: HAProxy, serve: Serve) -> None:
    server = serve(STRING + ":ppTrusted=192.0.2.0/24")
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2")

    with connect(("127.0.0.1", port)) as client:
        client.sendall(b"ping")
        assert client.recv(100) == b""


def test_a_trusted_balancer_is_believed(haproxy: HAProxy, serve: Serve) -> None:
    server = serve(STRING + ":ppTrusted=192.0.2.0/24,127.0.0.0/8")
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2")

    seen_through(port, server)
