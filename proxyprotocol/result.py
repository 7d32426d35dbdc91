"""What a header says, as one of five kinds of result: immutable, comparable, hashable, picklable.

IPv4 and IPv6 results keep the address block of the wire and decode it when asked: a relay never pays for an address
object, and a log line pays for the text alone.
"""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET6, AddressFamily, SocketKind, inet_ntoa, inet_ntop
from typing import Any, ClassVar, Final, Generic, Literal, TypeGuard, TypeVar

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

_PORTS: Final = struct.Struct("!HH")
# one end of an address block as (address, port): both addresses come first, then both ports
_IPV4_SOURCE: Final = struct.Struct("!4s4xH2x")
_IPV4_DEST: Final = struct.Struct("!4x4s2xH")
_IPV6_SOURCE: Final = struct.Struct("!16s16xH2x")
_IPV6_DEST: Final = struct.Struct("!16x16s2xH")
_unpack_ipv4_source: Final = _IPV4_SOURCE.unpack
_unpack_ipv6_source: Final = _IPV6_SOURCE.unpack
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
        """The address family.

        Raises:
            AttributeError: This platform has no such family, as Windows has no AF_UNIX.
        """
        family: AddressFamily = getattr(AddressFamily, self.value[1])
        return family


class ProxyResult(ABC):
    """What a header says. :attr:`type` names the kind, and so do ``is_ipv4()`` and its siblings.

    ``str(result)`` is for log lines: ``203.0.113.7:5678 -> 198.51.100.9:443``.
    """

    __slots__ = ("_tlv",)

    # the vectors of the wire, until somebody asks for them as an object
    _tlv: ProxyProtocolTLV | bytes

    #: The number of the address family in a version 2 header (section 2.2); 0 where the header names no client.
    family_number: ClassVar[int] = spec.V2_UNSPEC

    @property
    @abstractmethod
    def type(self) -> ProxyResultType:
        """Which kind of result this is."""

    @property
    @abstractmethod
    def source(self) -> Address:
        """The client's address: (IP address, port), a UNIX path, or None where the header gives none."""

    @property
    @abstractmethod
    def dest(self) -> Address:
        """The address that the client connected to, of the kind that :attr:`source` is."""

    @property
    def family(self) -> AddressFamily:
        """The address family.

        Raises:
            AttributeError: This platform has no such family; :attr:`type` never raises.
        """
        return self.type.family

    @property
    def protocol(self) -> SocketKind | None:
        """The kind of the client's socket, stream or datagram, where the header says it."""
        return None

    @property
    def tlv(self) -> ProxyProtocolTLV:
        """What else the header says (version 2 only)."""
        if isinstance(self._tlv, bytes):
            self._tlv = ProxyProtocolTLV.from_checked(self._tlv)
        return self._tlv

    @property
    def proxied(self) -> bool:
        """Whether the connection was relayed: False for LOCAL alone."""
        return True

    @property
    def peername(self) -> SockAddr:
        """:attr:`source` as :meth:`socket.socket.getpeername` would return it."""
        return None

    @property
    def sockname(self) -> SockAddr:
        """:attr:`dest` as :meth:`socket.socket.getsockname` would return it."""
        return None

    def address_block(self) -> bytes:
        """Return the address block of a version 2 header (section 2.2, ``union proxy_addr``)."""
        return b""

    def replace(self: _ResultT, **changes: Any) -> _ResultT:
        """Return a copy with other values.

        Args:
            changes: Keywords of the result's class, such as ``tlv`` and ``protocol``.

        Raises:
            TypeError: The class has no such keyword.
        """
        return type(self)(**{**self._arguments(), "tlv": self.tlv, **changes})

    def _arguments(self) -> dict[str, Any]:
        """The arguments that make this result, except the TLVs."""
        return {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProxyResult):
            return NotImplemented
        return self.type is other.type and self._arguments() == other._arguments() and self.tlv == other.tlv

    def __hash__(self) -> int:
        return hash((self.type, self.peername, self.sockname, self.protocol, self.tlv))

    def __str__(self) -> str:
        if self.family_number == spec.V2_UNSPEC:
            return self.type.name
        return f"{describe_address(self.peername)} -> {describe_address(self.sockname)}"

    def __repr__(self) -> str:
        arguments = self._arguments()
        protocol = arguments.pop("protocol", None)
        shown = [repr(argument) for argument in arguments.values() if argument is not None]
        if protocol is not None:
            shown.append(f"protocol=socket.{protocol.name}")
        if self.tlv:
            shown.append(f"tlv={self.tlv!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class ProxyResultLocal(ProxyResult):
    """The proxy speaks for itself, as its health checks do (section 2.2, LOCAL): the real addresses count.

    Args:
        tlv: What else the header says.
    """

    __slots__ = ()

    type = ProxyResultType.LOCAL

    def __init__(self, *, tlv: ProxyProtocolTLV = _NO_TLV) -> None:
        self._tlv = tlv

    @property
    def source(self) -> None:
        """None: the real connection's address counts."""

    @property
    def dest(self) -> None:
        """None: the real connection's address counts."""

    @property
    def proxied(self) -> Literal[False]:
        """False: the proxy relayed nobody's connection."""
        return False


class ProxyResultUnknown(ProxyResult):
    """The proxy relayed a connection without naming the client (section 2.1, UNKNOWN; section 2.2, UNSPEC).

    Args:
        exception: Why the client is unknown, for results that were not read from a header.
        tlv: What else the header says.
    """

    __slots__ = ("_exception",)

    type = ProxyResultType.UNKNOWN

    def __init__(self, exception: Exception | None = None, *, tlv: ProxyProtocolTLV = _NO_TLV) -> None:
        self._exception = exception
        self._tlv = tlv

    @property
    def exception(self) -> Exception | None:
        """Why the client is unknown, where that is known."""
        return self._exception

    @property
    def source(self) -> None:
        """None: the client is unknown."""

    @property
    def dest(self) -> None:
        """None: the client is unknown."""

    def _arguments(self) -> dict[str, Any]:
        return {"exception": self._exception}


class _ProxyResultInet(ProxyResult, Generic[_HostT]):
    """The code that IPv4 and IPv6 results share; they differ in sizes and types."""

    __slots__ = ("_block", "_peername", "_protocol")

    _source_end: ClassVar[struct.Struct]
    _dest_end: ClassVar[struct.Struct]
    _host: ClassVar[Any]  # the class of an address

    _block: bytes
    _peername: Any  # None until somebody asks for it
    _protocol: SocketKind | None

    def __init__(
        self,
        source: tuple[_HostT, int],
        dest: tuple[_HostT, int],
        *,
        protocol: SocketKind | None = None,
        tlv: ProxyProtocolTLV = _NO_TLV,
    ) -> None:
        kind = self._host
        # Text is taken too. An address object is not made again, which would be most of the work.
        hosts = [host.packed if isinstance(host, kind) else kind(host).packed for host in (source[0], dest[0])]
        try:
            self._block = hosts[0] + hosts[1] + _PORTS.pack(source[1], dest[1])
        except struct.error:
            ports = f"{source[1]!r} or {dest[1]!r}"
            raise ValueError(f"A port is a number from 0 to {spec.MAX_PORT}, not {ports}") from None
        self._peername = None
        self._protocol = protocol
        self._tlv = tlv

    @classmethod
    def from_block(
        cls: type[_InetT], block: bytes, protocol: SocketKind | None, vectors: bytes, peername: Any = None
    ) -> _InetT:
        """Make a result from the parts of a header that a codec has checked.

        Args:
            block: The address block, of the family's size.
            protocol: Whether the client's socket is a stream or a datagram one.
            vectors: The TLVs as they are on the wire.
            peername: The value of :attr:`peername`, where the codec has it already.
        """
        self = _new(cls)
        self._block = block
        self._peername = peername
        self._protocol = protocol
        self._tlv = vectors
        return self

    @property
    def protocol(self) -> SocketKind | None:
        """The kind of the client's socket, stream or datagram, where the header says it."""
        return self._protocol

    @property
    def source(self) -> tuple[_HostT, int]:  # type: ignore[override]  # mypy does not try the two hosts apart
        """The client's address and port."""
        host, port = self._source_end.unpack(self._block)
        return self._host(host), port

    @property
    def dest(self) -> tuple[_HostT, int]:  # type: ignore[override]
        """The address and port that the client connected to."""
        host, port = self._dest_end.unpack(self._block)
        return self._host(host), port

    def address_block(self) -> bytes:
        """Return the address block of a version 2 header (section 2.2, ``union proxy_addr``)."""
        return self._block

    def _arguments(self) -> dict[str, Any]:
        return {"source": self.source, "dest": self.dest, "protocol": self._protocol}


class ProxyResultIPv4(_ProxyResultInet[IPv4Address]):
    """The client connected over IPv4.

    Args:
        source: The client's address and port.
        dest: The address and port that it connected to.
        protocol: Whether its socket is a stream or a datagram one. A result without goes on the wire as a stream.
        tlv: What else the header says.

    Raises:
        ValueError: A port is not 0 to 65535.
    """

    __slots__ = ()

    type = ProxyResultType.IPv4
    family_number = spec.V2_INET
    _source_end, _dest_end = _IPV4_SOURCE, _IPV4_DEST
    _host = IPv4Address

    @property
    def peername(self) -> tuple[str, int]:
        """:attr:`source` as :meth:`socket.socket.getpeername` would return it."""
        if self._peername is None:
            host, port = _unpack_ipv4_source(self._block)
            self._peername = inet_ntoa(host), port
        peername: tuple[str, int] = self._peername
        return peername

    @property
    def sockname(self) -> tuple[str, int]:
        """:attr:`dest` as :meth:`socket.socket.getsockname` would return it."""
        host, port = _IPV4_DEST.unpack(self._block)
        return inet_ntoa(host), port


class ProxyResultIPv6(_ProxyResultInet[IPv6Address]):
    """The client connected over IPv6. A header has no place for a scope id.

    Args:
        source: The client's address and port.
        dest: The address and port that it connected to.
        protocol: Whether its socket is a stream or a datagram one. A result without goes on the wire as a stream.
        tlv: What else the header says.

    Raises:
        ValueError: A port is not 0 to 65535.
    """

    __slots__ = ()

    type = ProxyResultType.IPv6
    family_number = spec.V2_INET6
    _source_end, _dest_end = _IPV6_SOURCE, _IPV6_DEST
    _host = IPv6Address

    @property
    def peername(self) -> tuple[str, int, int, int]:
        """:attr:`source` as :meth:`socket.socket.getpeername` would return it, flow info and scope id being 0."""
        if self._peername is None:
            host, port = _unpack_ipv6_source(self._block)
            self._peername = inet_ntop(AF_INET6, host), port, 0, 0
        peername: tuple[str, int, int, int] = self._peername
        return peername

    @property
    def sockname(self) -> tuple[str, int, int, int]:
        """:attr:`dest` as :meth:`socket.socket.getsockname` would return it, flow info and scope id being 0."""
        host, port = _IPV6_DEST.unpack(self._block)
        return inet_ntop(AF_INET6, host), port, 0, 0


def _unpack_path(field: bytes) -> str:
    # An abstract name begins with a NUL and may hold more of them; the padding behind it cannot be told from it.
    name = field.rstrip(b"\0") if field[:1] == b"\0" else field.partition(b"\0")[0]
    return os.fsdecode(name)


def _pack_path(path: str) -> bytes:
    name = os.fsencode(path)
    if _unpack_path(name) != path:
        raise ValueError(
            f"A UNIX path ends at its first NUL, an abstract name has none at its end: {path!r} would be cut"
        )
    if len(name) > spec.UNIX_PATH_LENGTH:
        limit = spec.UNIX_PATH_LENGTH
        raise ValueError(f"A UNIX path of {len(name)} bytes does not fit in a header, {limit} are the most: {path!r}")
    return name.ljust(spec.UNIX_PATH_LENGTH, b"\0")


class ProxyResultUnix(ProxyResult):
    """The client connected over a UNIX socket.

    Args:
        source: The path of the client's socket, empty for an unnamed one, beginning with a NUL for an abstract one.
        dest: The path that it connected to.
        protocol: Whether its socket is a stream or a datagram one. A result without goes on the wire as a stream.
        tlv: What else the header says.
    """

    __slots__ = ("_dest", "_protocol", "_source")

    type = ProxyResultType.UNIX
    family_number = spec.V2_UNIX

    def __init__(
        self,
        source: str,
        dest: str,
        *,
        protocol: SocketKind | None = None,
        tlv: ProxyProtocolTLV = _NO_TLV,
    ) -> None:
        self._source = source
        self._dest = dest
        self._protocol = protocol
        self._tlv = tlv

    @classmethod
    def from_block(cls, block: bytes, protocol: SocketKind | None, vectors: bytes) -> ProxyResultUnix:
        """Make a result from the parts of a header that a codec has checked.

        Args:
            block: The address block, of the family's size.
            protocol: Whether the client's socket is a stream or a datagram one.
            vectors: The TLVs as they are on the wire.
        """
        half = spec.UNIX_PATH_LENGTH
        self = cls(_unpack_path(block[:half]), _unpack_path(block[half:]), protocol=protocol)
        self._tlv = vectors
        return self

    def address_block(self) -> bytes:
        """Return the address block of a version 2 header (section 2.2, ``union proxy_addr``).

        Raises:
            ValueError: A path does not fit.
        """
        return _pack_path(self._source) + _pack_path(self._dest)

    @property
    def protocol(self) -> SocketKind | None:
        """The kind of the client's socket, stream or datagram, where the header says it."""
        return self._protocol

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
        """:attr:`source`."""
        return self._source

    @property
    def sockname(self) -> str:
        """:attr:`dest`."""
        return self._dest

    def _arguments(self) -> dict[str, Any]:
        return {"source": self._source, "dest": self._dest, "protocol": self._protocol}


def is_local(result: ProxyResult) -> TypeGuard[ProxyResultLocal]:
    """Return whether the proxy spoke for itself.

    Args:
        result: The result.
    """
    return result.type is ProxyResultLocal.type


def is_unknown(result: ProxyResult) -> TypeGuard[ProxyResultUnknown]:
    """Return whether the connection was relayed for a client that is not known.

    Args:
        result: The result.
    """
    return result.type is ProxyResultUnknown.type


def is_ipv4(result: ProxyResult) -> TypeGuard[ProxyResultIPv4]:
    """Return whether the client connected over IPv4.

    Args:
        result: The result.
    """
    return result.type is ProxyResultIPv4.type


def is_ipv6(result: ProxyResult) -> TypeGuard[ProxyResultIPv6]:
    """Return whether the client connected over IPv6.

    Args:
        result: The result.
    """
    return result.type is ProxyResultIPv6.type


def is_unix(result: ProxyResult) -> TypeGuard[ProxyResultUnix]:
    """Return whether the client connected over a UNIX socket.

    Args:
        result: The result.
    """
    return result.type is ProxyResultUnix.type


def describe_address(address: SockAddr) -> str:
    """Describe an address for a log line.

    Args:
        address: The address, as the socket module returns it.
    """
    if isinstance(address, (tuple, list)) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return (
        f"UNIX socket {address!a}" if address else "an unnamed UNIX socket" if address == "" else "an unknown address"
    )
