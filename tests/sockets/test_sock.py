"""SocketInfo: who is at the other end, from the header or from the transport."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from proxyprotocol.result import (
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
    ProxyResultUnknown,
)
from proxyprotocol.sock import SocketInfo, SocketInfoLocal, SocketInfoProxy
from proxyprotocol.tlv import ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.typing import TransportProtocol

PROXY = ("203.0.113.9", 40000)
OWN = ("198.51.100.2", 443)
PROPERTIES = [name for name, value in vars(SocketInfo).items() if isinstance(value, property)]


class Socket:
    """A fake socket, as a transport shows it."""

    def __init__(self, family: int, kind: int = socket.SOCK_STREAM) -> None:
        self.family = family
        self.type = kind


class Transport:
    """A transport with the given facts."""

    def __init__(self, family: int, peername: Any, sockname: Any, **facts: Any) -> None:
        self._facts = dict(facts, socket=Socket(family), peername=peername, sockname=sockname)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._facts.get(name, default)


class Closed:
    """An asyncio TLS transport after its end: it has dropped everything."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        raise AttributeError("'NoneType' object has no attribute '_get_extra_info'")


class Forgetful:
    """A transport that no longer knows anything."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


REAL = Transport(socket.AF_INET, PROXY, OWN, cipher=("C", "TLSv1.3", 256), compression="zlib", peercert={"version": 3})


NO_TLV = ProxyProtocolTLV()


def ipv4(source: str = "192.0.2.1", tlv: ProxyProtocolTLV = NO_TLV) -> ProxyResultIPv4:
    return ProxyResultIPv4((IPv4Address(source), 5001), (IPv4Address("198.51.100.9"), 80), tlv=tlv)


def ipv6(source: str = "2001:db8::1") -> ProxyResultIPv6:
    return ProxyResultIPv6((IPv6Address(source), 5001), (IPv6Address("2001:db8::9"), 80))


def told(info: SocketInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in PROPERTIES if name != "socket"}


def addresses(info: SocketInfo) -> tuple[str | None, int | None, str | None, int | None]:
    return info.source_addr, info.source_port, info.dest_addr, info.dest_port


# Header or transport


@pytest.mark.parametrize("result", [None, ProxyResultLocal(), ProxyResultLocal(tlv=ProxyProtocolTLV(unique_id=b"x"))])
def test_without_a_header_and_for_local_the_transport_counts(result: ProxyResult | None) -> None:
    info = SocketInfo.get(REAL, result, unique_id=b"id", dnsbl="list")
    assert isinstance(info, SocketInfoLocal)
    assert info.peername == PROXY
    assert info.sockname == OWN
    assert info.cipher == ("C", "TLSv1.3", 256)
    assert info.compression == "zlib"
    assert info.peercert == {"version": 3}
    assert (info.unique_id, info.dnsbl) == (b"id", "list")


@pytest.mark.parametrize("result", [ipv4(), ipv6(), ProxyResultUnix("/c", "/s"), ProxyResultUnknown()])
def test_for_a_relayed_client_only_the_header_counts(result: ProxyResult) -> None:
    info = SocketInfo.get(REAL, result, unique_id=b"id", dnsbl="list")
    assert isinstance(info, SocketInfoProxy)
    assert (info.peername, info.sockname) == (result.peername, result.sockname)
    assert (info.cipher, info.compression, info.peercert) == (None, None, None)
    assert (info.unique_id, info.dnsbl) == (b"", None)


def test_the_socket_is_always_the_real_one() -> None:
    real: Any = REAL.get_extra_info("socket")
    assert SocketInfoLocal(REAL).socket is real
    assert SocketInfoProxy(REAL, ipv4()).socket is real


def test_the_common_class_is_abstract() -> None:
    with pytest.raises(TypeError):
        SocketInfo(REAL)  # type: ignore[abstract]


# Addresses


def test_the_quickstart_sees_the_client_that_the_header_names() -> None:
    info = SocketInfoProxy(REAL, ipv4())
    assert info.family.name == "AF_INET"
    assert info.peername == ("192.0.2.1", 5001)
    assert addresses(info) == ("192.0.2.1", 5001, "198.51.100.9", 80)


def test_the_quickstart_sees_the_peer_without_a_header() -> None:
    info = SocketInfoLocal(REAL)
    assert info.family.name == "AF_INET"
    assert info.protocol is socket.SOCK_STREAM
    assert addresses(info) == (*PROXY, *OWN)


def test_ipv6_addresses_are_text_as_the_socket_module_gives_it() -> None:
    info = SocketInfoProxy(REAL, ipv6("::1.2.3.4"))
    assert info.peername == ("::1.2.3.4", 5001, 0, 0)
    assert info.source_addr == "::1.2.3.4"
    assert info.peername_str == "[::1.2.3.4]:5001"
    assert info.peername_ip == IPv6Address("::1.2.3.4")
    assert (info.sockname_ip, info.sockname_str) == (IPv6Address("2001:db8::9"), "[2001:db8::9]:80")


def test_a_mapped_address_is_ipv4_in_peername_ip_and_text_but_not_in_peername() -> None:
    info = SocketInfoProxy(REAL, ipv6("::ffff:192.0.2.1"))
    assert info.peername_ip == IPv4Address("192.0.2.1")
    assert info.peername_str == "[192.0.2.1]:5001"
    assert info.source_addr == "::ffff:192.0.2.1"
    assert info.family is socket.AF_INET6


def test_a_link_local_peer_keeps_its_scope() -> None:
    info = SocketInfoLocal(Transport(socket.AF_INET6, ("fe80::1%eth0", 5, 0, 2), ("fe80::2%eth0", 6, 0, 2)))
    assert info.source_addr == "fe80::1%eth0"
    assert info.peername_ip == IPv6Address("fe80::1%eth0")
    assert info.peername_str == "[fe80::1%eth0]:5"


@pytest.mark.parametrize(
    ("name", "path"),
    [("", ""), ("/run/c.sock", "/run/c.sock"), (b"\0abstract", "\0abstract"), (b"\0\xff", "\0\udcff")],
)
def test_a_unix_name_is_the_address_and_there_is_no_port(name: str | bytes, path: str) -> None:
    info = SocketInfoLocal(Transport(socket.AF_UNIX, name, "/run/s.sock"))
    assert addresses(info) == (path, None, "/run/s.sock", None)
    assert (info.peername, info.peername_str) == (path, path)
    assert (info.peername_ip, info.sockname_ip) == (None, None)


def test_a_unix_client_in_a_header_is_its_path() -> None:
    info = SocketInfoProxy(REAL, ProxyResultUnix("/c", "\0s"))
    assert addresses(info) == ("/c", None, "\0s", None)
    assert (info.peername_str, info.sockname_str) == ("/c", "\0s")


def test_another_family_has_a_text_but_no_address() -> None:
    info = SocketInfoLocal(Transport(socket.AF_NETLINK, (3, 4), (5, 6)))
    assert addresses(info) == (None, None, None, None)
    assert (info.peername_str, info.peername_ip, info.peername_port) == ("(3, 4)", None, None)


@pytest.mark.parametrize("info", [SocketInfoProxy(REAL, ipv4()), SocketInfoProxy(REAL, ProxyResultUnix("/c", "/s"))])
def test_the_ports_of_proxy_protocol_are_the_same_as_the_new_ones(info: SocketInfo) -> None:
    assert (info.peername_port, info.sockname_port) == (info.source_port, info.dest_port)


def test_the_protocol_is_the_one_in_the_header() -> None:
    assert SocketInfoProxy(REAL, ProxyResultUnix("", "", protocol=socket.SOCK_DGRAM)).protocol is socket.SOCK_DGRAM


# From this machine or not


@pytest.mark.parametrize(
    "info",
    [
        SocketInfoProxy(REAL, ipv4("127.2.3.4")),
        SocketInfoProxy(REAL, ipv6("::1")),
        SocketInfoProxy(REAL, ipv6("::ffff:127.0.0.1")),
        SocketInfoProxy(REAL, ProxyResultUnix("/c", "/s")),
        SocketInfoLocal(Transport(socket.AF_INET, ("127.0.0.1", 5), OWN)),
        SocketInfoLocal(Transport(socket.AF_UNIX, "", "/s")),
        SocketInfoLocal(Transport(socket.AF_UNIX, None, "/s")),
    ],
)
def test_loopback_and_unix_clients_are_from_this_machine(info: SocketInfo) -> None:
    assert info.from_localhost is True


LOOPBACK = Transport(socket.AF_INET, ("127.0.0.1", 5), ("127.0.0.1", 6))
UNIX = Transport(socket.AF_UNIX, "", "/s")


@pytest.mark.parametrize("transport", [LOOPBACK, UNIX])
def test_an_unknown_client_never_looks_like_localhost_even_behind_a_local_proxy(transport: TransportProtocol) -> None:
    assert SocketInfo.get(transport, ProxyResultUnknown()).from_localhost is False


@pytest.mark.parametrize("result", [ipv4(), ipv6()])
def test_a_client_from_elsewhere_is_not_from_this_machine_even_behind_a_local_proxy(result: ProxyResult) -> None:
    assert SocketInfo.get(LOOPBACK, result).from_localhost is False


# Unknown facts


@pytest.mark.parametrize("result", [ProxyResultUnknown(), ProxyResultUnknown(ValueError("x")), ProxyResultLocal()])
def test_facts_that_a_header_lacks_are_none(result: ProxyResult) -> None:
    expected = dict.fromkeys(told(SocketInfoProxy(REAL, result)))
    expected.update(family=socket.AF_UNSPEC, from_localhost=False, unique_id=b"", result=result)
    assert told(SocketInfoProxy(REAL, result)) == expected


@pytest.mark.parametrize("transport", [Closed(), Forgetful()])
def test_facts_that_a_closed_transport_lacks_are_none(transport: TransportProtocol) -> None:
    info = SocketInfoLocal(transport, unique_id=b"id")
    expected = dict.fromkeys(told(info))
    expected.update(family=socket.AF_UNSPEC, from_localhost=False, unique_id=b"id")
    assert told(info) == expected
    assert info.socket is None
    assert repr(info) == "<SocketInfoLocal peername=None sockname=None>"


@pytest.mark.parametrize("name", [None, ""])
def test_a_tcp_peer_that_was_gone_at_once_has_no_address(name: str | None) -> None:
    info = SocketInfoLocal(Transport(socket.AF_INET, name, OWN))
    assert addresses(info) == (None, None, *OWN)
    assert info.peername_ip is None
    assert info.from_localhost is False


def test_an_info_outlives_its_connection() -> None:
    async def connect_and_close() -> SocketInfo:
        accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        server = await asyncio.start_server(lambda _, w: accepted.put_nowait(w), "127.0.0.1", 0)
        async with server:
            _, client = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer = await accepted.get()
            info = SocketInfoLocal(writer)
            before = told(info)
            for end in (client, writer):
                end.close()
                await end.wait_closed()
            assert told(info) == before
            return info

    assert asyncio.run(connect_and_close()).source_addr == "127.0.0.1"


# TLVs


TLV = ProxyProtocolTLV(
    unique_id=b"from the header",
    ssl=ProxyProtocolSSLTLV(has_ssl=True, version="TLSv1.2", cipher="CIPHER"),
    ext=ProxyProtocolExtTLV(compression="zlib", secret_bits=128, peercert={"version": 3}, dnsbl="listed"),
)


@pytest.mark.parametrize("result", [ipv4(tlv=TLV), ProxyResultUnknown(tlv=TLV)])
def test_the_tls_facts_of_the_header_are_properties(result: ProxyResult) -> None:
    info = SocketInfo.get(REAL, result, unique_id=b"of ours", dnsbl="of ours")
    assert info.cipher == ("CIPHER", "TLSv1.2", 128)
    assert info.compression == "zlib"
    assert info.peercert == {"version": 3}
    assert info.unique_id == b"from the header"
    assert info.dnsbl == "listed"


@pytest.mark.parametrize(
    ("ssl", "cipher"),
    [
        (ProxyProtocolSSLTLV(has_ssl=True), ("", "", None)),
        (ProxyProtocolSSLTLV(has_ssl=True, version="TLSv1.3"), ("", "TLSv1.3", None)),
        (ProxyProtocolSSLTLV(has_ssl=True, cipher="CIPHER"), ("CIPHER", "", None)),
        (ProxyProtocolSSLTLV(has_ssl=False, cipher="CIPHER", version="TLSv1.3"), None),
    ],
)
def test_a_cipher_is_partial_if_the_header_is(ssl: ProxyProtocolSSLTLV, cipher: Any) -> None:
    assert SocketInfoProxy(REAL, ipv4(tlv=ProxyProtocolTLV(ssl=ssl))).cipher == cipher


NOT_UTF8 = (
    b"\x04\0\x0e" + ProxyProtocolExtTLV.MAGIC_PREFIX + b"\x04\0\x03\xff\0\n" + b"\x20\0\x09\x01\0\0\0\0\x23\0\x01\xff"
)


def test_no_property_raises_for_malformed_vectors() -> None:
    info = SocketInfoProxy(REAL, ipv4(tlv=ProxyProtocolTLV(NOT_UTF8)))
    assert told(info)["dnsbl"] == "\\xff\0\n"
    assert info.cipher == ("\\xff", "", None)


# Text


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (SocketInfoLocal(REAL), "<SocketInfoLocal peername='[203.0.113.9]:40000' sockname='[198.51.100.2]:443'>"),
        (SocketInfoLocal(UNIX), "<SocketInfoLocal peername='' sockname='/s'>"),
        (
            SocketInfoProxy(REAL, ipv6()),
            "<SocketInfoProxy peername='[2001:db8::1]:5001' sockname='[2001:db8::9]:80'>",
        ),
        (SocketInfoProxy(REAL, ProxyResultUnix("", "")), "<SocketInfoProxy peername='' sockname=''>"),
        (SocketInfoProxy(REAL, ProxyResultUnknown()), "<SocketInfoProxy>"),
        (SocketInfoProxy(REAL, ProxyResultUnknown(ValueError("x"))), "<SocketInfoProxy exc=ValueError('x')>"),
    ],
)
def test_an_info_is_readable_in_a_log(info: SocketInfo, text: str) -> None:
    assert repr(info) == text


def test_text_from_a_peer_cannot_break_a_log_line() -> None:
    assert "\n" not in repr(SocketInfoProxy(REAL, ProxyResultUnix("/c\nforged line", "")))
