"""Floor 1: Type-Length-Value vectors, the part of a version 2 header behind the addresses (section 2.2).

Vectors keep the wire's order and its duplicates, and are decoded when asked for.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Hashable, Iterator, Mapping
from enum import IntEnum, IntFlag
from typing import Any, ClassVar, Final

from proxyprotocol._wire import spec, walk
from proxyprotocol._wire.vendors import VendorNumber, VendorText
from proxyprotocol.checksum import crc32c as compute_crc32c
from proxyprotocol.errors import ProxyProtocolSyntaxError
from proxyprotocol.typing import PeerCert

__all__ = [
    "TLV",
    "ExtType",
    "ProxyProtocolExtTLV",
    "ProxyProtocolSSLTLV",
    "ProxyProtocolTLV",
    "SSLClient",
    "Type",
]


class Type(IntEnum):
    """The registered types and sub-types (section 2.2, and those of four vendors), by their names there."""

    PP2_TYPE_ALPN = 0x01
    PP2_TYPE_AUTHORITY = 0x02
    PP2_TYPE_CRC32C = spec.TYPE_CRC32C
    PP2_TYPE_NOOP = 0x04
    PP2_TYPE_UNIQUE_ID = spec.TYPE_UNIQUE_ID
    PP2_TYPE_SSL = spec.TYPE_SSL
    PP2_TYPE_NETNS = 0x30

    PP2_SUBTYPE_SSL_VERSION = 0x21
    PP2_SUBTYPE_SSL_CN = 0x22
    PP2_SUBTYPE_SSL_CIPHER = 0x23
    PP2_SUBTYPE_SSL_SIG_ALG = 0x24
    PP2_SUBTYPE_SSL_KEY_ALG = 0x25
    PP2_SUBTYPE_SSL_GROUP = 0x26
    PP2_SUBTYPE_SSL_SIG_SCHEME = 0x27
    PP2_SUBTYPE_SSL_CLIENT_CERT = 0x28

    PP2_TYPE_MIN_CUSTOM = 0xE0
    PP2_TYPE_MAX_CUSTOM = 0xEF
    PP2_TYPE_MIN_EXPERIMENT = 0xF0
    PP2_TYPE_MAX_EXPERIMENT = 0xF7
    PP2_TYPE_MIN_FUTURE = 0xF8
    PP2_TYPE_MAX_FUTURE = 0xFF

    PP2_TYPE_GCP = 0xE0
    PP2_TYPE_ALIBABA = 0xE1
    PP2_TYPE_AWS = 0xEA
    PP2_TYPE_AZURE = 0xEE


class SSLClient(IntFlag):
    """The bits of the client field of PP2_TYPE_SSL (section 2.2.6)."""

    PP2_CLIENT_SSL = 0x01
    PP2_CLIENT_CERT_CONN = 0x02
    PP2_CLIENT_CERT_SESS = 0x04


class ExtType(IntEnum):
    """The types inside the extension that the established package hides in a PP2_TYPE_NOOP."""

    PP2_TYPE_EXT_COMPRESSION = 0x01
    PP2_TYPE_EXT_SECRET_BITS = 0x02
    PP2_TYPE_EXT_PEERCERT = 0x03
    PP2_TYPE_EXT_DNSBL = 0x04


# A peer certificate travels compressed: some KiB of input could unpack to gigabytes.
_PEERCERT_MAX_LENGTH: Final = 64 * 1024
_CRC32C_SIZE: Final = spec.TLV_HEAD_LENGTH + spec.CRC32C_LENGTH
_SSL_HEAD: Final = struct.Struct("!BL")


class TLV(Mapping[int, bytes], Hashable):
    """Vectors by their type: ``tlv[0xE2]`` is a value, the last one where a type came several times.

    Two are equal when each type has the same values in the same order; the order of different types does not count.
    ``bytes(tlv)`` is the wire's bytes.

    Args:
        data: The vectors as they are on the wire.
        init: Types and values that replace or join those of *data*, such as another TLV's. What joins stands before
            the first greater type, so that a TLV made from a mapping alone is in ascending order.

    Raises:
        ProxyProtocolSyntaxError: *data* is cut or has bytes left over.
        ValueError: A type is not 0 to 255, or a value has over 65,535 bytes.
    """

    __slots__ = ("_by_type", "_wire")

    _wire: bytes
    _by_type: dict[int, list[bytes]] | None

    def __init__(self, data: bytes = b"", init: Mapping[int, bytes] | None = None) -> None:
        self._by_type = None
        self._wire = bytes(data)
        for _ in walk.split(self._wire):
            pass  # the walk is the check
        if isinstance(init, TLV):
            self._wire = walk.merge(self._wire, init._index())
        elif init:
            self._wire = walk.merge(self._wire, {int(kind): [value] for kind, value in init.items()})

    def _set_all(self, values: Mapping[int, bytes | None]) -> None:
        # only for constructors: a TLV does not change afterwards
        given = {int(kind): [value] for kind, value in values.items() if value is not None}
        if given:
            self._wire, self._by_type = walk.merge(self._wire, given), None

    def _index(self) -> dict[int, list[bytes]]:
        if self._by_type is None:
            self._by_type = {}
            for kind, value in walk.split(self._wire):
                self._by_type.setdefault(kind, []).append(value)
        return self._by_type

    def _head(self) -> bytes:
        """What stands before the vectors on the wire."""
        return b""

    def __getitem__(self, type_num: int) -> bytes:
        return self._index()[type_num][-1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._index())

    def __len__(self) -> int:
        return len(self._index())

    def __bool__(self) -> bool:
        return bool(self._wire)

    def __bytes__(self) -> bytes:
        return self._head() + self._wire

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TLV):
            return self._head() == other._head() and self._index() == other._index()
        if isinstance(other, Mapping):
            return dict(self.items()) == dict(other.items())
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self._head(), frozenset((kind, tuple(values)) for kind, values in self._index().items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({bytes(self)!r})" if self else f"{type(self).__name__}()"

    @property
    def size(self) -> int:
        """How many bytes the vectors take on the wire."""
        return len(self._wire)

    def getall(self, type_num: int) -> list[bytes]:
        """Give every value of a type, in the wire's order.

        Args:
            type_num: The type, 0 to 255.

        Returns:
            The values; an empty list where there is none.
        """
        return list(self._index().get(type_num, ()))

    def _text(self, kind: int) -> str | None:
        # backslashreplace: what an untrusted sender put here must not raise in a log statement
        value = self.get(kind)
        return None if value is None else value.decode("utf-8", "backslashreplace")


def _encode(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8")


def _unsigned(name: str, value: int | None, length: int) -> bytes | None:
    if value is None:
        return None
    if not 0 <= value < 1 << 8 * length:
        raise ValueError(f"{name} is a number of {8 * length} bits, not {value!r}")
    return value.to_bytes(length, "big")


class ProxyProtocolSSLTLV(TLV):
    """The value of PP2_TYPE_SSL: client flags, a verify code, then vectors of sub-types (section 2.2.6).

    Args:
        data: The value as it is on the wire, flags and verify code included. One that is malformed counts as empty.
        init: Sub-types and values, such as another one of these.
        has_ssl: Whether the client connected over TLS.
        has_cert_conn: Whether it showed a certificate over this connection.
        has_cert_sess: Whether it showed one over the TLS session this connection belongs to.
        verified: True sends a verify code of 0, False one of 1.
        version: PP2_SUBTYPE_SSL_VERSION, such as ``"TLSv1.3"``.
        cn: PP2_SUBTYPE_SSL_CN, the common name of the client's certificate.
        cipher: PP2_SUBTYPE_SSL_CIPHER.
        sig_alg: PP2_SUBTYPE_SSL_SIG_ALG, of the frontend's certificate.
        key_alg: PP2_SUBTYPE_SSL_KEY_ALG, of the frontend's certificate.
        group: PP2_SUBTYPE_SSL_GROUP, of the key exchange.
        sig_scheme: PP2_SUBTYPE_SSL_SIG_SCHEME, by which the frontend signed in the handshake.
        client_cert: PP2_SUBTYPE_SSL_CLIENT_CERT, the client's certificate in DER.
    """

    __slots__ = ("_client", "_verify")

    _client: int
    _verify: int

    def __init__(
        self,
        data: bytes = b"",
        init: Mapping[int, bytes] | None = None,
        *,
        has_ssl: bool | None = None,
        has_cert_conn: bool | None = None,
        has_cert_sess: bool | None = None,
        verified: bool | None = None,
        version: str | None = None,
        cn: str | None = None,
        cipher: str | None = None,
        sig_alg: str | None = None,
        key_alg: str | None = None,
        group: str | None = None,
        sig_scheme: str | None = None,
        client_cert: bytes | None = None,
    ) -> None:
        self._client, self._verify = 0, 1
        if isinstance(init, ProxyProtocolSSLTLV):
            self._client, self._verify = init._client, init._verify
        super().__init__(self._read_head(bytes(data)), init)
        self._flag(SSLClient.PP2_CLIENT_SSL, has_ssl)
        self._flag(SSLClient.PP2_CLIENT_CERT_CONN, has_cert_conn)
        self._flag(SSLClient.PP2_CLIENT_CERT_SESS, has_cert_sess)
        if verified is not None:
            self._verify = 0 if verified else self._verify or 1
        self._set_all(
            {
                Type.PP2_SUBTYPE_SSL_VERSION: _encode(version),
                Type.PP2_SUBTYPE_SSL_CN: _encode(cn),
                Type.PP2_SUBTYPE_SSL_CIPHER: _encode(cipher),
                Type.PP2_SUBTYPE_SSL_SIG_ALG: _encode(sig_alg),
                Type.PP2_SUBTYPE_SSL_KEY_ALG: _encode(key_alg),
                Type.PP2_SUBTYPE_SSL_GROUP: _encode(group),
                Type.PP2_SUBTYPE_SSL_SIG_SCHEME: _encode(sig_scheme),
                Type.PP2_SUBTYPE_SSL_CLIENT_CERT: client_cert,
            }
        )

    def _read_head(self, data: bytes) -> bytes:
        try:
            walk.check_ssl(data, 0, 0, len(data))
        except ProxyProtocolSyntaxError:
            return b""
        self._client, self._verify = _SSL_HEAD.unpack_from(data)
        return data[spec.SSL_HEAD_LENGTH :]

    def _flag(self, bit: SSLClient, value: bool | None) -> None:
        if value is not None:
            mask = int(bit)  # the complement of a flag leaves out the bits that have no name
            self._client = self._client | mask if value else self._client & ~mask

    def _head(self) -> bytes:
        return _SSL_HEAD.pack(self._client, self._verify)

    def __bool__(self) -> bool:
        return bool(self._wire) or (self._client, self._verify) != (0, 1)

    @property
    def client(self) -> SSLClient:
        """The client field: what is known of the client's TLS."""
        return SSLClient(self._client)

    @property
    def has_ssl(self) -> bool:
        """Whether the client connected over TLS."""
        return bool(self._client & SSLClient.PP2_CLIENT_SSL)

    @property
    def has_cert_conn(self) -> bool:
        """Whether the client showed a certificate over this connection."""
        return bool(self._client & SSLClient.PP2_CLIENT_CERT_CONN)

    @property
    def has_cert_sess(self) -> bool:
        """Whether the client showed a certificate over the TLS session this connection belongs to."""
        return bool(self._client & SSLClient.PP2_CLIENT_CERT_SESS)

    @property
    def verify(self) -> int:
        """The verify field: 0, or why the certificate was not accepted."""
        return self._verify

    @property
    def verified(self) -> bool:
        """Whether the verify field is 0. Senders put 0 there *without a certificate*: see :attr:`client_verified`."""
        return self._verify == 0

    @property
    def client_verified(self) -> bool:
        """Whether the client showed a certificate and the sender verified it; else :attr:`cn` proves nothing."""
        return self.verified and (self.has_cert_conn or self.has_cert_sess)

    @property
    def version(self) -> str | None:
        """PP2_SUBTYPE_SSL_VERSION, such as ``"TLSv1.3"``."""
        return self._text(Type.PP2_SUBTYPE_SSL_VERSION)

    @property
    def cn(self) -> str | None:
        """PP2_SUBTYPE_SSL_CN, the common name of the client's certificate, verified or not."""
        return self._text(Type.PP2_SUBTYPE_SSL_CN)

    @property
    def cipher(self) -> str | None:
        """PP2_SUBTYPE_SSL_CIPHER."""
        return self._text(Type.PP2_SUBTYPE_SSL_CIPHER)

    @property
    def sig_alg(self) -> str | None:
        """PP2_SUBTYPE_SSL_SIG_ALG, of the frontend's certificate."""
        return self._text(Type.PP2_SUBTYPE_SSL_SIG_ALG)

    @property
    def key_alg(self) -> str | None:
        """PP2_SUBTYPE_SSL_KEY_ALG, of the frontend's certificate."""
        return self._text(Type.PP2_SUBTYPE_SSL_KEY_ALG)

    @property
    def group(self) -> str | None:
        """PP2_SUBTYPE_SSL_GROUP, of the key exchange."""
        return self._text(Type.PP2_SUBTYPE_SSL_GROUP)

    @property
    def sig_scheme(self) -> str | None:
        """PP2_SUBTYPE_SSL_SIG_SCHEME, by which the frontend signed in the handshake."""
        return self._text(Type.PP2_SUBTYPE_SSL_SIG_SCHEME)

    @property
    def client_cert(self) -> bytes | None:
        """PP2_SUBTYPE_SSL_CLIENT_CERT, the client's certificate in DER, verified or not."""
        return self.get(Type.PP2_SUBTYPE_SSL_CLIENT_CERT)


class ProxyProtocolExtTLV(TLV):
    """What the established package hides in a PP2_TYPE_NOOP: not of the specification, ignored by other receivers.

    Args:
        data: The value of the NOOP. One that is not of this kind, or malformed, counts as empty.
        init: Types and values, such as another one of these.
        compression: What :meth:`ssl.SSLSocket.compression` gave.
        secret_bits: How many secret bits the cipher has.
        peercert: What :meth:`ssl.SSLSocket.getpeercert` gave.
        dnsbl: What a DNS block list said of the client.
    """

    __slots__ = ()

    #: What the value of the NOOP begins with.
    MAGIC_PREFIX: ClassVar[bytes] = b"\x88\x1by\xc1\xce\x96\x85\xb0"

    def __init__(
        self,
        data: bytes = b"",
        init: Mapping[int, bytes] | None = None,
        *,
        compression: str | None = None,
        secret_bits: int | None = None,
        peercert: PeerCert | None = None,
        dnsbl: str | None = None,
    ) -> None:
        super().__init__(self._read_head(bytes(data)), init)
        self._set_all(
            {
                ExtType.PP2_TYPE_EXT_COMPRESSION: _encode(compression),
                ExtType.PP2_TYPE_EXT_SECRET_BITS: _unsigned("secret_bits", secret_bits, 2),
                ExtType.PP2_TYPE_EXT_PEERCERT: None if peercert is None else _pack_peercert(peercert),
                ExtType.PP2_TYPE_EXT_DNSBL: _encode(dnsbl),
            }
        )

    @classmethod
    def _read_head(cls, data: bytes) -> bytes:
        if not data.startswith(cls.MAGIC_PREFIX):
            return b""
        vectors = data[len(cls.MAGIC_PREFIX) :]
        try:
            for _ in walk.split(vectors):
                pass  # the walk is the check; the rules for a header's own types do not hold in here
        except ProxyProtocolSyntaxError:
            return b""
        return vectors

    def _head(self) -> bytes:
        return self.MAGIC_PREFIX

    @property
    def compression(self) -> str | None:
        """What :meth:`ssl.SSLSocket.compression` gave at the sender."""
        return self._text(ExtType.PP2_TYPE_EXT_COMPRESSION)

    @property
    def secret_bits(self) -> int | None:
        """How many secret bits the client's cipher has."""
        value = self.get(ExtType.PP2_TYPE_EXT_SECRET_BITS, b"")
        return int.from_bytes(value, "big") if len(value) == 2 else None

    @property
    def peercert(self) -> PeerCert | None:
        """What :meth:`ssl.SSLSocket.getpeercert` gave at the sender; None also where it unpacks to over 64 KiB."""
        value = self.get(ExtType.PP2_TYPE_EXT_PEERCERT)
        return None if value is None else _unpack_peercert(value)

    @property
    def dnsbl(self) -> str | None:
        """What a DNS block list said of the client."""
        return self._text(ExtType.PP2_TYPE_EXT_DNSBL)


def _pack_peercert(peercert: PeerCert) -> bytes:
    return zlib.compress(json.dumps(peercert).encode("ascii"))


def _unpack_peercert(value: bytes) -> PeerCert | None:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(value, _PEERCERT_MAX_LENGTH)
        peercert: Any = json.loads(text) if unpacker.eof else None
    except (zlib.error, ValueError, RecursionError):
        return None
    return peercert if isinstance(peercert, dict) else None


class ProxyProtocolTLV(TLV):
    """The vectors of a header.

    Args:
        data: The vectors as they are on the wire.
        init: Types and values, such as another TLV's.
        alpn: PP2_TYPE_ALPN, such as ``b"h2"``.
        authority: PP2_TYPE_AUTHORITY, the host name that the client asked for.
        crc32c: PP2_TYPE_CRC32C. ``ProxyProtocolV2.pack`` computes it anew.
        unique_id: PP2_TYPE_UNIQUE_ID, 128 bytes at most.
        ssl: PP2_TYPE_SSL; left out where it is empty.
        netns: PP2_TYPE_NETNS.
        ext: The extension of the established package, in a PP2_TYPE_NOOP; left out where it is empty.
        auto_crc32c: Whether :meth:`with_checksum` adds a CRC32C where there is none.

    Raises:
        ProxyProtocolSyntaxError: *data* is cut or has bytes left over.
        ValueError: A number is out of range, a type is not 0 to 255, or a value is too long.
    """

    __slots__ = ("_auto_crc32c", "_sent")

    _auto_crc32c: bool
    _sent: walk.Sendable | None

    def __init__(
        self,
        data: bytes = b"",
        init: Mapping[int, bytes] | None = None,
        *,
        alpn: bytes | None = None,
        authority: str | None = None,
        crc32c: int | None = None,
        unique_id: bytes | None = None,
        ssl: ProxyProtocolSSLTLV | None = None,
        netns: str | None = None,
        ext: ProxyProtocolExtTLV | None = None,
        auto_crc32c: bool = False,
    ) -> None:
        super().__init__(data, init)
        self._auto_crc32c = auto_crc32c
        self._sent = None
        self._set_all(
            {
                Type.PP2_TYPE_ALPN: alpn,
                Type.PP2_TYPE_AUTHORITY: _encode(authority),
                Type.PP2_TYPE_CRC32C: _unsigned("crc32c", crc32c, spec.CRC32C_LENGTH),
                Type.PP2_TYPE_UNIQUE_ID: unique_id,
                Type.PP2_TYPE_SSL: bytes(ssl) if ssl else None,
                Type.PP2_TYPE_NETNS: _encode(netns),
                Type.PP2_TYPE_NOOP: bytes(ext) if ext else None,
            }
        )

    @classmethod
    def from_checked(cls, wire: bytes) -> ProxyProtocolTLV:
        """Make one of vectors that the walk has passed, without a second walk."""
        self = cls.__new__(cls)
        self._wire = wire
        self._by_type = None
        self._auto_crc32c = False
        self._sent = None
        return self

    def as_sent(self) -> walk.Sendable:
        """Give the vectors ready to be sent.

        Raises:
            ProxyProtocolSyntaxError: No receiver would take these vectors.
        """
        # kept, because many send the same vectors with every connection
        if self._sent is None:
            self._sent = walk.make_sendable(self._wire)
        return self._sent

    @property
    def size(self) -> int:
        """How many bytes the vectors take on the wire, with the CRC32C that *auto_crc32c* will add."""
        return len(self._wire) + (_CRC32C_SIZE if self._will_add_crc32c() else 0)

    def _will_add_crc32c(self) -> bool:
        return self._auto_crc32c and Type.PP2_TYPE_CRC32C not in self

    @property
    def alpn(self) -> bytes | None:
        """PP2_TYPE_ALPN: the protocol above, such as ``b"h2"`` (section 2.2.1)."""
        return self.get(Type.PP2_TYPE_ALPN)

    @property
    def authority(self) -> str | None:
        """PP2_TYPE_AUTHORITY: the host name that the client asked for, with TLS its SNI (section 2.2.2)."""
        return self._text(Type.PP2_TYPE_AUTHORITY)

    @property
    def crc32c(self) -> int | None:
        """PP2_TYPE_CRC32C: the header's checksum (section 2.2.3)."""
        value = self.get(Type.PP2_TYPE_CRC32C, b"")
        return int.from_bytes(value, "big") if len(value) == spec.CRC32C_LENGTH else None

    @property
    def unique_id(self) -> bytes:
        """PP2_TYPE_UNIQUE_ID: names this connection in every log on its way; empty where there is none (2.2.5)."""
        return self.get(Type.PP2_TYPE_UNIQUE_ID, b"")

    @property
    def ssl(self) -> ProxyProtocolSSLTLV:
        """PP2_TYPE_SSL: the client's TLS; empty and false where there is none (section 2.2.6)."""
        return ProxyProtocolSSLTLV(self.get(Type.PP2_TYPE_SSL, b""))

    @property
    def netns(self) -> str | None:
        """PP2_TYPE_NETNS: the network namespace (section 2.2.7)."""
        return self._text(Type.PP2_TYPE_NETNS)

    @property
    def ext(self) -> ProxyProtocolExtTLV:
        """The extension of the established package in PP2_TYPE_NOOP; empty and false where there is none."""
        found = map(ProxyProtocolExtTLV, self.getall(Type.PP2_TYPE_NOOP))  # padding may stand beside it
        return next(filter(None, found), ProxyProtocolExtTLV())

    #: The VPC endpoint that AWS names in type 0xEA, such as ``"vpce-08d2bf15fac5001c9"``.
    aws_vpce_id = VendorText("AWS", Type.PP2_TYPE_AWS, b"\x01", "VPC endpoint")
    #: The private endpoint's LINKID that Azure names in type 0xEE, 32 bits, little-endian on the wire.
    azure_link_id = VendorNumber("AZURE", Type.PP2_TYPE_AZURE, b"\x01", "private endpoint LINKID", 32, "little")
    #: The Private Service Connect connection that Google Cloud names in type 0xE0, 64 bits.
    gcp_psc_id = VendorNumber("GCP", Type.PP2_TYPE_GCP, b"", "PSC connection", 64, "big")
    #: The client's VPC that Alibaba Cloud PrivateLink names in type 0xE1, such as ``"vpc-bp1..."``.
    alibaba_vpc_id = VendorText("ALIBABA", Type.PP2_TYPE_ALIBABA, b"\x01", "VPC")
    #: The endpoint that Alibaba Cloud PrivateLink names in type 0xE1, such as ``"ep-bp1..."``.
    alibaba_endpoint_id = VendorText("ALIBABA", Type.PP2_TYPE_ALIBABA, b"\x02", "endpoint")
    #: The endpoint service that Alibaba Cloud PrivateLink names in type 0xE1, such as ``"epsrv-bp1..."``.
    alibaba_service_id = VendorText("ALIBABA", Type.PP2_TYPE_ALIBABA, b"\x03", "endpoint service")

    def verify_checksum(self, *before: bytes) -> bool:
        """Tell whether the CRC32C is right; without one it is.

        The codec has done so for every header that it read.

        Args:
            before: The bytes of the header before the vectors.
        """
        if Type.PP2_TYPE_CRC32C not in self:
            return True
        head = b"".join(before)
        header = head + self._wire
        try:
            return walk.crc32c_matches(header, walk.check_tlvs(header, len(head), len(header)))
        except ProxyProtocolSyntaxError:
            return False

    def with_checksum(self, *before: bytes) -> ProxyProtocolTLV:
        """Give a copy with the right CRC32C, where *auto_crc32c* was asked for and there is none yet.

        ``ProxyProtocolV2.pack`` does not need this: it computes the header's checksum itself.

        Args:
            before: The bytes of the header before the vectors; the length in it must count the CRC32C.

        Raises:
            ProxyProtocolSyntaxError: No receiver would take these vectors.
        """
        if not self._will_add_crc32c():
            return ProxyProtocolTLV.from_checked(self._wire)
        wire, crc_at, _ = self.as_sent()
        checksum = compute_crc32c(b"".join(before) + wire).to_bytes(spec.CRC32C_LENGTH, "big")
        return ProxyProtocolTLV.from_checked(wire[:crc_at] + checksum + wire[crc_at + spec.CRC32C_LENGTH :])
