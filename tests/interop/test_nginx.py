"""A real nginx in front of our servers: its stream module writes version 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ._programs import Address, assert_echo, connect
from ._proxies import Nginx
from ._servers import Seen, Server


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_server_sees_the_client(nginx: Nginx, server: Server, host: str) -> None:
    listen = {"127.0.0.1": "127.0.0.1:{port} reuseport", "::1": "[::1]:{port} reuseport"}[host]
    port = nginx.start(f"127.0.0.1:{server.address.port}", listen=listen)

    with connect((host, port)) as client:
        assert_echo(client, b"x" * 100_000)
        assert server.seen()[:2] == (Address.of(client.getsockname()), Address(host, port))


def test_behind_a_unix_listener_twisted_gives_the_balancers_address(
    nginx: Nginx, serve: Callable[[str], Server], short_path: Path
) -> None:
    server = serve("proxyprotocol:tcp:0:interface=127.0.0.1")
    path = str(short_path / "listener")
    nginx.start(f"127.0.0.1:{server.address.port}", listen=f"unix:{path}")

    with connect(path) as client:
        assert_echo(client)
        seen = server.seen()

    assert seen.header["type"] == "UNKNOWN"
    assert seen.client is not None
    assert seen.client.host == "127.0.0.1"
    assert seen.destination == server.address


def test_behind_a_unix_listener_the_client_has_no_address_in_the_quickstart(
    nginx: Nginx, serve: Callable[[str], Server], short_path: Path
) -> None:
    server = serve("")
    path = str(short_path / "listener")
    nginx.start(f"127.0.0.1:{server.address.port}", listen=f"unix:{path}")

    with connect(path) as client:
        assert_echo(client)

        assert server.seen() == Seen(None, None, {})


REAL_IP = "127.0.0.1:{port} reuseport proxy_protocol; set_real_ip_from 127.0.0.1"
FROM_THE_BALANCER = b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 443\r\n"


@pytest.mark.parametrize("version", ["", ":ppVersion=v1"])
def test_a_mixed_line_is_read_on_request(nginx: Nginx, serve: Callable[[str], Server], version: str) -> None:
    server = serve(f"proxyprotocol:tcp:0:interface=127.0.0.1:ppIPv4InTCP6=yes{version}")
    port = nginx.start(f"127.0.0.1:{server.address.port}", listen=REAL_IP)

    with connect(("127.0.0.1", port)) as client:
        client.sendall(FROM_THE_BALANCER)
        assert_echo(client)
        seen = server.seen()

    assert seen[:2] == (Address("2001:db8::1", 1234), Address("::ffff:127.0.0.1", port))


def test_a_mixed_line_is_refused_unless_asked_for(nginx: Nginx, serve: Callable[[str], Server]) -> None:
    server = serve("proxyprotocol:tcp:0:interface=127.0.0.1")
    port = nginx.start(f"127.0.0.1:{server.address.port}", listen=REAL_IP)

    with connect(("127.0.0.1", port)) as client:
        client.sendall(FROM_THE_BALANCER)
        assert client.recv(1) == b""
