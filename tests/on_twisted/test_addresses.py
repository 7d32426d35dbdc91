"""The client's address in connectionMade, for every kind of header and every policy."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from proxyprotocol import (
    HeaderPolicy,
    ProxyProtocolV2,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultUnix,
    TrustedProxies,
)
from proxyprotocol.result import describe_address
from proxyprotocol.twisted import IProxiedTransport, proxy_result
from proxyprotocol.twisted.transport import from_sockaddr, to_sockaddr
from proxyprotocol.typing import SockAddr
from tests.on_twisted.reactors import (
    CLIENT,
    DESTINATION,
    HEADER,
    HERE,
    PROXY,
    AppFactory,
    MemoryTransport,
    accept,
    connect,
    listen,
    run,
    until,
    wrap,
)
from tests.vectors import IPV4_BLOCK, IPV6_BLOCK, LOCAL, MAPPED_BLOCK, SIGNATURE, paths, v2
from tests.vectors import PROXY as PROXY_COMMAND

CLIENT_6 = IPv6Address("TCP", "2001:db8::1", 1000)
DESTINATION_6 = IPv6Address("TCP", "2001:db8:ffff::2", 2000)

# a header, the client, and the address that it connected to
NAMED = {
    "v1 TCP4": (HEADER, CLIENT, DESTINATION),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::1 2001:db8:ffff::2 1000 2000\r\n", CLIENT_6, DESTINATION_6),
    "TCP4": (v2(PROXY_COMMAND, 0x11, IPV4_BLOCK), CLIENT, DESTINATION),
    "UDP4 is TCP here": (v2(PROXY_COMMAND, 0x12, IPV4_BLOCK), CLIENT, DESTINATION),
    "TCP6": (v2(PROXY_COMMAND, 0x21, IPV6_BLOCK), CLIENT_6, DESTINATION_6),
    "UDP6 is TCP here": (v2(PROXY_COMMAND, 0x22, IPV6_BLOCK), CLIENT_6, DESTINATION_6),
    "TCP6, mapped": (
        v2(PROXY_COMMAND, 0x21, MAPPED_BLOCK),
        IPv6Address("TCP", "::ffff:192.0.2.1", 1000),
        IPv6Address("TCP", "::ffff:198.51.100.2", 2000),
    ),
    "UNIX": (
        v2(PROXY_COMMAND, 0x31, paths(b"/run/a.sock", b"/run/b.sock")),
        UNIXAddress("/run/a.sock"),
        UNIXAddress("/run/b.sock"),
    ),
    "UNIX, abstract": (
        v2(PROXY_COMMAND, 0x31, paths(b"\0client", b"\0a\0b")),
        UNIXAddress(b"\0client"),
        UNIXAddress(b"\0a\0b"),
    ),
    "UNIX, unnamed": (v2(PROXY_COMMAND, 0x31, bytes(216)), UNIXAddress(None), UNIXAddress(None)),
    "UNIX, no UTF-8": (
        v2(PROXY_COMMAND, 0x31, paths(b"/\xff", b"/\xfe")),
        UNIXAddress(b"/\xff"),
        UNIXAddress(b"/\xfe"),
    ),
}
UNNAMED = {
    "v1 UNKNOWN": b"PROXY UNKNOWN\r\n",
    "v1 UNKNOWN with addresses": b"PROXY UNKNOWN 192.0.2.1 198.51.100.2 1000 2000\r\n",
    "UNSPEC": v2(PROXY_COMMAND, 0x00),
    "UNSPEC stream with addresses": v2(PROXY_COMMAND, 0x01, IPV4_BLOCK),
    "LOCAL": v2(LOCAL, 0x00),
    "LOCAL with addresses": v2(LOCAL, 0x11, IPV4_BLOCK),
}


@pytest.mark.parametrize(("header", "client", "destination"), NAMED.values(), ids=NAMED)
def test_connectionMade_sees_the_client_of_the_header(header: bytes, client: IAddress, destination: IAddress) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory))
    transport.receive(header)

    assert factory.built == [client]
    assert (factory.app.peer, factory.app.host) == (client, destination)
    assert (transport.getPeer(), transport.getHost()) == (client, destination)


@pytest.mark.parametrize(("header", "client", "destination"), NAMED.values(), ids=NAMED)
def test_the_log_prefix_names_any_client(header: bytes, client: Any, destination: IAddress) -> None:
    """One path is not UTF-8, which older Twisted cannot format."""
    transport = accept(wrap(AppFactory()))
    transport.receive(header)

    name = client.host if hasattr(client, "host") else describe_address(os.fsdecode(client.name or b""))
    assert transport.logstr == f"App,7,{name}"
    assert transport.logstr.isascii()


@pytest.mark.parametrize("header", UNNAMED.values(), ids=UNNAMED)
def test_a_header_without_a_client_leaves_the_real_addresses(header: bytes) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory))
    transport.receive(header)

    assert factory.built == [PROXY]
    assert (factory.app.peer, factory.app.host) == (PROXY, HERE)
    assert proxy_result(transport) is not None


def test_ignore_reads_the_header_and_keeps_the_real_addresses() -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, policy=HeaderPolicy.IGNORE))
    transport.receive(HEADER + b"data")

    assert factory.built == [PROXY]
    assert (factory.app.peer, factory.app.host, factory.app.received) == (PROXY, HERE, b"data")
    result = proxy_result(transport)
    assert result is not None
    assert result.peername == ("192.0.2.1", 1000)


def test_skip_starts_the_application_at_once_and_passes_a_header_on_as_data() -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, policy=HeaderPolicy.SKIP))

    assert factory.built == [PROXY]
    assert (factory.app.peer, factory.app.host) == (PROXY, HERE)
    transport.receive(HEADER)
    assert factory.app.received == HEADER
    assert proxy_result(transport) is None


def test_optional_reads_a_header_if_one_comes() -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, policy=HeaderPolicy.OPTIONAL))
    transport.receive(HEADER[:5])
    assert factory.built == []
    transport.receive(HEADER[5:] + b"data")

    assert (factory.app.peer, factory.app.host, factory.app.received) == (CLIENT, DESTINATION, b"data")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"PROXIMA", SIGNATURE[:11] + b"!", b"\x16\x03\x01"])
def test_optional_passes_on_every_byte_that_cannot_start_a_header(data: bytes) -> None:
    for at in range(len(data)):
        factory = AppFactory()
        transport = accept(wrap(factory, policy=HeaderPolicy.OPTIONAL))
        transport.receive(*filter(None, (data[:at], data[at:])))

        assert factory.built == [PROXY]
        assert (factory.app.peer, factory.app.host, factory.app.received) == (PROXY, HERE, data)
        assert proxy_result(transport) is None


def test_the_policy_function_gets_addresses_in_the_form_of_the_socket_module() -> None:
    asked = []

    def policy(peer: SockAddr, local: SockAddr) -> HeaderPolicy:
        asked.append((peer, local))
        return HeaderPolicy.SKIP

    for peer, host in (
        (PROXY, HERE),
        (IPv6Address("TCP", "fe80::1%eth0", 1, 2, 3), IPv6Address("TCP", "fe80::2%eth0", 4)),
        (UNIXAddress(None), UNIXAddress("/run/app.sock")),
        (HostnameAddress(b"example.com", 80), HERE),
    ):
        accept(wrap(AppFactory(), policy=policy), MemoryTransport(peer, host))

    assert asked == [
        (("10.1.2.3", 50000), ("10.9.8.7", 8080)),
        (("fe80::1%eth0", 1, 2, 3), ("fe80::2%eth0", 4, 0, 0)),
        ("", "/run/app.sock"),
        (None, ("10.9.8.7", 8080)),
    ]


@pytest.mark.parametrize("network", ["10.1.2.0/24", "10.1.2.3", "0.0.0.0/0"])
def test_a_trusted_proxy_names_the_client(network: str) -> None:
    factory = AppFactory()
    accept(wrap(factory, policy=TrustedProxies([network]))).receive(HEADER)

    assert factory.app.peer == CLIENT


def test_an_untrusted_peer_is_served_as_a_plain_connection_on_request() -> None:
    factory = AppFactory()
    policy = TrustedProxies(["10.1.2.4"], otherwise=HeaderPolicy.SKIP)
    accept(wrap(factory, policy=policy)).receive(HEADER)

    assert (factory.app.peer, factory.app.received) == (PROXY, HEADER)


ADDRESSES = (
    (IPv4Address("TCP", "192.0.2.1", 80), ("192.0.2.1", 80)),
    (IPv6Address("TCP", "2001:db8::1", 80, 5, 6), ("2001:db8::1", 80, 5, 6)),
    (UNIXAddress("/run/app.sock"), "/run/app.sock"),
    (UNIXAddress(b"/\xff"), "/\udcff"),
    (UNIXAddress(b"\0abstract"), "\0abstract"),
    (UNIXAddress(None), ""),
)


def fields(address: IAddress) -> tuple[Any, ...]:
    """Return all fields, because the file system decides whether two UNIX addresses are equal."""
    return type(address), vars(address)


@pytest.mark.parametrize(("address", "sockaddr"), ADDRESSES, ids=lambda value: type(value).__name__)
def test_an_address_converts_to_the_socket_modules_form_and_back(address: IAddress, sockaddr: SockAddr) -> None:
    assert to_sockaddr(address) == sockaddr
    assert fields(from_sockaddr(sockaddr)) == fields(address)


def test_an_address_that_is_not_a_sockets_converts_to_none() -> None:
    assert to_sockaddr(HostnameAddress(b"example.com", 80)) is None


@pytest.mark.parametrize("kind", ["path", "abstract"])
@pytest.mark.parametrize(("network", "served"), [("unix", True), ("0.0.0.0/0", False)])
def test_a_peer_on_a_unix_socket_is_trusted_as_unix(
    reactor: Any, short_path: Path, kind: str, network: str, served: bool
) -> None:
    name = str(short_path / "s") if kind == "path" else f"\0proxyprotocol-test-{os.getpid()}"
    factory = AppFactory()

    async def scenario() -> None:
        port = reactor.listenUNIX(name, wrap(factory, clock=reactor, policy=TrustedProxies([network])))
        client = await connect(reactor, port)
        client.transport.write(HEADER + b"data")
        await until(reactor, lambda: factory.apps or client.lost)

    run(reactor, scenario())
    assert len(factory.apps) == served
    if served:
        assert (factory.app.peer, factory.app.host, factory.app.received) == (CLIENT, DESTINATION, b"data")


def test_a_unix_socket_keeps_its_addresses_after_a_header_without_a_client(reactor: Any, short_path: Path) -> None:
    name = str(short_path / "s")
    factory = AppFactory()

    async def scenario() -> None:
        client = await connect(reactor, reactor.listenUNIX(name, wrap(factory, clock=reactor)))
        client.transport.write(v2(LOCAL, 0x00))
        await until(reactor, lambda: factory.apps)

    run(reactor, scenario())
    assert (factory.app.peer, factory.app.host) == (UNIXAddress(None), UNIXAddress(name))


def told(transport: Any) -> tuple[Any, ...]:
    """Return a transport's description of its peer, without the numbers of the connection and of the port."""
    log_prefix = transport.logPrefix().replace(f",{transport.sessionno},", ",N,")
    return transport.client, transport.hostname, log_prefix, re.sub(r"#\d+ on .*", "#N>", repr(transport))


def listen_for(reactor: Any, front: str, path: Path, factory: Any) -> Any:
    if front == "UNIX":
        return reactor.listenUNIX(str(path), factory)
    return reactor.listenTCP(0, factory, interface={"TCP4": "127.0.0.1", "TCP6": "::1"}[front])


def connect_from(kind: str, path: Path, port: Any) -> socket.socket:
    """Connect from a socket with a name."""
    client = socket.socket({"TCP4": socket.AF_INET, "TCP6": socket.AF_INET6, "UNIX": socket.AF_UNIX}[kind])
    if kind == "UNIX":
        client.bind(str(path))
    client.connect(to_sockaddr(port.getHost()) or "")
    return client


KINDS = {"TCP4": ProxyResultIPv4, "TCP6": ProxyResultIPv6, "UNIX": ProxyResultUnix}


@pytest.mark.parametrize("front", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_transport_describes_the_client_as_it_describes_a_peer(
    reactor: Any, short_path: Path, front: str, kind: str
) -> None:
    """``client`` and ``hostname`` once named the proxy. Evennia logs and bans by them."""
    direct, proxied = AppFactory(), AppFactory()

    async def scenario() -> None:
        port = listen_for(reactor, kind, short_path / "direct", direct)
        with connect_from(kind, short_path / "client", port) as end:
            await until(reactor, lambda: direct.apps)
            result = KINDS[kind](end.getsockname(), end.getpeername())
        port = listen_for(reactor, front, short_path / "proxied", wrap(proxied, clock=reactor))
        with connect_from(front, short_path / "proxy", port) as proxy:
            proxy.sendall(ProxyProtocolV2().pack(result))
            await until(reactor, lambda: proxied.apps)
            client, hostname, log_prefix, text = told(direct.app.transport)
            if kind == "UNIX":  # a path from a header may hold any byte, so it is escaped
                log_prefix = f"App,N,{describe_address(hostname)}"
            assert told(proxied.app.transport) == (client, hostname, log_prefix, text)
            assert proxied.app.transport.getPeer() == direct.app.transport.getPeer()
            assert to_sockaddr(IProxiedTransport(proxied.app.transport).getProxyPeer()) == proxy.getsockname()

    run(reactor, scenario())


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(LOCAL, 0x11, IPV4_BLOCK)], ids=["UNKNOWN", "LOCAL"])
def test_a_header_without_a_client_leaves_the_transports_description_of_its_peer(reactor: Any, header: bytes) -> None:
    factory = AppFactory()

    async def scenario() -> None:
        client = await connect(reactor, listen(reactor, wrap(factory, clock=reactor)))
        client.transport.write(header)
        await until(reactor, lambda: factory.apps)
        own = to_sockaddr(client.transport.getHost())
        assert told(factory.app.transport) == (own, "127.0.0.1", "App,N,127.0.0.1", "<App #N>")
        assert to_sockaddr(IProxiedTransport(factory.app.transport).getProxyPeer()) == own

    run(reactor, scenario())


@pytest.mark.parametrize("front", ["TCP4", "TCP6"])
def test_the_policy_gets_the_addresses_of_the_socket_itself(reactor: Any, short_path: Path, front: str) -> None:
    asked = []

    def policy(peer: SockAddr, local: SockAddr) -> HeaderPolicy:
        asked.append((peer, local))
        return HeaderPolicy.SKIP

    async def scenario() -> None:
        factory = AppFactory()
        port = listen_for(reactor, front, short_path / "unused", wrap(factory, clock=reactor, policy=policy))
        with connect_from(front, short_path / "unused", port) as end:
            await until(reactor, lambda: factory.apps)
            assert asked == [(end.getsockname(), end.getpeername())]
            assert asked == [(to_sockaddr(factory.app.peer), to_sockaddr(factory.app.host))]

    run(reactor, scenario())
