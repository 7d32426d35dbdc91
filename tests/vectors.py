"""One table of headers and what they say. It drives packing and parsing alike; every number in it is written by hand.

The bytes are put together here and not by the package, and the checksums were computed by another program.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import Any, NamedTuple

from proxyprotocol import (
    ProxyProtocol,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
    ProxyResultUnknown,
)
from proxyprotocol.tlv import ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV

V1 = ProxyProtocolV1()
V2 = ProxyProtocolV2(checksum=False)
V2_CRC = ProxyProtocolV2()

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21


class Vector(NamedTuple):
    """A header, and the result that it stands for."""

    name: str
    codec: ProxyProtocol
    result: ProxyResult
    header: bytes
    written: bool = True  # False: pack() writes this result in another way

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def length(found: tuple[ProxyResult, int] | int) -> int:
    """Return the header's length, or the least length that it can have, from the value of a codec's ``parse``."""
    return found if isinstance(found, int) else found[1]


def v2(command: int, family: int, *body: bytes) -> bytes:
    """Return a version 2 header."""
    return SIGNATURE + bytes((command, family)) + sum(map(len, body)).to_bytes(2, "big") + b"".join(body)


def tlv(kind: int, value: bytes = b"") -> bytes:
    """Return the bytes of a TLV."""
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def paths(source: bytes, dest: bytes) -> bytes:
    """Return the address block of two UNIX sockets."""
    return source.ljust(108, b"\0") + dest.ljust(108, b"\0")


def describe(result: ProxyResult) -> tuple[Any, ...]:
    """Return every field of a result, so that tests do not depend on the package's own comparison."""
    addresses = (result.source, result.dest, result.peername, result.sockname)
    return type(result), result.type, *addresses, result.family, result.protocol, result.proxied, bytes(result.tlv)


def single_bytes(data: bytes) -> list[bytes]:
    """Return the data as single bytes."""
    return [data[at : at + 1] for at in range(len(data))]


def splits(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Return every way to cut data into two pieces, of which one may be empty."""
    return ((data[:at], data[at:]) for at in range(len(data) + 1))


IPV4 = (IPv4Address("192.0.2.1"), 1000), (IPv4Address("198.51.100.2"), 2000)
IPV4_BLOCK = bytes.fromhex("c0000201 c6336402 03e8 07d0")
IPV6 = (IPv6Address("2001:db8::1"), 1000), (IPv6Address("2001:db8:ffff::2"), 2000)
IPV6_BLOCK = bytes.fromhex("20010db8000000000000000000000001 20010db8ffff00000000000000000002 03e8 07d0")
MAPPED = (IPv6Address("::ffff:192.0.2.1"), 1000), (IPv6Address("::ffff:198.51.100.2"), 2000)
MAPPED_BLOCK = bytes.fromhex("00000000000000000000ffffc0000201 00000000000000000000ffffc6336402 03e8 07d0")
HIGHEST = (IPv4Address("255.255.255.255"), 65535)
HIGHEST_6 = (IPv6Address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), 65535)
TCP4 = ProxyResultIPv4(*IPV4, protocol=SOCK_STREAM)
TCP6 = ProxyResultIPv6(*IPV6, protocol=SOCK_STREAM)
UNKNOWN = ProxyResultUnknown()
PATH_108 = "/" + "p" * 107

_VERSION_1 = (
    Vector("v1 TCP4", V1, TCP4, b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"),
    Vector(
        "v1 TCP4, the longest",
        V1,
        ProxyResultIPv4(HIGHEST, HIGHEST, protocol=SOCK_STREAM),
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
    ),
    Vector(
        "v1 TCP4, the shortest",
        V1,
        ProxyResultIPv4((IPv4Address(0), 0), (IPv4Address(0), 0), protocol=SOCK_STREAM),
        b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
    ),
    Vector("v1 TCP6", V1, TCP6, b"PROXY TCP6 2001:db8::1 2001:db8:ffff::2 1000 2000\r\n"),
    Vector(
        "v1 TCP6, the longest",
        V1,
        ProxyResultIPv6(HIGHEST_6, HIGHEST_6, protocol=SOCK_STREAM),
        b"PROXY TCP6 %b %b 65535 65535\r\n" % ((b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",) * 2),
    ),
    Vector(
        "v1 TCP6, the shortest",
        V1,
        ProxyResultIPv6((IPv6Address(0), 0), (IPv6Address(0), 0), protocol=SOCK_STREAM),
        b"PROXY TCP6 :: :: 0 0\r\n",
    ),
    Vector(
        "v1 TCP6, mapped",
        V1,
        ProxyResultIPv6(*MAPPED, protocol=SOCK_STREAM),
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1000 2000\r\n",
    ),
    Vector("v1 TCP6 in capitals", V1, TCP6, b"PROXY TCP6 2001:DB8::1 2001:Db8:fFfF:0:0::2 1000 2000\r\n", False),
    Vector("v1 UNKNOWN", V1, UNKNOWN, b"PROXY UNKNOWN\r\n"),
    Vector("v1 UNKNOWN, a space after it", V1, UNKNOWN, b"PROXY UNKNOWN \r\n", False),
    Vector("v1 UNKNOWN with addresses", V1, UNKNOWN, b"PROXY UNKNOWN ::1 ::1 1 2\r\n", False),
    Vector("v1 UNKNOWN of 107 bytes", V1, UNKNOWN, b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", False),
    Vector("v1 UNKNOWN with anything", V1, UNKNOWN, b"PROXY UNKNOWN \x00\xff\r \n \r\r\n", False),
)

_VERSION_2 = (
    Vector("TCP4", V2, TCP4, v2(PROXY, 0x11, IPV4_BLOCK)),
    Vector("UDP4", V2, ProxyResultIPv4(*IPV4, protocol=SOCK_DGRAM), v2(PROXY, 0x12, IPV4_BLOCK)),
    Vector(
        "TCP4, the highest",
        V2,
        ProxyResultIPv4(HIGHEST, HIGHEST, protocol=SOCK_STREAM),
        v2(PROXY, 0x11, b"\xff" * 12),
    ),
    Vector("TCP6", V2, TCP6, v2(PROXY, 0x21, IPV6_BLOCK)),
    Vector("UDP6", V2, ProxyResultIPv6(*IPV6, protocol=SOCK_DGRAM), v2(PROXY, 0x22, IPV6_BLOCK)),
    Vector("TCP6, mapped", V2, ProxyResultIPv6(*MAPPED, protocol=SOCK_STREAM), v2(PROXY, 0x21, MAPPED_BLOCK)),
    Vector(
        "UNIX stream",
        V2,
        ProxyResultUnix("/run/a.sock", "/run/b.sock", protocol=SOCK_STREAM),
        v2(PROXY, 0x31, paths(b"/run/a.sock", b"/run/b.sock")),
    ),
    Vector(
        "UNIX datagram, abstract with a NUL inside",
        V2,
        ProxyResultUnix("\0abs", "\0a\0b", protocol=SOCK_DGRAM),
        v2(PROXY, 0x32, paths(b"\0abs", b"\0a\0b")),
    ),
    Vector("UNIX, unnamed", V2, ProxyResultUnix("", "", protocol=SOCK_STREAM), v2(PROXY, 0x31, bytes(216))),
    Vector(
        "UNIX, 108 bytes and no UTF-8",
        V2,
        ProxyResultUnix(PATH_108, "/\udcff", protocol=SOCK_STREAM),
        v2(PROXY, 0x31, paths(PATH_108.encode(), b"/\xff")),
    ),
    Vector(
        "UNIX, dirt after the NUL",
        V2,
        ProxyResultUnix("/a", "/b", protocol=SOCK_STREAM),
        v2(PROXY, 0x31, paths(b"/a\0dirt", b"/b\0\0x")),
        False,
    ),
    Vector("LOCAL", V2, ProxyResultLocal(), v2(LOCAL, 0x00)),
    Vector("LOCAL with a TLV", V2, ProxyResultLocal(tlv=ProxyProtocolTLV(unique_id=b"i")), v2(LOCAL, 0, tlv(5, b"i"))),
    Vector("LOCAL, TCP4 without addresses", V2, ProxyResultLocal(), v2(LOCAL, 0x11), False),
    Vector("LOCAL, TCP4 with addresses", V2, ProxyResultLocal(), v2(LOCAL, 0x11, IPV4_BLOCK), False),
    Vector("LOCAL, UNIX, too short", V2, ProxyResultLocal(), v2(LOCAL, 0x31, b"/run/a.sock\0"), False),
    Vector("LOCAL with anything", V2, ProxyResultLocal(), v2(LOCAL, 0x00, b"\xff" * 5), False),
    Vector(
        "LOCAL, TCP4 with addresses and a TLV",
        V2,
        ProxyResultLocal(tlv=ProxyProtocolTLV(unique_id=b"i")),
        v2(LOCAL, 0x11, IPV4_BLOCK, tlv(5, b"i")),
        False,
    ),
    Vector(
        "LOCAL, TCP4 with a TLV alone",
        V2,
        ProxyResultLocal(tlv=ProxyProtocolTLV(unique_id=b"i")),
        v2(LOCAL, 0x11, tlv(5, b"i")),
        False,
    ),
    Vector(
        "LOCAL, no family at all",
        V2,
        ProxyResultLocal(tlv=ProxyProtocolTLV(unique_id=b"i")),
        v2(LOCAL, 0xF7, tlv(5, b"i")),
        False,
    ),
    Vector("UNSPEC", V2, UNKNOWN, v2(PROXY, 0x00)),
    Vector("UNSPEC with a TLV", V2, ProxyResultUnknown(tlv=ProxyProtocolTLV(alpn=b"h2")), v2(PROXY, 0, tlv(1, b"h2"))),
    Vector("UNSPEC with anything", V2, UNKNOWN, v2(PROXY, 0x00, b"\xff" * 12), False),
    Vector("UNSPEC stream", V2, UNKNOWN, v2(PROXY, 0x01, IPV4_BLOCK), False),
    Vector("IPv4, no protocol", V2, UNKNOWN, v2(PROXY, 0x10, IPV4_BLOCK), False),
    Vector("IPv6, no protocol, too short", V2, UNKNOWN, v2(PROXY, 0x20, IPV4_BLOCK), False),
    Vector(
        "IPv4, no protocol, with a TLV",
        V2,
        ProxyResultUnknown(tlv=ProxyProtocolTLV(alpn=b"h2")),
        v2(PROXY, 0x10, IPV4_BLOCK, tlv(1, b"h2")),
        False,
    ),
)


def _with(name: str, vectors: ProxyProtocolTLV, *wire: bytes) -> Vector:
    return Vector(
        name, V2, ProxyResultIPv4(*IPV4, protocol=SOCK_STREAM, tlv=vectors), v2(PROXY, 0x11, IPV4_BLOCK, *wire)
    )


def _ssl(name: str, ssl: ProxyProtocolSSLTLV, hexadecimal: str) -> Vector:
    return _with(name, ProxyProtocolTLV(ssl=ssl), tlv(0x20, bytes.fromhex(hexadecimal)))


_EXT = ProxyProtocolExtTLV(compression="zlib", secret_bits=256, dnsbl="x.example")
_EXT_BYTES = bytes.fromhex("881b79c1ce9685b0") + tlv(1, b"zlib") + tlv(2, b"\1\0") + tlv(4, b"x.example")
_NESTED = tlv(0x20, b"\1\0\0\0\0" + tlv(0x20, b"!"))
_RESERVED = ((0xFF, b"f"), (0xE5, b"c"), (0xF0, b"e"))
_DUPLICATES = (tlv(0xE1, b"b"), tlv(0x30, b"ns"), tlv(0xE1, b"a"), tlv(0xE1))
_EVERY_SSL = ProxyProtocolSSLTLV(
    has_ssl=True,
    has_cert_conn=True,
    has_cert_sess=True,
    verified=True,
    version="v",
    cn="é",
    cipher="c",
    sig_alg="s",
    key_alg="k",
    group="g",
    sig_scheme="m",
    client_cert=b"\x30\x00",
)

_TLVS = (
    _with("ALPN", ProxyProtocolTLV(alpn=b"h2"), tlv(0x01, b"h2")),
    _with("AUTHORITY", ProxyProtocolTLV(authority="é.example"), tlv(0x02, b"\xc3\xa9.example")),
    _with("NOOP", ProxyProtocolTLV(init={0x04: bytes(5)}), tlv(0x04, bytes(5))),
    _with("UNIQUE_ID", ProxyProtocolTLV(unique_id=b"\x00id"), tlv(0x05, b"\x00id")),
    _with("UNIQUE_ID, empty", ProxyProtocolTLV(unique_id=b""), tlv(0x05)),
    _with("UNIQUE_ID, the longest", ProxyProtocolTLV(unique_id=b"u" * 128), tlv(0x05, b"u" * 128)),
    _ssl("SSL", ProxyProtocolSSLTLV(has_ssl=True), "01 00000001"),
    _ssl("SSL of a session with a certificate", ProxyProtocolSSLTLV(has_cert_sess=True, verified=True), "04 00000000"),
    _ssl("SSL_VERSION", ProxyProtocolSSLTLV(version="TLSv1.3"), "00 00000001 210007 544c5376312e33"),
    _ssl("SSL_CN", ProxyProtocolSSLTLV(cn="é"), "00 00000001 220002 c3a9"),
    _ssl("SSL_CIPHER", ProxyProtocolSSLTLV(cipher="AES"), "00 00000001 230003 414553"),
    _ssl("SSL_SIG_ALG", ProxyProtocolSSLTLV(sig_alg="SHA256"), "00 00000001 240006 534841323536"),
    _ssl("SSL_KEY_ALG", ProxyProtocolSSLTLV(key_alg="RSA2048"), "00 00000001 250007 52534132303438"),
    _ssl("SSL_GROUP", ProxyProtocolSSLTLV(group="X25519"), "00 00000001 260006 583235353139"),
    _ssl("SSL_SIG_SCHEME", ProxyProtocolSSLTLV(sig_scheme="ed25519"), "00 00000001 270007 65643235353139"),
    _ssl("SSL_CLIENT_CERT", ProxyProtocolSSLTLV(client_cert=b"\x30\x00"), "00 00000001 280002 3000"),
    _ssl(
        "SSL with everything",
        _EVERY_SSL,
        "07 00000000 21000176 220002c3a9 23000163 24000173 2500016b 26000167 2700016d 2800023000",
    ),
    _with("SSL in SSL is opaque", ProxyProtocolTLV(_NESTED), _NESTED),
    _with("NETNS", ProxyProtocolTLV(netns="blue"), tlv(0x30, b"blue")),
    _with("GCP", ProxyProtocolTLV(init={0xE0: bytes.fromhex("0001000000000002")}), b"\xe0\0\x08\0\1\0\0\0\0\0\2"),
    _with("AWS", ProxyProtocolTLV(init={0xEA: b"\1vpce-08d2bf15fac5001c9"}), tlv(0xEA, b"\1vpce-08d2bf15fac5001c9")),
    _with("AZURE", ProxyProtocolTLV(init={0xEE: b"\1\xc1\x45\0\0"}), tlv(0xEE, b"\1\xc1\x45\0\0")),
    _with(
        "Alibaba",
        ProxyProtocolTLV(tlv(0xE1, b"\1vpc-bp1") + tlv(0xE1, b"\2ep-bp1") + tlv(0xE1, b"\3epsrv-bp1")),
        b"\xe1\0\x08\1vpc-bp1\xe1\0\7\2ep-bp1\xe1\0\x0a\3epsrv-bp1",
    ),
    _with("extension", ProxyProtocolTLV(ext=_EXT), tlv(0x04, _EXT_BYTES)),
    _with(
        "custom, experimental, future",
        ProxyProtocolTLV(init=dict(_RESERVED)),
        *(tlv(*pair) for pair in sorted(_RESERVED)),
    ),
    _with("not registered", ProxyProtocolTLV(init={0x00: b"0", 0x99: b""}), tlv(0x00, b"0"), tlv(0x99)),
    _with("the same type three times", ProxyProtocolTLV(b"".join(_DUPLICATES)), *_DUPLICATES),
    _with("descending", ProxyProtocolTLV(tlv(0x30) + tlv(2) + tlv(1)), tlv(0x30), tlv(2), tlv(1)),
)


def _crc(name: str, family: int, kind: type[Any], arguments: tuple[Any, ...], block: bytes, *wire: bytes) -> Vector:
    protocol = SOCK_DGRAM if family & 2 else SOCK_STREAM
    result = kind(*arguments, protocol=protocol, tlv=ProxyProtocolTLV(b"".join(wire)))
    return Vector(name, V2_CRC, result, v2(PROXY, family, block, *wire))


def checksum(hexadecimal: str) -> bytes:
    """Return the bytes of a CRC32C TLV."""
    return tlv(0x03, bytes.fromhex(hexadecimal))


_CRC32C = (
    _crc("CRC32C alone", 0x11, ProxyResultIPv4, IPV4, IPV4_BLOCK, checksum("2ed13bfb")),
    _crc("CRC32C in a datagram", 0x12, ProxyResultIPv4, IPV4, IPV4_BLOCK, checksum("caef0827")),
    _crc("CRC32C over IPv6", 0x21, ProxyResultIPv6, IPV6, IPV6_BLOCK, checksum("4f627e94")),
    _crc(
        "CRC32C over UNIX",
        0x31,
        ProxyResultUnix,
        ("/run/a.sock", "/run/b.sock"),
        paths(b"/run/a.sock", b"/run/b.sock"),
        checksum("ee37699c"),
    ),
    _crc(
        "CRC32C first, as HAProxy writes it",
        0x11,
        ProxyResultIPv4,
        IPV4,
        IPV4_BLOCK,
        checksum("033384ff"),
        tlv(0x01, b"h2"),
        tlv(0x02, b"example.com"),
    ),
    _crc(
        "CRC32C in the middle",
        0x12,
        ProxyResultIPv4,
        IPV4,
        IPV4_BLOCK,
        tlv(0x05, b"id-1"),
        checksum("d9a7fc89"),
        tlv(0x01, b"h2"),
    ),
    _crc(
        "CRC32C last",
        0x11,
        ProxyResultIPv4,
        IPV4,
        IPV4_BLOCK,
        tlv(0x01, b"h2"),
        tlv(0x20, b"\1\0\0\0\1"),
        tlv(0x05, b"id-1"),
        checksum("fee74aa8"),
    ),
    Vector(
        "CRC32C over UNSPEC",
        V2_CRC,
        ProxyResultUnknown(tlv=ProxyProtocolTLV(checksum("3ec9894e"))),
        v2(PROXY, 0x00, checksum("3ec9894e")),
    ),
    Vector(
        "CRC32C over LOCAL",
        V2_CRC,
        ProxyResultLocal(tlv=ProxyProtocolTLV(checksum("24f952e6") + tlv(0x05, b"id-1"))),
        v2(LOCAL, 0x00, checksum("24f952e6"), tlv(0x05, b"id-1")),
    ),
    Vector(
        "LOCAL, TCP4, a CRC32C and no addresses, as AWS writes it",
        V2_CRC,
        ProxyResultLocal(tlv=ProxyProtocolTLV(checksum("3734f59c") + tlv(0x04, bytes(8)))),
        v2(LOCAL, 0x11, checksum("3734f59c"), tlv(0x04, bytes(8))),
        False,
    ),
    Vector(
        "LOCAL, TCP4, addresses and a CRC32C",
        V2_CRC,
        ProxyResultLocal(tlv=ProxyProtocolTLV(tlv(0x05, b"id-1") + checksum("2685fbdf"))),
        v2(LOCAL, 0x11, IPV4_BLOCK, tlv(0x05, b"id-1"), checksum("2685fbdf")),
        False,
    ),
)

VECTORS = (*_VERSION_1, *_VERSION_2, *_TLVS, *_CRC32C)
VERSION_1 = [vector for vector in VECTORS if vector.codec is V1]
VERSION_2 = [vector for vector in VECTORS if vector.codec is not V1]
