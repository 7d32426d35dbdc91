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
