"""`proxyprotocol check` against HAProxy and nginx, with headers expected and without."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cli.commands import run

from ._proxies import HAProxy, Nginx
from ._servers import Server

STRING = "proxyprotocol:tcp:0:interface=127.0.0.1"


def test_haproxy_with_accept_proxy_wants_a_header(haproxy: HAProxy, serve: Callable[[str], Server]) -> None:
    server = serve("tcp:0:interface=127.0.0.1")
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy", bind="127.0.0.1:{port} accept-proxy")
    ran = run("check", f"127.0.0.1:{port}")
    assert ran.status == 0, ran
    assert "It wants a header, and takes versions 1 and 2." in ran.text
    assert "LOCAL, which health checks send: served too." in ran.text


def test_haproxy_without_it_wants_none(haproxy: HAProxy, serve: Callable[[str], Server]) -> None:
    server = serve(STRING)
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2")
    ran = run("check", f"127.0.0.1:{port}")
    assert ran.status == 1, ran
    assert "It wants no header" in ran.text


@pytest.mark.parametrize(("listen", "status"), [("{} reuseport proxy_protocol", 0), ("{} reuseport", 1)])
def test_nginx_is_told_by_its_listener(nginx: Nginx, serve: Callable[[str], Server], listen: str, status: int) -> None:
    server = serve(STRING)
    port = nginx.start(f"127.0.0.1:{server.address.port}", listen=listen.format("127.0.0.1:{port}"))
    ran = run("check", f"127.0.0.1:{port}")
    assert ran.status == status, ran
    assert ("takes versions 1 and 2" if status == 0 else "It wants no header") in ran.text
