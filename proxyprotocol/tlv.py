"""Type-Length-Value vectors, which follow the addresses in a version 2 header (section 2.2).

A TLV keeps the wire's order and its duplicates, and decodes a value only when you read it. Each field is one row in the
body of its class: to add a vendor's field, add a row to :class:`ProxyProtocolTLV`.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator, Mapping
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from proxyprotocol._wire import fields, spec, walk
from proxyprotocol._wire.fields import CERTIFICATE, RAW, TEXT, Field, Fields, Flag, Form, Keyword, number, vendor
from proxyprotocol.errors import ProxyProtocolSyntaxError
from proxyprotocol.typing import PeerCert

if TYPE_CHECKING:
    from dataclasses import InitVar

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
    """The registered types and sub-types (section 2.2), and the types of four vendors."""

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
    """The types inside the extension that `proxy-protocol` hides in a PP2_TYPE_NOOP."""

    PP2_TYPE_EXT_COMPRESSION = 0x01
    PP2_TYPE_EXT_SECRET_BITS = 0x02
    PP2_TYPE_EXT_PEERCERT = 0x03
    PP2_TYPE_EXT_DNSBL = 0x04


_SSL_HEAD: Final = struct.Struct("!BL")

_Text: TypeAlias = "Field[str, str | None]"
_Number: TypeAlias = "Field[int, int | None]"
_Raw: TypeAlias = "Field[bytes, bytes | None]"


class TLV(Fields, Mapping[int, bytes], Hashable):
    """Vectors by their type: ``tlv[0xE2]`` is the value of the last vector of that type.

    Two TLVs are equal if each type has the same values in the same order; the order of different types does not count.
    ``bytes(tlv)`` returns the bytes of the wire.

    Args:
        data: The vectors as on the wire.
        init: Types and values, such as another TLV. They replace the values of their type in *data*. A new type goes
            before the first greater type, so a TLV that is made from a mapping alone is in ascending order.

    Raises:
        ProxyProtocolSyntaxError: *data* is cut short or has bytes left over.
        ValueError: A type is not 0 to 255, or a value is longer than 65,535 bytes.
    """

    __slots__ = ("_by_type", "_wire")

    if TYPE_CHECKING:
        # for the constructors of the subclasses, see Fields
        data: InitVar[bytes] = fields.positional(default=b"", kw_only=False)
        init: InitVar[Mapping[int, bytes] | None] = fields.positional(default=None, kw_only=False)

    def __init__(self, data: bytes = b"", init: Mapping[int, bytes] | None = None, **given: Any) -> None:
        self._by_type: dict[int, list[bytes]] | None = None
        self._wire: bytes = self._read_head(bytes(data), init)
        walk.check_tlvs(self._wire, 0, len(self._wire), walk.UNCHECKED)
        if isinstance(init, TLV):
            self._wire = walk.merge(self._wire, init._index())
        elif init:
            self._wire = walk.merge(self._wire, {int(kind): [value] for kind, value in init.items()})
        self._set_fields(given)

    def _read_head(self, data: bytes, init: Mapping[int, bytes] | None) -> bytes:
        """Read the bytes before the vectors, and return the vectors."""
        return data

    def _head(self) -> bytes:
        """Return the bytes before the vectors."""
        return b""

    def _set_fields(self, given: dict[str, Any]) -> None:
        """Set fields by their names, and consume *given*. Only constructors call this: a TLV does not change later."""
        rows = fields.rows(type(self))
        written: dict[int, list[bytes]] = {}
        for name, value in given.items():
            row = rows.get(name)
            if row is None:
                raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}")
            try:
                encoded = None if value is None else row.form.encode(value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if encoded is not None:
                others = written.get(row.number) or self.getall(row.number)
                # a vendor's TLVs of other sub-types stay
                kept = [other for other in others if row.what and row.form.decode(other) is None]
                written[row.number] = [*kept, encoded]
        if written:
            self._wire, self._by_type = walk.merge(self._wire, written), None

    def _index(self) -> dict[int, list[bytes]]:
        if self._by_type is None:
            self._by_type = {}
            for kind, value in walk.split(self._wire):
                self._by_type.setdefault(kind, []).append(value)
        return self._by_type

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
        """The size of the vectors on the wire, in bytes."""
        return len(self._wire)

    def getall(self, type_num: int) -> list[bytes]:
        """Return every value of a type, in the wire's order.

        Args:
            type_num: The type, 0 to 255.
        """
        return list(self._index().get(type_num, ()))


class ProxyProtocolSSLTLV(TLV):
    """The value of PP2_TYPE_SSL: client flags, a verify code, then vectors of sub-types (section 2.2.6).

    Every field below is also a keyword of the constructor, and so are :attr:`has_ssl`, :attr:`has_cert_conn`,
    :attr:`has_cert_sess` and :attr:`verified`. ``verified=False`` sends a verify code of 1.

    Args:
        data: The value as on the wire, with flags and verify code. A malformed value counts as empty.
        init: Sub-types and values, such as another TLV of this class.
    """

    __slots__ = ("_client", "_verify")

    has_ssl: Flag = Flag(SSLClient.PP2_CLIENT_SSL, "whether the client connected over TLS")
    has_cert_conn: Flag = Flag(SSLClient.PP2_CLIENT_CERT_CONN, "whether it showed a certificate over this connection")
    has_cert_sess: Flag = Flag(SSLClient.PP2_CLIENT_CERT_SESS, "whether it showed one over this TLS session")
    verified: Keyword[bool, bool] = Keyword(
        lambda ssl: ssl.verify == 0,
        "whether the verify field is 0. Senders also write 0 *without a certificate*: see :attr:`client_verified`",
    )
    version: _Text = Field(Type.PP2_SUBTYPE_SSL_VERSION, TEXT, "the version of TLS, such as TLSv1.3")
    cn: _Text = Field(Type.PP2_SUBTYPE_SSL_CN, TEXT, "the common name in the client's certificate, verified or not")
    cipher: _Text = Field(Type.PP2_SUBTYPE_SSL_CIPHER, TEXT, "the cipher")
    sig_alg: _Text = Field(Type.PP2_SUBTYPE_SSL_SIG_ALG, TEXT, "the algorithm that signed the frontend's certificate")
    key_alg: _Text = Field(Type.PP2_SUBTYPE_SSL_KEY_ALG, TEXT, "the algorithm of the key in the frontend's certificate")
    group: _Text = Field(Type.PP2_SUBTYPE_SSL_GROUP, TEXT, "the group of the key exchange")
    sig_scheme: _Text = Field(Type.PP2_SUBTYPE_SSL_SIG_SCHEME, TEXT, "the scheme of the signature in the handshake")
    client_cert: _Raw = Field(
        Type.PP2_SUBTYPE_SSL_CLIENT_CERT, CERTIFICATE, "the client's certificate in DER, verified or not"
    )

    def _read_head(self, data: bytes, init: Mapping[int, bytes] | None) -> bytes:
        self._client, self._verify = 0, 1
        if isinstance(init, ProxyProtocolSSLTLV):
            self._client, self._verify = init._client, init._verify
        try:
            walk.check_ssl(data, 0, 0, len(data))
        except ProxyProtocolSyntaxError:
            return b""
        self._client, self._verify = _SSL_HEAD.unpack_from(data)
        return data[spec.SSL_HEAD_LENGTH :]

    def _set_fields(self, given: dict[str, Any]) -> None:
        for name in list(given):
            flag = getattr(type(self), name, None)
            if isinstance(flag, Flag) and (value := given.pop(name)) is not None:
                self._client = self._client | flag.bit if value else self._client & ~flag.bit
        verified = given.pop("verified", None)
        if verified is not None:
            self._verify = 0 if verified else self._verify or 1
        super()._set_fields(given)

    def _head(self) -> bytes:
        return _SSL_HEAD.pack(self._client, self._verify)

    def __bool__(self) -> bool:
        return bool(self._wire) or (self._client, self._verify) != (0, 1)

    @property
    def client(self) -> SSLClient:
        """The client field: flags that describe the client's TLS."""
        return SSLClient(self._client)

    @property
    def verify(self) -> int:
        """The verify field: 0, or why the certificate was not accepted."""
        return self._verify

    @property
    def client_verified(self) -> bool:
        """Whether the client showed a certificate that the sender verified. Otherwise :attr:`cn` proves nothing."""
        return self.verified and (self.has_cert_conn or self.has_cert_sess)


class ProxyProtocolExtTLV(TLV):
    """The extension that `proxy-protocol` hides in a PP2_TYPE_NOOP. Other receivers ignore it.

    Every field below is also a keyword of the constructor.

    Args:
        data: The value of the NOOP. Any other value, and a malformed one, counts as empty.
        init: Types and values, such as another TLV of this class.
    """

    __slots__ = ()

    #: The first bytes of the NOOP's value.
    MAGIC_PREFIX: ClassVar[bytes] = b"\x88\x1by\xc1\xce\x96\x85\xb0"

    compression: _Text = Field(
        ExtType.PP2_TYPE_EXT_COMPRESSION, TEXT, "what :meth:`ssl.SSLSocket.compression` returned to the sender"
    )
    secret_bits: _Number = Field(ExtType.PP2_TYPE_EXT_SECRET_BITS, number(16), "the secret bits of the client's cipher")
    peercert: Field[PeerCert, PeerCert | None] = Field(
        ExtType.PP2_TYPE_EXT_PEERCERT,
        fields.PEERCERT,
        "what :meth:`ssl.SSLSocket.getpeercert` returned to the sender; None if it unpacks to over 64 KiB",
    )
    dnsbl: _Text = Field(ExtType.PP2_TYPE_EXT_DNSBL, TEXT, "what a DNS block list said about the client")

    def _read_head(self, data: bytes, init: Mapping[int, bytes] | None) -> bytes:
        if not data.startswith(self.MAGIC_PREFIX):
            return b""
        vectors = data[len(self.MAGIC_PREFIX) :]
        try:
            walk.check_tlvs(vectors, 0, len(vectors), walk.UNCHECKED)  # the rules for a header's types do not apply
        except ProxyProtocolSyntaxError:
            return b""
        return vectors

    def _head(self) -> bytes:
        return self.MAGIC_PREFIX


def _pack_nested(tlv: TLV) -> bytes | None:
    return bytes(tlv) if tlv else None


_SSL: Final = Form(ProxyProtocolSSLTLV, ProxyProtocolSSLTLV, _pack_nested)
_EXT: Final = Form(ProxyProtocolExtTLV, lambda value: ProxyProtocolExtTLV(value) or None, _pack_nested)


class ProxyProtocolTLV(TLV):
    """The vectors of a header. Every field below is also a keyword of the constructor.

    An empty *ssl* or *ext* is left out. ``ProxyProtocolV2.pack`` replaces *crc32c*.

    Args:
        data: The vectors as on the wire.
        init: Types and values, such as another TLV.

    Raises:
        ProxyProtocolSyntaxError: *data* is cut short or has bytes left over.
        ValueError: A number is out of range, a type is not 0 to 255, or a value is too long.
    """

    __slots__ = ("_around", "_auto_crc32c")

    alpn: _Raw = Field(Type.PP2_TYPE_ALPN, RAW, "the protocol above, such as h2", "2.2.1", "NAME")
    authority: _Text = Field(Type.PP2_TYPE_AUTHORITY, TEXT, "the host name that the client asked for", "2.2.2", "HOST")
    crc32c: _Number = Field(Type.PP2_TYPE_CRC32C, number(32), "the checksum of the header", "2.2.3")
    unique_id: Field[bytes, bytes] = Field(
        Type.PP2_TYPE_UNIQUE_ID, RAW, "the connection's name in logs, 128 bytes at most", "2.2.5", "ID", missing=b""
    )
    ssl: Field[ProxyProtocolSSLTLV, ProxyProtocolSSLTLV] = Field(
        Type.PP2_TYPE_SSL, _SSL, "the client's TLS; without it empty and false", "2.2.6", missing=ProxyProtocolSSLTLV()
    )
    netns: _Text = Field(Type.PP2_TYPE_NETNS, TEXT, "the network namespace", "2.2.7", "NAME")
    ext: Field[ProxyProtocolExtTLV, ProxyProtocolExtTLV] = Field(
        Type.PP2_TYPE_NOOP, _EXT, "`proxy-protocol`'s extension, or empty", label="NOOP", missing=ProxyProtocolExtTLV()
    )
    auto_crc32c: Keyword[bool, bool] = Keyword(
        lambda tlv: tlv._auto_crc32c, "whether :meth:`with_checksum` adds a CRC32C if there is none", default=False
    )
    aws_vpce_id: _Text = vendor("AWS", Type.PP2_TYPE_AWS, b"\x01", TEXT, "VPC endpoint")
    azure_link_id: _Number = vendor(
        "Azure", Type.PP2_TYPE_AZURE, b"\x01", number(32, "little"), "private endpoint LINKID", "N"
    )
    gcp_psc_id: _Number = vendor("GCP", Type.PP2_TYPE_GCP, b"", number(64), "PSC connection", "N")
    alibaba_vpc_id: _Text = vendor("Alibaba Cloud", Type.PP2_TYPE_ALIBABA, b"\x01", TEXT, "VPC")
    alibaba_endpoint_id: _Text = vendor("Alibaba Cloud", Type.PP2_TYPE_ALIBABA, b"\x02", TEXT, "endpoint")
    alibaba_service_id: _Text = vendor("Alibaba Cloud", Type.PP2_TYPE_ALIBABA, b"\x03", TEXT, "endpoint service")

    def _set_fields(self, given: dict[str, Any]) -> None:
        self._around: tuple[bytes, bytes] | None = None
        self._auto_crc32c = bool(given.pop("auto_crc32c", False))
        super()._set_fields(given)

    @classmethod
    def from_checked(cls, wire: bytes) -> ProxyProtocolTLV:
        """Make a TLV from vectors that a codec has checked, without a second walk."""
        self = cls.__new__(cls)
        self._wire = wire
        self._by_type = None
        self._auto_crc32c = False
        self._around = None
        return self

    def around_crc32c(self) -> tuple[bytes, bytes]:
        """Return the vectors that go before the CRC32C of a header, and those that go after it.

        Raises:
            ProxyProtocolSyntaxError: A receiver would reject these vectors.
        """
        # kept, because many senders send the same vectors with every connection
        if self._around is None:
            self._around = walk.around_crc32c(self._wire)
        return self._around

    @property
    def size(self) -> int:
        """The size of the vectors on the wire, in bytes, with the CRC32C that *auto_crc32c* will add."""
        return len(self._wire) + (walk.CRC32C_SIZE if self._will_add_crc32c() else 0)

    def _will_add_crc32c(self) -> bool:
        return self._auto_crc32c and Type.PP2_TYPE_CRC32C not in self

    def verify_checksum(self, *before: bytes) -> bool:
        """Return whether the CRC32C is right or missing. The codecs have checked it in a header that they read.

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
        """Return a copy with the right CRC32C, if *auto_crc32c* asks for one and there is none yet.

        ``ProxyProtocolV2.pack`` does not need this: it computes the checksum itself.

        Args:
            before: The bytes of the header before the vectors; the length in it must count the CRC32C.

        Raises:
            ProxyProtocolSyntaxError: A receiver would reject these vectors.
        """
        if not self._will_add_crc32c():
            return ProxyProtocolTLV.from_checked(self._wire)
        head = b"".join(before)
        vectors, after = self.around_crc32c()
        return ProxyProtocolTLV.from_checked(walk.join_with_crc32c(head + vectors, after)[len(head) :])
