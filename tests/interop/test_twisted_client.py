"""The Twisted client in front of a real HAProxy, which reads its header and passes it on to our server."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
    quoteStringArgument,
)
from twisted.internet.interfaces import IStreamClientEndpoint

from proxyprotocol import ProxyProtocolV1, ProxyProtocolV2, ProxyResult, ProxyResultIPv4, ProxyResultIPv6
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.twisted import ProxyProtocolClientEndpoint
from tests.on_twisted import conftest
from tests.on_twisted.reactors import AppFactory, run, until

from ._certificates import SERVER_NAME, Certificates
from ._programs import Address
from ._proxies import HAProxy
from ._servers import Seen, Server

reactor, log = conftest.reactor, conftest.log
pytestmark = pytest.mark.usefixtures("log")

STRING = "proxyprotocol:tcp:0:interface=127.0.0.1"
VERSIONS = pytest.mark.parametrize("pp", [ProxyProtocolV1(), ProxyProtocolV2()], ids=["v1", "v2"])
RESULTS: dict[str, ProxyResult] = {
    "IPv4": ProxyResultIPv4((IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 443)),
    "IPv6": ProxyResultIPv6((IPv6Address("2001:db8::1"), 5678), (IPv6Address("2001:db8::2"), 443)),
    "TLVs": ProxyResultIPv4(
        (IPv4Address("203.0.113.7"), 5678),
        (IPv4Address("198.51.100.9"), 443),
        tlv=ProxyProtocolTLV(authority="app.example", unique_id=b"1"),
    ),
}

Serve = Callable[[str], Server]


def seen_by(server: Server, reactor: Any, endpoint: IStreamClientEndpoint) -> tuple[Seen, Any]:
    """Connect, try the echo, and return what the server and the application saw."""
    client = AppFactory(begin=lambda app: app.transport.write(b"ping"))

    async def scenario() -> None:
        app: Any = await endpoint.connect(client)
        await until(reactor, lambda: app.received or app.lost)
        assert app.received == b"ping"

    run(reactor, scenario())
    return server.seen(), client.app


@VERSIONS
@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_haproxy_believes_what_the_header_says(
    haproxy: HAProxy, serve: Serve, reactor: Any, pp: Any, result: Any
) -> None:
    server = serve(STRING)
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2", bind="127.0.0.1:{port} accept-proxy")
    plain = TCP4ClientEndpoint(reactor, "127.0.0.1", port)

    seen, _ = seen_by(server, reactor, ProxyProtocolClientEndpoint(plain, result, pp=pp))

    assert (seen.client, seen.destination) == (Address.of(result.peername), Address.of(result.sockname))


@VERSIONS
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_haproxy_takes_a_client_that_speaks_for_itself_as_it_is(
    haproxy: HAProxy, serve: Serve, reactor: Any, pp: Any, host: str
) -> None:
    server = serve(STRING)
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2", bind=f"{host}:{{port}} accept-proxy")
    kind: Any = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint

    seen, app = seen_by(server, reactor, ProxyProtocolClientEndpoint(kind(reactor, host, port), pp=pp))

    assert seen.client == Address(host, app.host.port)
    assert seen.destination == Address(host, port)


@VERSIONS
def test_haproxy_takes_a_client_that_has_no_address(
    haproxy: HAProxy, serve: Serve, reactor: Any, short_path: Path, pp: Any
) -> None:
    server = serve(STRING)
    path = str(short_path / "frontend")
    haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2", bind=f"unix@{path} accept-proxy")
    plain = UNIXClientEndpoint(reactor, path)

    seen, _ = seen_by(server, reactor, ProxyProtocolClientEndpoint(plain, pp=pp))

    assert seen.header["type"] in ("LOCAL", "UNKNOWN")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_string_sends_the_header_and_then_does_tls(
    haproxy: HAProxy, serve: Serve, reactor: Any, certificates: Certificates, tmp_path: Path, version: str
) -> None:
    pytest.importorskip("OpenSSL")
    server = serve(STRING)
    port = haproxy.start(
        f"127.0.0.1:{server.address.port} send-proxy-v2 proxy-v2-options ssl,authority",
        bind=f"127.0.0.1:{{port}} accept-proxy ssl crt {certificates.server}",
    )
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "authority.pem").write_bytes(certificates.authority.read_bytes())
    roots = quoteStringArgument(str(tmp_path / "roots"))
    named = rf"ppSource=203.0.113.7\:5678:ppDest=198.51.100.9\:443:ppVersion={version}"
    tls = rf"tls:{SERVER_NAME}:{port}:endpoint=tcp\:127.0.0.1\:{port}:trustRoots={roots}"

    seen, _ = seen_by(server, reactor, clientFromString(reactor, f"proxyprotocol:{tls}:{named}"))

    assert (seen.client, seen.destination) == (Address("203.0.113.7", 5678), Address("198.51.100.9", 443))
    assert (seen.header["has_ssl"], seen.header["authority"]) == (True, SERVER_NAME)
