"""Floor 1: what a header says, as one of five kinds of result: immutable, comparable, hashable, picklable.

IPv4 and IPv6 results keep the address block as it is on the wire and decode it when asked: whoever relays a header
never pays for an address object, and who logs a client pays for its text alone.
"""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET6, AddressFamily, SocketKind, inet_ntoa, inet_ntop
from typing import Any, ClassVar, Final, Literal, TypeGuard, TypeVar

from . import _wire
from .tlv import ProxyProtocolTLV
from .typing import Address, SockAddr

__all__ = [
    "ProxyResult",
    "ProxyResultIPv4",
    "ProxyResultIPv6",
    "ProxyResultLocal",
    "ProxyResultType",
    "ProxyResultUnix",
    "ProxyResultUnknown",
    "is_ipv4",
    "is_ipv6",
    "is_local",
    "is_unix",
    "is_unknown",
]

_PORTS: Final = struct.Struct("!HH")
# one end of an address block: both addresses come first, then both ports
_IPV4_SOURCE: Final = struct.Struct("!4s4xH2x").unpack
_IPV4_DEST: Final = struct.Struct("!4x4s2xH").unpack
_IPV6_SOURCE: Final = struct.Struct("!16s16xH2x").unpack
_IPV6_DEST: Final = struct.Struct("!16x16s2xH").unpack
_NO_TLV: Final = ProxyProtocolTLV()
_new: Final = object.__new__
_InetT = TypeVar("_InetT", bound="_ProxyResultInet")


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
    """What a header says. The kinds are told apart by :attr:`type`, or by ``is_ipv4()`` and its siblings."""

    __slots__ = ("_tlv",)

    # the vectors as they came, until somebody asks for them as an object
    _tlv: ProxyProtocolTLV | bytes
    _family: ClassVar[int] = _wire.V2_UNSPEC

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
        """Whether the client's is a stream or a datagram socket, where the header says so."""
        return None

    @property
    def tlv(self) -> ProxyProtocolTLV:
        """What else the header says (version 2 only)."""
        if isinstance(self._tlv, bytes):
            self._tlv = ProxyProtocolTLV._from_checked(self._tlv)
        return self._tlv

    @property
    def proxied(self) -> bool:
        """Whether the connection was relayed: False for LOCAL alone."""
        return True

    @property
    def peername(self) -> SockAddr:
        """:attr:`source` as :meth:`socket.socket.getpeername` would give it."""
        return None

    @property
    def sockname(self) -> SockAddr:
        """:attr:`dest` as :meth:`socket.socket.getsockname` would give it."""
        return None

    def _addresses(self) -> bytes:
        """The address block of a version 2 header."""
        return b""

    def _arguments(self) -> list[Any]:
        """What tells this result from others of its kind, the vectors apart."""
        return []

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProxyResult):
            return NotImplemented
        return (
            self.type is other.type
            and self._arguments() == other._arguments()
            and self.protocol == other.protocol
            and self.tlv == other.tlv
        )

    def __hash__(self) -> int:
        return hash((self.type, self.peername, self.sockname, self.protocol, self.tlv))

    def __repr__(self) -> str:
        arguments = [repr(argument) for argument in self._arguments()]
        if self.protocol is not None:
            arguments.append(f"protocol=socket.{self.protocol.name}")
        if self.tlv:
            arguments.append(f"tlv={self.tlv!r}")
        return f"{type(self).__name__}({', '.join(arguments)})"


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
        """False: nobody's connection was relayed."""
        return False


class ProxyResultUnknown(ProxyResult):
    """The connection was relayed, and for whom is not known (section 2.1, UNKNOWN; section 2.2, UNSPEC).

    Args:
        exception: Why it is not known, for results that were not read from a header.
        tlv: What else the header says.
    """

    __slots__ = ("_exception",)

    type = ProxyResultType.UNKNOWN

    def __init__(self, exception: Exception | None = None, *, tlv: ProxyProtocolTLV = _NO_TLV) -> None:
        self._exception = exception
        self._tlv = tlv

    @property
    def exception(self) -> Exception | None:
        """Why the client is not known, where that is known."""
        return self._exception

    @property
    def source(self) -> None:
        """None: the client is not known."""

    @property
    def dest(self) -> None:
        """None: the client is not known."""

    def _arguments(self) -> list[Any]:
        return [] if self._exception is None else [self._exception]


class _ProxyResultInet(ProxyResult):
    """What IPv4 and IPv6 results have in common: the address block (section 2.2, ``union proxy_addr``)."""

    __slots__ = ("_block", "_peername", "_protocol")

    _block: bytes
    _peername: Any  # None until somebody asks for it
    _protocol: SocketKind | None

    @classmethod
    def _from_wire(
        cls: type[_InetT], block: bytes, protocol: SocketKind | None, vectors: bytes, peername: Any = None
    ) -> _InetT:
        """Make one of a block that has the right size and of vectors that have been checked.

        A version 1 line has the text of the address, just as :attr:`peername` would give it for IPv4.
        """
        self = _new(cls)
        self._block = block
        self._peername = peername
        self._protocol = protocol
        self._tlv = vectors
        return self

    @property
    def protocol(self) -> SocketKind | None:
        """Whether the client's is a stream or a datagram socket, where that was said."""
        return self._protocol

    def _addresses(self) -> bytes:
        return self._block

    def _arguments(self) -> list[Any]:
        return [self.source, self.dest]


def _pack_inet(kind: type[IPv4Address | IPv6Address], source: tuple[Any, int], dest: tuple[Any, int]) -> bytes:
    # text is taken too; addresses are not made again, which would be most of the work
    hosts = [host.packed if isinstance(host, kind) else kind(host).packed for host in (source[0], dest[0])]
    try:
        return hosts[0] + hosts[1] + _PORTS.pack(source[1], dest[1])
    except struct.error:
        ports = f"{source[1]!r} or {dest[1]!r}"
        raise ValueError(f"A port is a number from 0 to {_wire.MAX_PORT}, not {ports}") from None


class ProxyResultIPv4(_ProxyResultInet):
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
    _family = _wire.V2_INET

    def __init__(
        self,
        source: tuple[IPv4Address, int],
        dest: tuple[IPv4Address, int],
        *,
        protocol: SocketKind | None = None,
        tlv: ProxyProtocolTLV = _NO_TLV,
    ) -> None:
        self._block = _pack_inet(IPv4Address, source, dest)
        self._peername = None
        self._protocol = protocol
        self._tlv = tlv

    @property
    def source(self) -> tuple[IPv4Address, int]:
        """The client's address and port."""
        host, port = _IPV4_SOURCE(self._block)
        return IPv4Address(host), port

    @property
    def dest(self) -> tuple[IPv4Address, int]:
        """The address and port that the client connected to."""
        host, port = _IPV4_DEST(self._block)
        return IPv4Address(host), port

    @property
    def peername(self) -> tuple[str, int]:
        """:attr:`source` as :meth:`socket.socket.getpeername` would give it."""
        if self._peername is None:
            host, port = _IPV4_SOURCE(self._block)
            self._peername = inet_ntoa(host), port
        peername: tuple[str, int] = self._peername
        return peername

    @property
    def sockname(self) -> tuple[str, int]:
        """:attr:`dest` as :meth:`socket.socket.getsockname` would give it."""
        host, port = _IPV4_DEST(self._block)
        return inet_ntoa(host), port


class ProxyResultIPv6(_ProxyResultInet):
    """The client connected over IPv6. A scope id does not travel in a header and is lost.

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
    _family = _wire.V2_INET6

    def __init__(
        self,
        source: tuple[IPv6Address, int],
        dest: tuple[IPv6Address, int],
        *,
        protocol: SocketKind | None = None,
        tlv: ProxyProtocolTLV = _NO_TLV,
    ) -> None:
        self._block = _pack_inet(IPv6Address, source, dest)
        self._peername = None
        self._protocol = protocol
        self._tlv = tlv

    @property
    def source(self) -> tuple[IPv6Address, int]:
        """The client's address and port."""
        host, port = _IPV6_SOURCE(self._block)
        return IPv6Address(host), port

    @property
    def dest(self) -> tuple[IPv6Address, int]:
        """The address and port that the client connected to."""
        host, port = _IPV6_DEST(self._block)
        return IPv6Address(host), port

    @property
    def peername(self) -> tuple[str, int, int, int]:
        """:attr:`source` as :meth:`socket.socket.getpeername` would give it, flow info and scope id being 0."""
        if self._peername is None:
            host, port = _IPV6_SOURCE(self._block)
            self._peername = inet_ntop(AF_INET6, host), port, 0, 0
        peername: tuple[str, int, int, int] = self._peername
        return peername

    @property
    def sockname(self) -> tuple[str, int, int, int]:
        """:attr:`dest` as :meth:`socket.socket.getsockname` would give it, flow info and scope id being 0."""
        host, port = _IPV6_DEST(self._block)
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
    if len(name) > _wire.UNIX_PATH_LENGTH:
        limit = _wire.UNIX_PATH_LENGTH
        raise ValueError(f"A UNIX path of {len(name)} bytes does not fit in a header, {limit} are the most: {path!r}")
    return name.ljust(_wire.UNIX_PATH_LENGTH, b"\0")


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
    _family = _wire.V2_UNIX

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
    def _from_wire(cls, block: bytes, protocol: SocketKind | None, vectors: bytes) -> ProxyResultUnix:
        """Make one of a block that has the right size and of vectors that have been checked."""
        half = _wire.UNIX_PATH_LENGTH
        self = cls(_unpack_path(block[:half]), _unpack_path(block[half:]), protocol=protocol)
        self._tlv = vectors
        return self

    def _addresses(self) -> bytes:
        return _pack_path(self._source) + _pack_path(self._dest)

    @property
    def protocol(self) -> SocketKind | None:
        """Whether the client's is a stream or a datagram socket, where that was said."""
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

    def _arguments(self) -> list[Any]:
        return [self._source, self._dest]


def is_local(result: ProxyResult) -> TypeGuard[ProxyResultLocal]:
    """Tell whether the proxy spoke for itself.

    Args:
        result: The result.
    """
    return result.type is ProxyResultLocal.type


def is_unknown(result: ProxyResult) -> TypeGuard[ProxyResultUnknown]:
    """Tell whether the connection was relayed for a client that is not known.

    Args:
        result: The result.
    """
    return result.type is ProxyResultUnknown.type


def is_ipv4(result: ProxyResult) -> TypeGuard[ProxyResultIPv4]:
    """Tell whether the client connected over IPv4.

    Args:
        result: The result.
    """
    return result.type is ProxyResultIPv4.type


def is_ipv6(result: ProxyResult) -> TypeGuard[ProxyResultIPv6]:
    """Tell whether the client connected over IPv6.

    Args:
        result: The result.
    """
    return result.type is ProxyResultIPv6.type


def is_unix(result: ProxyResult) -> TypeGuard[ProxyResultUnix]:
    """Tell whether the client connected over a UNIX socket.

    Args:
        result: The result.
    """
    return result.type is ProxyResultUnix.type
