"""Facts about the client of a connection, from the header or from the transport."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AddressFamily, SocketKind
from typing import cast

from proxyprotocol._adapters.facts import AF_UNIX, decode_path, extra_info
from proxyprotocol.result import ProxyResult, is_unknown
from proxyprotocol.typing import Cipher, PeerCert, SockAddr, TransportProtocol

__all__ = ["SocketInfo", "SocketInfoLocal", "SocketInfoProxy"]


class SocketInfo(ABC):
    """What is known about a connection. :meth:`get` chooses between the header and the transport.

    No property raises for anything that a peer did: it returns None for what is not known. For an unknown client
    (UNKNOWN in version 1, UNSPEC in version 2) every address is None and :attr:`from_localhost` is False; the transport
    still has the real connection's addresses, those of the proxy.

    Args:
        transport: The connection's transport or stream writer.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: TransportProtocol) -> None:
        self._transport = transport

    @classmethod
    def get(
        cls,
        transport: TransportProtocol,
        result: ProxyResult | None,
        *,
        unique_id: bytes = b"",
        dnsbl: str | None = None,
        header: ProxyResult | None = None,
    ) -> SocketInfo:
        """Believe the header; for LOCAL, and without a header, believe the transport.

        Args:
            transport: The connection's transport or stream writer.
            result: What the header says, or None without a header. It must come from a trusted proxy.
            unique_id: The connection's name in logs, if the transport is believed.
            dnsbl: What a DNS block list said about the peer, if the transport is believed.
            header: What an ignored header says. :attr:`result` returns it, and nothing else does.
        """
        if result is not None and result.proxied:
            return SocketInfoProxy(transport, result)
        info = SocketInfoLocal(transport, unique_id=unique_id, dnsbl=dnsbl)
        info._header = header or result
        return info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} peername={self.peername_str!r} sockname={self.sockname_str!r}>"

    @property
    def socket(self) -> socket.socket:
        """The real connection's socket, whatever the header says; None after a TLS transport has closed."""
        return cast(socket.socket, extra_info(self._transport, "socket"))

    @property
    @abstractmethod
    def family(self) -> AddressFamily:
        """The address family; AF_UNSPEC if the client is unknown, or a TLS transport has closed."""

    @property
    @abstractmethod
    def protocol(self) -> SocketKind | None:
        """The kind of the client's socket, stream or datagram, if that is known."""

    @property
    @abstractmethod
    def peername(self) -> SockAddr:
        """The client's address, as :meth:`socket.socket.getpeername` returns it; None if it is unknown."""

    @property
    @abstractmethod
    def sockname(self) -> SockAddr:
        """The address that the client connected to, as :meth:`socket.socket.getsockname` returns it."""

    @property
    def source_addr(self) -> str | None:
        """The client's IP address as text, or the path of its UNIX socket."""
        return self._split(self.peername)[0]

    @property
    def source_port(self) -> int | None:
        """The client's port; None for a UNIX socket."""
        return self._split(self.peername)[1]

    @property
    def dest_addr(self) -> str | None:
        """The IP address that the client connected to, as text, or the path of the UNIX socket."""
        return self._split(self.sockname)[0]

    @property
    def dest_port(self) -> int | None:
        """The port that the client connected to; None for a UNIX socket."""
        return self._split(self.sockname)[1]

    @property
    def peername_ip(self) -> IPv4Address | IPv6Address | None:
        """The client's IP address; an IPv4-mapped one as the IPv4 address in it."""
        return self._ip(self.peername)

    @property
    def peername_str(self) -> str | None:
        """The client's address for people: ``[ip]:port``, or the path of its UNIX socket."""
        return self._str(self.peername)

    @property
    def sockname_ip(self) -> IPv4Address | IPv6Address | None:
        """The IP address that the client connected to; an IPv4-mapped one as the IPv4 address in it."""
        return self._ip(self.sockname)

    @property
    def sockname_str(self) -> str | None:
        """The address that the client connected to, in the form of :attr:`peername_str`."""
        return self._str(self.sockname)

    @property
    def peername_port(self) -> int | None:
        """:attr:`source_port`, by its name in `proxy-protocol`."""
        return self.source_port

    @property
    def sockname_port(self) -> int | None:
        """:attr:`dest_port`, by its name in `proxy-protocol`."""
        return self.dest_port

    @property
    def from_localhost(self) -> bool:
        """Whether the client is on this machine: over a UNIX socket, or from a loopback address."""
        if self.family == AF_UNIX:
            return True
        ip = self.peername_ip
        return ip is not None and ip.is_loopback

    @property
    @abstractmethod
    def cipher(self) -> Cipher | None:
        """The result of :meth:`ssl.SSLSocket.cipher`, if the client came over TLS.

        From a header it may be partial: empty text and None stand for what the proxy did not say.
        """

    @property
    @abstractmethod
    def compression(self) -> str | None:
        """The result of :meth:`ssl.SSLSocket.compression`; most proxies do not send it."""

    @property
    @abstractmethod
    def peercert(self) -> PeerCert | None:
        """The result of :meth:`ssl.SSLSocket.getpeercert`; most proxies do not send it.

        In a certificate from a header, lists stand for tuples.
        """

    @property
    @abstractmethod
    def unique_id(self) -> bytes:
        """The connection's name in logs; empty if it has none."""

    @property
    @abstractmethod
    def dnsbl(self) -> str | None:
        """What a DNS block list said about the client; refuse it unless this is None."""

    # not abstract: a user's class that was written for `proxy-protocol` lacks this property
    @property
    def result(self) -> ProxyResult | None:
        """What the header said, with its TLVs, even if it is ignored; None without a header."""
        return None

    def _split(self, name: SockAddr) -> tuple[str | None, int | None]:
        """Return address and port, a path and None, or twice None for what is unknown."""
        if isinstance(name, tuple) and self.family in (socket.AF_INET, socket.AF_INET6):
            return name[0], name[1]
        return name if isinstance(name, str) and self.family == AF_UNIX else None, None

    def _ip(self, name: SockAddr) -> IPv4Address | IPv6Address | None:
        address, port = self._split(name)
        if address is None or port is None:
            return None
        ip = ip_address(address)
        return getattr(ip, "ipv4_mapped", None) or ip

    def _str(self, name: SockAddr) -> str | None:
        ip = self._ip(name)
        if ip is None:
            return None if name is None else str(name)
        address, port = self._split(name)
        # the socket module's text, which differs from the ipaddress module's for some IPv6 addresses
        return f"[{ip if isinstance(ip, IPv4Address) else address}]:{port}"


class SocketInfoLocal(SocketInfo):
    """Facts from the transport: for a connection without a header, or with one that says LOCAL.

    Args:
        transport: The connection's transport or stream writer.
        unique_id: The connection's name in logs.
        dnsbl: What a DNS block list said about the peer.
    """

    __slots__ = ("_dnsbl", "_header", "_unique_id")

    def __init__(self, transport: TransportProtocol, *, unique_id: bytes = b"", dnsbl: str | None = None) -> None:
        super().__init__(transport)
        self._unique_id = unique_id
        self._dnsbl = dnsbl
        self._header: ProxyResult | None = None

    @property
    def result(self) -> ProxyResult | None:
        return self._header

    @property
    def family(self) -> AddressFamily:
        return cast(AddressFamily, getattr(self.socket, "family", socket.AF_UNSPEC))

    @property
    def protocol(self) -> SocketKind | None:
        return getattr(self.socket, "type", None)

    @property
    def peername(self) -> SockAddr:
        return self._name("peername")

    @property
    def sockname(self) -> SockAddr:
        return self._name("sockname")

    def _name(self, which: str) -> SockAddr:
        name: bytes | SockAddr = extra_info(self._transport, which)
        return decode_path(name) if isinstance(name, bytes) else name

    @property
    def cipher(self) -> Cipher | None:
        return cast("Cipher | None", extra_info(self._transport, "cipher"))

    @property
    def compression(self) -> str | None:
        return cast("str | None", extra_info(self._transport, "compression"))

    @property
    def peercert(self) -> PeerCert | None:
        return cast("PeerCert | None", extra_info(self._transport, "peercert"))

    @property
    def unique_id(self) -> bytes:
        return self._unique_id

    @property
    def dnsbl(self) -> str | None:
        return self._dnsbl


class SocketInfoProxy(SocketInfo):
    """Facts from the header.

    Args:
        transport: The connection's transport or stream writer; its addresses are the proxy's.
        result: What the header says. It must come from a trusted proxy.
    """

    __slots__ = ("_result",)

    def __init__(self, transport: TransportProtocol, result: ProxyResult) -> None:
        super().__init__(transport)
        self._result = result

    def __repr__(self) -> str:
        if self.peername is not None:
            return super().__repr__()
        exception = self._result.exception if is_unknown(self._result) else None
        return f"<{type(self).__name__}{'' if exception is None else f' exc={exception!r}'}>"

    @property
    def result(self) -> ProxyResult:
        return self._result

    @property
    def family(self) -> AddressFamily:
        return self._result.family

    @property
    def protocol(self) -> SocketKind | None:
        return self._result.protocol

    @property
    def peername(self) -> SockAddr:
        return self._result.peername

    @property
    def sockname(self) -> SockAddr:
        return self._result.sockname

    @property
    def cipher(self) -> Cipher | None:
        tlv = self._result.tlv
        return (tlv.ssl.cipher or "", tlv.ssl.version or "", tlv.ext.secret_bits) if tlv.ssl.has_ssl else None

    @property
    def compression(self) -> str | None:
        return self._result.tlv.ext.compression

    @property
    def peercert(self) -> PeerCert | None:
        return self._result.tlv.ext.peercert

    @property
    def unique_id(self) -> bytes:
        return self._result.tlv.unique_id

    @property
    def dnsbl(self) -> str | None:
        return self._result.tlv.ext.dnsbl
