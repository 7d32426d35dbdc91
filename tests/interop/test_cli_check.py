"""`proxyprotocol check` against servers that nobody here wrote, with headers expected and without."""

from __future__ import annotations

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


QUERY = r"\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x00\x00\x01\x00\x01"


EXIM = "It wants a header, and takes versions 1 and 2. Without one it answered '554 SMTP synchronization error'"
POSTFIX = "It wants a header, and takes versions 1 and 2. Without one it answered '421 4.3.0 mail.example Server local"


@pytest.mark.parametrize(
    ("configure", "proxied", "said"),
    [
        (exim, True, EXIM),
        (exim, False, "It wants no header"),
        (postfix, True, POSTFIX),
        (postfix, False, "It wants no header"),
    ],
    ids=["Exim", "Exim without", "Postfix", "Postfix without"],
)
def test_a_mail_server_that_refuses_in_words_is_told(
    short_path: Path, configure: Configure, proxied: bool, said: str
) -> None:
    """Of those that want a header it was said that they want none."""
    with running(configure, short_path, proxied) as server:
        ran = run("check", server, "--timeout", "2")
    assert ran.status == (0 if proxied else 1), ran
    assert said in ran.text


def test_unbound_takes_version_2_alone(short_path: Path) -> None:
    with running(unbound, short_path, True) as server:
        ran = run("check", server, "--timeout", "2", "--send", QUERY)
    assert ran.status == 0, ran
    assert "It wants a header, and takes version 2 only." in ran.text
