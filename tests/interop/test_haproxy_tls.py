"""TLS with a real HAProxy. It ends in HAProxy, and the header describes it, or in the server, after the header."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import NamedTuple

import pytest

from ._certificates import CLIENT_NAME, SERVER_NAME, Certificates
from ._programs import Address, assert_echo, connect
from ._proxies import HAProxy
from ._servers import Seen, Server

STRING = "proxyprotocol:tcp:0:interface=127.0.0.1"
ALL_OPTIONS = "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id"
UNIQUE_ID = "unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp"

Serve = Callable[[str], Server]


class Negotiated(NamedTuple):
    """The TLS connection, as the client describes it."""

    version: str | None
    cipher: str | None


def seen_over_tls(port: int, server: Server, context: ssl.SSLContext) -> tuple[Seen, Negotiated]:
    """Connect over TLS, try the echo, and return what the server saw, and the TLS that the client negotiated."""
    with context.wrap_socket(connect(("127.0.0.1", port)), server_hostname=SERVER_NAME) as client:
        assert_echo(client)
        seen = server.seen()
        assert seen.client == Address.of(client.getsockname())
        assert seen.destination == Address("127.0.0.1", port)
        cipher = client.cipher()
        return seen, Negotiated(client.version(), cipher and cipher[0])


def start_tls_frontend(haproxy: HAProxy, server: Server, certificates: Certificates) -> int:
    """Start HAProxy with a TLS frontend that asks for a client certificate, and sends every TLV that it can."""
    return haproxy.start(
        f"127.0.0.1:{server.address.port} send-proxy-v2 proxy-v2-options {ALL_OPTIONS}",
        bind=f"127.0.0.1:{{port}} ssl crt {certificates.server} ca-file {certificates.authority} verify optional",
        more=UNIQUE_ID,
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
def test_the_header_describes_the_clients_tls_and_certificate(
    haproxy: HAProxy, serve: Serve, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    server = serve(STRING)
    port = start_tls_frontend(haproxy, server, certificates)
    context = certificates.client_context(certified=True)
    context.maximum_version = version

    seen, tls = seen_over_tls(port, server, context)

    assert seen.client is not None
    header = dict(seen.header)
    assert isinstance(header.pop("crc32c"), int)
    assert header == {
        "type": "IPv4",
        "types": [0x03, 0x02, 0x05, 0x20],
        "authority": SERVER_NAME,
        "unique_id": f"7F000001:{seen.client.port:04X}_7F000001:{port:04X}",
        "has_ssl": True,
        "has_cert": True,
        "client_verified": True,
        "version": tls.version,
        "cn": CLIENT_NAME,
        "cipher": tls.cipher,
        "sig_alg": "RSA-SHA256",
        "key_alg": "RSA2048",
    }


def test_a_client_without_a_certificate_has_no_name(haproxy: HAProxy, serve: Serve, certificates: Certificates) -> None:
    server = serve(STRING)
    port = start_tls_frontend(haproxy, server, certificates)

    seen, tls = seen_over_tls(port, server, certificates.client_context())

    header = seen.header
    assert (header["has_ssl"], header["version"], header["cipher"]) == (True, *tls)
    assert (header["has_cert"], header["client_verified"], header["cn"]) == (False, False, None)


def test_a_client_without_tls_is_recognised(haproxy: HAProxy, serve: Serve) -> None:
    server = serve(STRING)
    port = haproxy.start(f"127.0.0.1:{server.address.port} send-proxy-v2 proxy-v2-options {ALL_OPTIONS}")

    with connect(("127.0.0.1", port)) as client:
        assert_echo(client)
        seen = server.seen()
        assert seen.client == Address.of(client.getsockname())

    assert (seen.header["has_ssl"], seen.header["version"], seen.header["client_verified"]) == (False, None, False)


def test_the_server_sees_the_client_behind_a_tls_frontend(
    haproxy: HAProxy, server: Server, certificates: Certificates
) -> None:
    port = start_tls_frontend(haproxy, server, certificates)

    seen_over_tls(port, server, certificates.client_context())


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_tls_that_ends_in_the_server_begins_after_the_header(
    haproxy: HAProxy, serve: Serve, certificates: Certificates, version: str
) -> None:
    pytest.importorskip("OpenSSL")
    server = serve(
        f"proxyprotocol:ssl:0:privateKey={certificates.server}:certKey={certificates.server}:interface=127.0.0.1"
    )
    port = haproxy.start(f"127.0.0.1:{server.address.port} {version}")

    # The context trusts only the authority of the tests, so the certificate is the one of the server.
    seen, tls = seen_over_tls(port, server, certificates.client_context())

    assert seen.header["type"] == "IPv4"
    assert seen.header["has_ssl"] is False  # HAProxy saw a plain connection
    assert tls.version is not None
