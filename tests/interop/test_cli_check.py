"""`proxyprotocol check` against the servers of other projects, which expect headers or do not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import run

from ._proxies import HAProxy, Nginx
from ._servers import Server
from ._unpacked import Configure, exim, postfix, running, unbound

STRING = "proxyprotocol:tcp:0:interface=127.0.0.1"


def test_haproxy_with_accept_proxy_wants_a_header(haproxy: HAProxy, serve: Callable[[str], Server]) -> None:
    server = serve("tcp:0:interface=127.0.0.1")
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy", bind="127.0.0.1:{port} accept-proxy")
    ran = run("check", f"127.0.0.1:{port}", "--timeout", "2")
    assert ran.status == 0, ran
    assert "It wants a header, and takes versions 1 and 2." in ran.text
    assert "LOCAL, which health checks send: served too." in ran.text


def test_haproxy_without_it_wants_none(haproxy: HAProxy, serve: Callable[[str], Server]) -> None:
    server = serve(STRING)
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2")
    ran = run("check", f"127.0.0.1:{port}", "--timeout", "2")
    assert ran.status == 1, ran
    assert "It wants no header" in ran.text


@pytest.mark.parametrize(("listen", "status"), [("{} reuseport proxy_protocol", 0), ("{} reuseport", 1)])
def test_nginx_wants_a_header_if_its_listener_says_so(
    nginx: Nginx, serve: Callable[[str], Server], listen: str, status: int
) -> None:
    server = serve(STRING)
    port = nginx.start(f"127.0.0.1:{server.address.port}", listen=listen.format("127.0.0.1:{port}"))
    ran = run("check", f"127.0.0.1:{port}", "--timeout", "2")
    assert ran.status == status, ran
    assert ("takes versions 1 and 2" if status == 0 else "It wants no header") in ran.text


QUERY = r"\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x00\x00\x01\x00\x01"


EXIM = "It wants a header, and takes versions 1 and 2. Without one it answered '554 SMTP synchronization error'"
POSTFIX = "It wants a header, and takes versions 1 and 2. Without one it answered '421 4.3.0 mail.example Server local"


MAIL_SERVERS = {
    "Exim": (exim, True, EXIM),
    "Exim without": (exim, False, "It wants no header"),
    "Postfix": (postfix, True, POSTFIX),
    "Postfix without": (postfix, False, "It wants no header"),
}
if os.geteuid() != 0:  # only root can start Postfix; a skipped test would be a failure in CI
    MAIL_SERVERS = {name: server for name, server in MAIL_SERVERS.items() if server[0] is not postfix}


@pytest.mark.parametrize(("configure", "proxied", "said"), MAIL_SERVERS.values(), ids=MAIL_SERVERS)
def test_a_mail_server_that_refuses_in_words_is_recognised(
    short_path: Path, configure: Configure, proxied: bool, said: str
) -> None:
    """The command said that these servers want no header."""
    with running(configure, short_path, proxied) as server:
        ran = run("check", server, "--timeout", "2")
    assert ran.status == (0 if proxied else 1), ran
    assert said in ran.text


def test_unbound_takes_version_2_alone(short_path: Path) -> None:
    with running(unbound, short_path, True) as server:
        ran = run("check", server, "--timeout", "2", "--send", QUERY)
    assert ran.status == 0, ran
    assert "It wants a header, and takes version 2 only." in ran.text
