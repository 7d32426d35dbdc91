"""What a header says, as one of five kinds of result: immutable, comparable, hashable, picklable.

IPv4 and IPv6 results keep the address block of the wire and decode it on demand. A relay never pays for an address
object, and a log line pays only for the text.
"""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET6, AddressFamily, SocketKind, inet_ntoa, inet_ntop
from typing import Any, ClassVar, Final, Generic, TypeGuard, TypeVar, cast

from proxyprotocol._wire import spec
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.typing import Address, SockAddr

__all__ = [
    "ProxyResult",
    "ProxyResultIPv4",
    "ProxyResultIPv6",
    "ProxyResultLocal",
    "ProxyResultType",
    "ProxyResultUnix",
    "ProxyResultUnknown",
    "describe_address",
    "is_ipv4",
    "is_ipv6",
    "is_local",
    "is_unix",
    "is_unknown",
]

# One end of an address block as (address, port): in the block both addresses come first, then both ports.
_unpack_ipv4_source: Final = struct.Struct("!4s4xH2x").unpack
_unpack_ipv4_dest: Final = struct.Struct("!4x4s2xH").unpack
_unpack_ipv6_source: Final = struct.Struct("!16s16xH2x").unpack
_unpack_ipv6_dest: Final = struct.Struct("!16x16s2xH").unpack
_NO_TLV: Final = ProxyProtocolTLV()
_new: Final = object.__new__
_ResultT = TypeVar("_ResultT", bound="ProxyResult")
_InetT = TypeVar("_InetT", bound="_ProxyResultInet[Any]")
_HostT = TypeVar("_HostT", IPv4Address, IPv6Address)


class ProxyResultType(Enum):
    """The kinds of results, each with the name of its address family in the :mod:`socket` module."""

    LOCAL = (1, "AF_UNSPEC")
    UNKNOWN = (2, "AF_UNSPEC")
    IPv4 = (3, "AF_INET")
    IPv6 = (4, "AF_INET6")
    UNIX = (5, "AF_UNIX")

    @property
    def family(self) -> AddressFamily:
        """The address family. On Windows this raises AttributeError for UNIX, because there is no AF_UNIX."""
        return cast(AddressFamily, getattr(AddressFamily, self.value[1]))


class ProxyResult(ABC):
    """What a header says. :attr:`type` names the kind; functions such as ``is_ipv4()`` test for one.

    ``str(result)`` is for log lines: ``203.0.113.7:5678 -> 198.51.100.9:443``.
    """

    __slots__ = ("_protocol", "_tlv")

    _protocol: SocketKind | None
    _tlv: ProxyProtocolTLV | bytes  # the bytes of the wire, until the property is read

    #: The number of the address family in a version 2 header (section 2.2); 0 if the header names no client.
    family_number: ClassVar[int] = spec.V2_UNSPEC
    #: Whether the proxy relays a connection: False only for LOCAL.
    proxied: ClassVar[bool] = True

    _arguments: ClassVar[tuple[str, ...]] = ()  # those of the constructor, without the TLVs

    @property
    @abstractmethod
    def type(self) -> ProxyResultType:
        """Which kind of result this is."""

    @property
    @abstractmethod
    def source(self) -> Address:
        """The client's address: (IP address, port), a UNIX path, or None if the header names none."""

    @property
    @abstractmethod
    def dest(self) -> Address:
        """The address that the client connected to, of the same kind as :attr:`source`."""

    @property
    def family(self) -> AddressFamily:
        """The address family. On Windows this raises AttributeError for UNIX, because there is no AF_UNIX."""
        return self.type.family

    @property
    def protocol(self) -> SocketKind | None:
        """The kind of the client's socket, stream or datagram, if the header names it."""
        return self._protocol

    @property
    def tlv(self) -> ProxyProtocolTLV:
        """What else the header says (version 2 only)."""
        if isinstance(self._tlv, bytes):
            self._tlv = ProxyProtocolTLV.from_checked(self._tlv)
        return self._tlv

    @property
    def peername(self) -> SockAddr:
        """:attr:`source` as :meth:`socket.socket.getpeername` would return it."""
        return None

    @property
    def sockname(self) -> SockAddr:
        """:attr:`dest` as :meth:`socket.socket.getsockname` would return it."""
        return None

    def address_block(self) -> bytes:
        """Return the address block of a version 2 header (section 2.2, ``union proxy_addr``).

        Raises:
            ValueError: A UNIX path does not fit.
        """
        return b""

    def replace(self: _ResultT, **changes: Any) -> _ResultT:
        """Return a copy with other values.

        Args:
            changes: Arguments of the result's class by their names, such as ``source``, ``protocol`` and ``tlv``.

        Raises:
            TypeError: The class has no such argument.
        """
        return type(self)(**{**self._values(), "tlv": self.tlv, **changes})

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._arguments}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProxyResult):
            return NotImplemented
        return self.type is other.type and self._values() == other._values() and self.tlv == other.tlv

    def __hash__(self) -> int:
        return hash((self.type, self.peername, self.sockname, self.protocol, self.tlv))

    def __str__(self) -> str:
        if self.family_number == spec.V2_UNSPEC:
            return self.type.name
        return f"{describe_address(self.peername)} -> {describe_address(self.sockname)}"

    def __repr__(self) -> str:
        values = self._values()
        protocol = values.pop("protocol", None)
        shown = [repr(value) for value in values.values() if value is not None]
        if protocol is not None:
            shown.append(f"protocol=socket.{protocol.name}")
        if self.tlv:
            shown.append(f"tlv={self.tlv!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class ProxyResultLocal(ProxyResult):
    """The proxy speaks for itself, as in a health check (section 2.2, LOCAL). The connection's own addresses count.

    Args:
        tlv: What else the header says.
    """

    __slots__ = ()

    type = ProxyResultType.LOCAL
    source: None = None
    dest: None = None
    proxied = False

    def __init__(self, *, tlv: ProxyProtocolTLV = _NO_TLV) -> None:
        self._protocol = None
        self._tlv = tlv


class ProxyResultUnknown(ProxyResult):
    """The proxy relays a connection but does not name the client (section 2.1, UNKNOWN; section 2.2, UNSPEC).

    Args:
        exception: Why the client is unknown, if the result does not come from a header.
        tlv: What else the header says.
    """

    __slots__ = ("_exception",)

    type = ProxyResultType.UNKNOWN
    source: None = None
    dest: None = None
    _arguments = ("exception",)

    def __init__(self, exception: Exception | None = None, *, tlv: ProxyProtocolTLV = _NO_TLV) -> None:
        self._exception = exception
        self._protocol = None
        self._tlv = tlv

    @property
    def exception(self) -> Exception | None:
        """Why the client is unknown, or None."""
        return self._exception


class _ProxyResultInet(ProxyResult, Generic[_HostT]):
    """The code that IPv4 and IPv6 results share."""

    __slots__ = ("_block", "_peername")

    _arguments = ("source", "dest", "protocol")
    _host: ClassVar[Any]  # the class of an address
    _unpack_source: ClassVar[Any]  # return address and port of one end of the block
    _unpack_dest: ClassVar[Any]

    _block: bytes
    _peername: Any  # None until the property is read

    def __init__(
        self,
        source: tuple[_HostT, int],
        dest: tuple[_HostT, int],
        *,
        protocol: SocketKind | None = None,
        tlv: ProxyProtocolTLV = _NO_TLV,
    ) -> None:
        kind = self._host
        # Text works too. Making an address object again would be most of the work.
        hosts = [host.packed if isinstance(host, kind) else kind(host).packed for host in (source[0], dest[0])]
        try:
            self._block = hosts[0] + hosts[1] + struct.pack("!HH", source[1], dest[1])
        except struct.error:
            raise ValueError(f"A port is a number from 0 to 65535, not {source[1]!r} or {dest[1]!r}") from None
        self._peername = None
        self._protocol = protocol
        self._tlv = tlv

    @classmethod
    def from_block(
        cls: type[_InetT], block: bytes, protocol: SocketKind | None, vectors: bytes, peername: Any = None
    ) -> _InetT:
        """Make a result from the parts of a header that a codec has checked: address block, protocol, TLVs."""
        self = _new(cls)
        self._block = block
        self._peername = peername
        self._protocol = protocol
        self._tlv = vectors
        return self

    @property
    def source(self) -> tuple[_HostT, int]:  # type: ignore[override]  # mypy does not try the two hosts apart
        host, port = self._unpack_source(self._block)
        return self._host(host), port

    @property
    def dest(self) -> tuple[_HostT, int]:  # type: ignore[override]
        host, port = self._unpack_dest(self._block)
        return self._host(host), port

    def address_block(self) -> bytes:
        return self._block


class ProxyResultIPv4(_ProxyResultInet[IPv4Address]):
    """The client connected over IPv4.

    Args:
        source: The client's address and port.
        dest: The address and port that the client connected to.
        protocol: The kind of the client's socket, stream or datagram; None goes on the wire as a stream.
        tlv: What else the header says.

    Raises:
        ValueError: A port is not 0 to 65535.
    """

    __slots__ = ()

    type = ProxyResultType.IPv4
    family_number = spec.V2_INET
    _host = IPv4Address
    _unpack_source, _unpack_dest = _unpack_ipv4_source, _unpack_ipv4_dest

    # The globals save three look-ups in the class: every server asks for this property.
    @property
    def peername(self) -> tuple[str, int]:
        if self._peername is None:
            host, port = _unpack_ipv4_source(self._block)
            self._peername = inet_ntoa(host), port
        return self._peername  # type: ignore[no-any-return]

    @property
    def sockname(self) -> tuple[str, int]:
        host, port = _unpack_ipv4_dest(self._block)
        return inet_ntoa(host), port


class ProxyResultIPv6(_ProxyResultInet[IPv6Address]):
    """The client connected over IPv6. The arguments are those of :class:`ProxyResultIPv4`.

    Flow info and scope id are 0, because a header does not hold them.
    """

    __slots__ = ()

    type = ProxyResultType.IPv6
    family_number = spec.V2_INET6
    _host = IPv6Address
    _unpack_source, _unpack_dest = _unpack_ipv6_source, _unpack_ipv6_dest

    @property
    def peername(self) -> tuple[str, int, int, int]:
        if self._peername is None:
            host, port = _unpack_ipv6_source(self._block)
            self._peername = inet_ntop(AF_INET6, host), port, 0, 0
        return self._peername  # type: ignore[no-any-return]

    @property
    def sockname(self) -> tuple[str, int, int, int]:
        host, port = _unpack_ipv6_dest(self._block)
        return inet_ntop(AF_INET6, host), port, 0, 0


class ProxyResultUnix(ProxyResult):
    """The client connected over a UNIX socket.

    Args:
        source: The path of the client's socket: empty for an unnamed socket, with a NUL first for an abstract one.
        dest: The path that the client connected to.
        protocol: The kind of the client's socket, stream or datagram; None goes on the wire as a stream.
        tlv: What else the header says.
    """

    __slots__ = ("_dest", "_source")

    type = ProxyResultType.UNIX
    family_number = spec.V2_UNIX
    _arguments = ("source", "dest", "protocol")

    def __init__(
        self, source: str, dest: str, *, protocol: SocketKind | None = None, tlv: ProxyProtocolTLV = _NO_TLV
    ) -> None:
        self._source = source
        self._dest = dest
        self._protocol = protocol
        self._tlv = tlv

    @classmethod
    def from_block(cls, block: bytes, protocol: SocketKind | None, vectors: bytes) -> ProxyResultUnix:
        """Make a result from the parts of a header, as :meth:`ProxyResultIPv4.from_block` does."""
        half = spec.UNIX_PATH_LENGTH
        self = cls(_unpack_path(block[:half]), _unpack_path(block[half:]), protocol=protocol)
        self._tlv = vectors
        return self

    def address_block(self) -> bytes:
        return _pack_path(self._source) + _pack_path(self._dest)

    @property
    def source(self) -> str:
        """The path of the client's socket."""
        return self._source

    @property
    def dest(self) -> str:
        """The path that the client connected to."""
        return self._dest

    @property
    def peername(self) -> str:
        return self._source

    @property
    def sockname(self) -> str:
        return self._dest


def _unpack_path(field: bytes) -> str:
    # An abstract name starts with a NUL and may hold others, so the padding looks like part of it.
    return os.fsdecode(field.rstrip(b"\0") if field[:1] == b"\0" else field.partition(b"\0")[0])


def _pack_path(path: str) -> bytes:
    name, limit = os.fsencode(path), spec.UNIX_PATH_LENGTH
    if _unpack_path(name) != path:
        raise ValueError(
            f"A header would cut the UNIX path {path!r}: only an abstract name holds NULs, and none at its end"
        )
    if len(name) > limit:
        raise ValueError(f"A UNIX path of {len(name)} bytes does not fit in a header, {limit} are the most: {path!r}")
    return name.ljust(limit, b"\0")


def is_local(result: ProxyResult) -> TypeGuard[ProxyResultLocal]:
    """Return whether *result* is a :class:`ProxyResultLocal`."""
    return result.type is ProxyResultType.LOCAL


def is_unknown(result: ProxyResult) -> TypeGuard[ProxyResultUnknown]:
    """Return whether *result* is a :class:`ProxyResultUnknown`."""
    return result.type is ProxyResultType.UNKNOWN


def is_ipv4(result: ProxyResult) -> TypeGuard[ProxyResultIPv4]:
    """Return whether *result* is a :class:`ProxyResultIPv4`."""
    return result.type is ProxyResultType.IPv4


def is_ipv6(result: ProxyResult) -> TypeGuard[ProxyResultIPv6]:
    """Return whether *result* is a :class:`ProxyResultIPv6`."""
    return result.type is ProxyResultType.IPv6


def is_unix(result: ProxyResult) -> TypeGuard[ProxyResultUnix]:
    """Return whether *result* is a :class:`ProxyResultUnix`."""
    return result.type is ProxyResultType.UNIX


def describe_address(address: SockAddr) -> str:
    """Describe an address for a log line.

    Args:
        address: The address, as the socket module returns it.
    """
    if isinstance(address, (tuple, list)) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    if address:
        return f"UNIX socket {address!a}"
    return "an unnamed UNIX socket" if address == "" else "an unknown address"
