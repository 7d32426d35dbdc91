"""The result that describes a connection, from its socket or its transport."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxyprotocol.build import build_socket_result, build_transport_result
from proxyprotocol.result import (
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultUnix,
    ProxyResultUnknown,
    is_unknown,
)
from proxyprotocol.tlv import ProxyProtocolExtTLV, ProxyProtocolTLV, Type

CLIENT4 = ("192.0.2.1", 5001)
SERVER4 = ("198.51.100.2", 443)


class Socket:
    """A fake socket, for addresses that a test cannot get."""

    def __init__(self, family: int, peername: Any, sockname: Any, kind: int = socket.SOCK_STREAM) -> None:
        self.family = family
        self.type = kind
        self._peername = peername
        self._sockname = sockname

    def getpeername(self) -> Any:
        return self._peername

    def getsockname(self) -> Any:
        return self._sockname


class Transport:
    """A transport with the given facts."""

    def __init__(self, **facts: Any) -> None:
        self._facts = facts

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._facts.get(name, default)


def transport_of(sock: Socket, **facts: Any) -> Transport:
    return Transport(socket=sock, peername=sock.getpeername(), sockname=sock.getsockname(), **facts)


def from_socket(sock: Socket, **options: Any) -> ProxyResult:
    return build_socket_result(sock, **options)  # type: ignore[arg-type]


def from_transport(sock: Socket, **options: Any) -> ProxyResult:
    return build_transport_result(transport_of(sock), **options)


Build = Callable[..., ProxyResult]
both = pytest.mark.parametrize("build", [from_socket, from_transport])


def connect(family: int, address: Any) -> tuple[socket.socket, socket.socket]:
    """Yield both ends of a connection: the client's and the server's."""
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        client = socket.socket(family)
        client.connect(listener.getsockname())
        return client, listener.accept()[0]


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    client, server = connect(socket.AF_INET, ("127.0.0.1", 0))
    with client, server:
        yield client, server


# Addresses


def test_a_tcp_connection_is_described_from_the_side_that_is_asked(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    client, server = tcp
    client_address = (IPv4Address("127.0.0.1"), client.getsockname()[1])
    server_address = (IPv4Address("127.0.0.1"), server.getsockname()[1])
    assert build_socket_result(server) == ProxyResultIPv4(client_address, server_address, protocol=socket.SOCK_STREAM)
    assert build_socket_result(client) == ProxyResultIPv4(server_address, client_address, protocol=socket.SOCK_STREAM)


def test_a_connected_datagram_socket_is_described_as_one() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        client.connect(server.getsockname())
        result = build_socket_result(client)
    assert isinstance(result, ProxyResultIPv4)
    assert result.protocol is socket.SOCK_DGRAM


@both
def test_the_peer_is_the_source_and_the_own_address_the_destination(build: Build) -> None:
    assert build(Socket(socket.AF_INET, CLIENT4, SERVER4)) == ProxyResultIPv4(
        (IPv4Address(CLIENT4[0]), CLIENT4[1]), (IPv4Address(SERVER4[0]), SERVER4[1]), protocol=socket.SOCK_STREAM
    )


@both
def test_an_ipv6_scope_id_is_dropped_because_a_header_has_no_field_for_it(build: Build) -> None:
    sock = Socket(socket.AF_INET6, ("fe80::1%eth0", 5001, 0, 2), ("fe80::2", 443, 0, 2))
    assert build(sock) == ProxyResultIPv6(
        (IPv6Address("fe80::1"), 5001), (IPv6Address("fe80::2"), 443), protocol=socket.SOCK_STREAM
    )


@both
def test_an_ipv4_client_of_an_ipv6_socket_keeps_its_mapped_address(build: Build) -> None:
    result = build(Socket(socket.AF_INET6, ("::ffff:192.0.2.1", 5001, 0, 0), ("::ffff:198.51.100.2", 443, 0, 0)))
    assert isinstance(result, ProxyResultIPv6)
    assert result.peername == ("::ffff:192.0.2.1", 5001, 0, 0)


@both
@pytest.mark.parametrize(
    ("name", "path"),
    [("", ""), ("/run/c.sock", "/run/c.sock"), (b"\0abstract", "\0abstract"), (b"\0\xff", "\0\udcff")],
)
def test_unix_names_are_empty_for_unnamed_sockets_and_decoded_for_abstract_ones(
    build: Build, name: str | bytes, path: str
) -> None:
    result = build(Socket(socket.AF_UNIX, name, "/run/s.sock", socket.SOCK_SEQPACKET))
    assert result == ProxyResultUnix(path, "/run/s.sock", protocol=socket.SOCK_SEQPACKET)


def test_a_pair_of_sockets_has_no_names() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert build_socket_result(left) == ProxyResultUnix("", "", protocol=socket.SOCK_STREAM)


def test_a_unix_listener_is_named_by_its_path() -> None:
    directory = Path(tempfile.mkdtemp())  # pytest's tmp_path may be too long for a UNIX address
    try:
        client, server = connect(socket.AF_UNIX, str(directory / "s"))
        with client, server:
            result = build_socket_result(server)
            assert result == ProxyResultUnix("", str(directory / "s"), protocol=socket.SOCK_STREAM)
    finally:
        shutil.rmtree(directory)


@both
def test_a_family_that_no_header_can_name_is_unknown(build: Build) -> None:
    assert build(Socket(socket.AF_NETLINK, (3, 4), (5, 6)), unique_id=b"u", dnsbl="d") == ProxyResultUnknown()


# Connections that are gone


def assert_unknown_after_error(result: ProxyResult) -> None:
    assert is_unknown(result)
    assert isinstance(result.exception, OSError)
    # a traceback would keep the socket alive as long as the result
    assert result.exception.__traceback__ is None
    assert not result.tlv


def test_a_closed_socket_is_unknown_and_the_result_holds_the_error(tcp: tuple[socket.socket, socket.socket]) -> None:
    tcp[1].close()
    assert_unknown_after_error(build_socket_result(tcp[1], unique_id=b"u"))


def test_a_socket_that_was_never_connected_is_unknown() -> None:
    with socket.socket() as sock:
        assert_unknown_after_error(build_socket_result(sock))


def test_a_socket_that_the_peer_has_reset_is_unknown(tcp: tuple[socket.socket, socket.socket]) -> None:
    client, server = tcp
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)  # waits for the reset
    assert_unknown_after_error(build_socket_result(server))


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"peername": CLIENT4, "sockname": SERVER4},
        {"socket": Socket(socket.AF_INET, None, None), "peername": None, "sockname": SERVER4},
        {"socket": Socket(socket.AF_INET, None, None), "peername": CLIENT4, "sockname": None},
        {"socket": Socket(socket.AF_INET, None, None), "peername": "", "sockname": SERVER4},
        {"socket": Socket(socket.AF_INET6, None, None), "peername": CLIENT4, "sockname": ""},
        {"socket": Socket(socket.AF_UNIX, None, None), "peername": None, "sockname": "/run/s.sock"},
    ],
)
def test_a_transport_without_an_address_is_unknown(facts: dict[str, Any]) -> None:
    assert build_transport_result(Transport(**facts), unique_id=b"u") == ProxyResultUnknown()


def test_a_transport_that_raises_because_it_is_closed_is_unknown() -> None:
    class Closed:
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            raise AttributeError("'NoneType' object has no attribute '_get_extra_info'")

    assert build_transport_result(Closed()) == ProxyResultUnknown()


# unique_id and dnsbl


@both
@pytest.mark.parametrize(
    ("options", "tlv"),
    [
        ({}, ProxyProtocolTLV()),
        ({"unique_id": None, "dnsbl": None}, ProxyProtocolTLV()),
        ({"unique_id": b"id"}, ProxyProtocolTLV(unique_id=b"id")),
        ({"unique_id": b""}, ProxyProtocolTLV(unique_id=b"")),
        ({"dnsbl": "list"}, ProxyProtocolTLV(ext=ProxyProtocolExtTLV(dnsbl="list"))),
        ({"dnsbl": ""}, ProxyProtocolTLV(ext=ProxyProtocolExtTLV(dnsbl=""))),
    ],
)
def test_unique_id_and_dnsbl_are_in_the_result_if_given(
    build: Build, options: dict[str, Any], tlv: ProxyProtocolTLV
) -> None:
    result = build(Socket(socket.AF_INET, CLIENT4, SERVER4), **options)
    assert result.tlv == tlv
    assert bytes(result.tlv) == bytes(tlv)


# TLS


def make_certificate(directory: Path, name: str) -> Path:
    """Write a self-signed certificate and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{name}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("certificates")
    return {name: make_certificate(directory, name) for name in ("server.example", "client.example")}


@pytest.fixture
def server_tls(certificates: dict[str, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["server.example"])
    context.load_verify_locations(certificates["client.example"])
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@pytest.fixture
def client_tls(certificates: dict[str, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates["server.example"]))
    context.check_hostname = False
    return context


@pytest.fixture
def certified_client_tls(client_tls: ssl.SSLContext, certificates: dict[str, Path]) -> ssl.SSLContext:
    client_tls.load_cert_chain(certificates["client.example"])
    return client_tls


def shake_hands(*sides: ssl.SSLObject | ssl.SSLSocket) -> None:
    waiting = list(sides)
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting


def tls_object(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> ssl.SSLObject:
    """Return the server's side of TLS in memory."""
    inwards, outwards = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_tls.wrap_bio(inwards, outwards, server_side=True)
    shake_hands(client_tls.wrap_bio(outwards, inwards), server)
    return server


def tls_result(tls: Any, **options: Any) -> ProxyResult:
    return build_transport_result(transport_of(Socket(socket.AF_INET, CLIENT4, SERVER4), ssl_object=tls), **options)


def test_tls_without_a_client_certificate_is_described(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    tls = tls_object(server_tls, client_tls)
    cipher = tls.cipher()
    assert cipher is not None
    tlv = tls_result(tls, unique_id=b"id", dnsbl="list").tlv
    assert (tlv.ssl.cipher, tlv.ssl.version, tlv.ext.secret_bits) == cipher
    assert tlv.ssl.has_ssl
    assert not tlv.ssl.has_cert_conn
    assert not tlv.ssl.client_verified
    assert tlv.ext.peercert is None
    assert (tlv.unique_id, tlv.ext.dnsbl) == (b"id", "list")
    assert list(tlv) == [Type.PP2_TYPE_NOOP, Type.PP2_TYPE_UNIQUE_ID, Type.PP2_TYPE_SSL]


def test_tls_without_a_client_certificate_has_a_verify_field_of_0_as_in_proxy_protocol(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    assert tls_result(tls_object(server_tls, client_tls)).tlv.ssl.verify == 0


def test_a_client_certificate_is_in_the_result(
    server_tls: ssl.SSLContext, certified_client_tls: ssl.SSLContext
) -> None:
    tlv = tls_result(tls_object(server_tls, certified_client_tls)).tlv
    assert tlv.ssl.has_cert_conn
    assert tlv.ssl.client_verified
    assert tlv.ext.peercert is not None
    assert tlv.ext.peercert["subject"] == [[["commonName", "client.example"]]]


def test_a_tls_socket_is_described_like_a_tls_transport(
    server_tls: ssl.SSLContext, certified_client_tls: ssl.SSLContext
) -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    server = server_tls.wrap_socket(left, server_side=True, do_handshake_on_connect=False)
    client = certified_client_tls.wrap_socket(right, do_handshake_on_connect=False)
    with server, client:
        shake_hands(client, server)
        result = build_socket_result(server)
    assert result.tlv.ssl.client_verified
    assert (result.tlv.ssl.cipher, result.tlv.ssl.version) != (None, None)
    assert result == ProxyResultUnix("", "", protocol=socket.SOCK_STREAM, tlv=result.tlv)


def test_tls_during_its_handshake_shows_no_certificate(
    server_tls: ssl.SSLContext,
) -> None:
    tls = server_tls.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    tlv = tls_result(tls).tlv
    assert tlv.ssl.has_ssl
    assert not tlv.ssl.has_cert_conn
    assert tlv.ssl.cipher is None


def test_a_socket_whose_tls_has_ended_is_described_without_a_certificate(
    server_tls: ssl.SSLContext, certified_client_tls: ssl.SSLContext
) -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    server = server_tls.wrap_socket(left, server_side=True, do_handshake_on_connect=False)
    client = certified_client_tls.wrap_socket(right, do_handshake_on_connect=False)
    with client:
        shake_hands(client, server)
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
        with server, server.unwrap():
            assert not build_socket_result(server).tlv.ssl.has_cert_conn


class Tls:
    """A fake SSLObject, for features that OpenSSL no longer has."""

    def __init__(self, peercert: Any = None, compression: str | None = None, secret_bits: int | None = 128) -> None:
        self._peercert = peercert
        self._compression = compression
        self._secret_bits = secret_bits

    def cipher(self) -> tuple[str, str, int | None]:
        return "CIPHER", "TLSv1.2", self._secret_bits

    def compression(self) -> str | None:
        return self._compression

    def getpeercert(self) -> Any:
        if isinstance(self._peercert, Exception):
            raise self._peercert
        return self._peercert


def test_an_unchecked_certificate_is_not_called_verified() -> None:
    # ssl.CERT_NONE: getpeercert() returns an empty dictionary
    tlv = tls_result(Tls(peercert={})).tlv
    assert tlv.ssl.has_cert_conn
    assert not tlv.ssl.verified
    assert not tlv.ssl.client_verified
    assert tlv.ext.peercert == {}


def test_a_certificate_that_cannot_be_decoded_does_not_count() -> None:
    tlv = tls_result(Tls(peercert=ssl.SSLError("unknown encoding"))).tlv
    assert tlv.ssl.has_ssl
    assert not tlv.ssl.client_verified


def test_compression_and_secret_bits_are_in_the_result_if_known() -> None:
    ext = tls_result(Tls(compression="zlib", secret_bits=0)).tlv.ext
    assert (ext.compression, ext.secret_bits) == ("zlib", 0)
    ext = tls_result(Tls(secret_bits=None)).tlv.ext
    assert (ext.compression, ext.secret_bits) == (None, None)


# Real transports


async def results_of_a_connection(
    server_tls: ssl.SSLContext | None, client_tls: ssl.SSLContext | None
) -> tuple[ProxyResult, ProxyResult, ProxyResult, ProxyResult]:
    """Return the results of the server's writer, its transport and the client's writer, and of the closed server."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, w: accepted.put_nowait(w), "127.0.0.1", 0, ssl=server_tls)
    async with server:
        _, client = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_tls)
        writer = await accepted.get()
        alive = build_transport_result(writer), build_transport_result(writer.transport), build_transport_result(client)
        client.close()
        await client.wait_closed()
        writer.close()
        await writer.wait_closed()
        return (*alive, build_transport_result(writer))


def test_an_asyncio_transport_and_its_writer_give_the_same_result() -> None:
    by_writer, by_transport, by_client, closed = asyncio.run(results_of_a_connection(None, None))
    assert isinstance(by_writer, ProxyResultIPv4)
    assert by_writer == by_transport
    assert by_writer == ProxyResultIPv4(by_client.dest, by_client.source, protocol=socket.SOCK_STREAM)  # type: ignore[arg-type]
    assert closed == by_writer


def test_an_asyncio_transport_over_tls_describes_tls_until_it_is_closed(
    server_tls: ssl.SSLContext, certified_client_tls: ssl.SSLContext
) -> None:
    by_writer, by_transport, by_client, closed = asyncio.run(results_of_a_connection(server_tls, certified_client_tls))
    assert by_writer == by_transport
    assert by_writer.source == by_client.dest
    assert by_writer.tlv.ssl.client_verified
    assert closed == ProxyResultUnknown()
