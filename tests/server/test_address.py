"""The addresses of the commands: the syntax of proxy-protocol and its extensions."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from proxyprotocol import ProxyProtocolDetect, ProxyProtocolNoop, ProxyProtocolV1, ProxyProtocolV2
from proxyprotocol.server import Address, parse_service
from proxyprotocol.server._relay.options import parse_listener, parse_source
from proxyprotocol.server.relay import Service
from tests.interop._certificates import Certificates

# recorded from proxy-protocol: host, port and text
FROM_PROXY_PROTOCOL = {
    "": ("", None, ""),
    "host": ("host", None, "//host"),
    "host:80": ("host", 80, "//host:80"),
    ":80": ("", 80, "//:80"),
    "HOST:80": ("HOST", 80, "//HOST:80"),
    "1.2.3.4:80": ("1.2.3.4", 80, "//1.2.3.4:80"),
    "[::1]:80": ("::1", 80, "//[::1]:80"),
    "[::1]": ("::1", None, "//[::1]"),
    "host:80?pp=v1": ("host", 80, "//host:80?pp=v1"),
    "ssl://host:443": ("host", 443, "ssl://host:443"),
    "host:80/path": ("host", 80, "//host:80/path"),
    "u:p@host:80": ("host", 80, "//u:p@host:80"),
}


@pytest.mark.parametrize(("text", "parts"), FROM_PROXY_PROTOCOL.items())
def test_the_syntax_of_proxy_protocol(text: str, parts: tuple[Any, ...]) -> None:
    address = Address(text)
    assert (address.host, address.port, str(address)) == parts
    assert address.path is None


def test_the_codecs_of_proxy_protocol() -> None:
    kinds = {
        "h": ProxyProtocolDetect,
        "h?pp=detect": ProxyProtocolDetect,
        "h?pp=V2": ProxyProtocolV2,
        "h?pp=v1": ProxyProtocolV1,
        "h?pp=noop": ProxyProtocolNoop,
        "h?accept=v1": ProxyProtocolV1,
        "h?accept=noop": ProxyProtocolNoop,
    }
    assert {text: type(Address(text).pp) for text in kinds} == kinds
    assert type(Address("h?pp=v1&pp=v2").pp) is ProxyProtocolV2


@pytest.mark.parametrize("text", ["host:abc", "host:99999", "::1", "ssl:host:80"])
def test_a_wrong_port_raises_when_it_is_used(text: str) -> None:
    with pytest.raises(ValueError, match="the port is not a number from 0 to 65535"):
        _ = Address(text).port


def test_unix_sockets() -> None:
    address = Address("unix:/run/app.sock?pp=v1")
    assert (address.path, address.host, address.port) == ("/run/app.sock", "", None)
    assert str(address) == "unix:/run/app.sock"
    assert address.name == "UNIX socket '/run/app.sock'"
    assert Address("unix:@name").path == "\0name"
    assert str(Address("unix:@name")) == "unix:@name"


def test_names_for_people() -> None:
    assert Address(":80?pp=v1").name == "*:80"
    assert Address("ssl://[::1]:80").name == "[::1]:80"


def test_tls_is_configured_as_in_proxy_protocol(certificates: Certificates) -> None:
    assert Address("host:80").ssl is None
    client = Address(f"ssl://h:1?cafile={certificates.authority}").ssl
    assert client is not None
    assert (client.verify_mode, client.check_hostname) == (ssl.CERT_REQUIRED, True)
    server = Address(f"ssl://h:1?cert={certificates.server}&key={certificates.server}", server=True).ssl
    assert server is not None
    assert server.verify_mode == ssl.CERT_NONE
    verifying = f"ssl://h:1?cert={certificates.server}&verify=CERT_OPTIONAL&cafile={certificates.authority}"
    context = Address(verifying, server=True).ssl
    assert context is not None
    assert context.verify_mode == ssl.CERT_OPTIONAL


def test_a_client_may_trust_anybody_and_show_a_certificate(certificates: Certificates) -> None:
    context = Address(f"ssl://h:1?verify=CERT_NONE&cert={certificates.client}").ssl
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_wrong_options_of_tls_are_sentences(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="verify= takes cert_none, cert_optional or cert_required, not 'no'"):
        _ = Address("ssl://h:1?verify=no").ssl
    with pytest.raises(ValueError, match=r"The certificates of authorities in cafile=/dev/null cannot be used: "):
        _ = Address("ssl://h:1?cafile=/dev/null").ssl
    with pytest.raises(ValueError, match=r"server\.pem with the key .*client\.pem cannot be used"):
        _ = Address(f"ssl://h:1?cert={certificates.server}&key={certificates.client}").ssl


def test_each_access_reads_the_certificate_files_again(certificates: Certificates) -> None:
    address = Address(f"ssl://h:1?cert={certificates.server}", server=True)
    assert address.ssl is not address.ssl


def test_a_service_is_two_addresses() -> None:
    service = parse_service(":0", "localhost:80")
    assert isinstance(service, Service)
    assert service.destination.address.host == "localhost"


def test_a_source_accepts_pp_noop_as_proxy_protocol_does() -> None:
    for option in ("pp", "accept"):
        assert parse_source(f":0?{option}=noop").receiver.connection(None, None).begun


@pytest.mark.parametrize("option", ["accept", "pp"])
def test_accept_and_pp_mean_the_same_on_either_side(option: str) -> None:
    service = parse_service(f":0?{option}=v1", f"localhost:80?{option}=v1")
    assert isinstance(service.source.receiver.codec, ProxyProtocolV1)
    assert isinstance(service.destination.outgoing.codec, ProxyProtocolV1)
    assert isinstance(parse_listener(f":0?{option}=v1").receiver.codec, ProxyProtocolV1)
    receiver = parse_source(f":0?{option}=detect&trusted=127.0.0.1").receiver
    assert receiver.spell("version") == option


def test_the_name_in_metrics_has_no_options() -> None:
    for given in (":80", "ssl://[::1]:443", "unix:/run/app.sock"):
        assert Address(f"{given}?cert=/etc/key.pem").given == given


def test_only_a_source_with_tls_has_a_handshake_time_out(certificates: Certificates) -> None:
    assert parse_source(f"ssl://:0?cert={certificates.server}&tls_timeout=2").tls_timeout == 2
    assert parse_listener(f"ssl://:0?cert={certificates.server}").tls_timeout == 10


def test_pp_noop_makes_a_listener_expect_no_header() -> None:
    assert parse_listener(":0?pp=noop").receiver.connection(None, None).begun
    assert not parse_listener(":0").receiver.connection(None, None).begun
    assert parse_listener(":0?backlog=7&reuse_port=yes").backlog == 7
    with pytest.raises(ValueError, match="trusted= is an option for headers, but pp=noop expects none"):
        parse_listener(":0?pp=noop&trusted=unix")
