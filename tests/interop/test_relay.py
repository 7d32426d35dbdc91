"""The relay between real proxies: it accepts their headers, and they accept its headers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.server.relays import PATIENCE, Relaying, receive_all

from ._certificates import SERVER_NAME, Certificates
from ._programs import connect
from ._proxies import HAProxy, Nginx


@pytest.fixture
def relaying() -> Iterator[Relaying]:
    """Starts relays, and the servers that they connect to."""
    with contextlib.ExitStack() as stack:
        yield Relaying(stack)


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_haproxy_in_front(relaying: Relaying, haproxy: HAProxy, options: str) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, "127.0.0.1:0?accept=detect&trusted=127.0.0.0/8")
    unique_id = "unique-id-format %[rand,hex]" if "unique-id" in options else ""
    port = haproxy.start(f"127.0.0.1:{running.address[1]} {options}", more=unique_id)
    with connect(("127.0.0.1", port)) as client:
        client.sendall(b"hello")
        accepted = backend.accept()
        assert accepted.result is not None
        assert accepted.result.peername == client.getsockname()
        assert accepted.result.sockname == client.getpeername()
        assert (accepted.result.tlv.crc32c is not None) == ("crc32c" in options)
        accepted.sock.sendall(b"world")
        accepted.sock.close()
        assert receive_all(client) == b"world"


@pytest.mark.parametrize("options", ["", "?pp=v1", "?pp=v2&tlv=none"])
def test_haproxy_behind(relaying: Relaying, haproxy: HAProxy, options: str) -> None:
    backend = relaying.backend()
    port = haproxy.start(f"{backend.address} send-proxy-v2", bind="127.0.0.1:{port} accept-proxy")
    running = relaying.relay(f"127.0.0.1:{port}{options}")
    client = relaying.keep(running.connect())
    client.sendall(b"hello")
    client.shutdown(socket.SHUT_WR)
    accepted = backend.accept()

    # HAProxy names the client, so it has read the header of the relay
    assert accepted.result is not None
    assert accepted.result.peername == client.getsockname()
    assert accepted.first + receive_all(accepted.sock) == b"hello"


def test_haproxy_behind_understands_the_tlvs(relaying: Relaying, haproxy: HAProxy, certificates: Certificates) -> None:
    backend = relaying.backend()
    port = haproxy.start(
        f"{backend.address} send-proxy-v2 proxy-v2-options unique-id",
        bind="127.0.0.1:{port} accept-proxy",
        # HAProxy repeats the TLVs of the relay in an ID of its own
        more="unique-id-format %[fc_pp_authority]:%[fc_pp_unique_id,length]",
    )
    source = f"ssl://127.0.0.1:0?cert={certificates.server}&verify=CERT_REQUIRED&cafile={certificates.authority}"
    running = relaying.relay(f"127.0.0.1:{port}?tlv=ssl,client-cert,authority,unique-id", source)
    client = relaying.keep(running.connect_tls(certificates.client_context(certified=True), SERVER_NAME))
    client.sendall(b"hello")

    accepted = backend.accept()
    assert accepted.result is not None
    assert accepted.result.peername == client.getsockname()
    assert accepted.result.tlv.unique_id == b"%s:16" % SERVER_NAME.encode()


def test_nginx_in_front(relaying: Relaying, nginx: Nginx) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, "127.0.0.1:0?accept=v1")
    port = nginx.start(f"127.0.0.1:{running.address[1]}")
    with connect(("127.0.0.1", port)) as client:
        client.sendall(b"hello")
        result = backend.accept().result
        assert result is not None
        assert result.peername == client.getsockname()


def test_nginx_behind(relaying: Relaying, nginx: Nginx) -> None:
    backend = relaying.backend()
    port = nginx.start(backend.address, listen="127.0.0.1:{port} reuseport proxy_protocol")
    running = relaying.relay(f"127.0.0.1:{port}")
    client = relaying.keep(running.connect())
    client.settimeout(PATIENCE)
    client.sendall(b"hello")
    accepted = backend.accept()
    # By default nginx trusts no proxy, so it names the relay. The header must not be among the bytes.
    received = accepted.first
    while len(received) < 5:
        received += accepted.sock.recv(100)
    assert received == b"hello"
