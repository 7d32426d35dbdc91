"""Who is at the other end of a connection, from the header or from the transport."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AddressFamily, SocketKind

from proxyprotocol._adapters.facts import AF_UNIX, decode_path, extra_info
from proxyprotocol.result import ProxyResult, is_unknown
from proxyprotocol.typing import Cipher, PeerCert, SockAddr, TransportProtocol

__all__ = ["SocketInfo", "SocketInfoLocal", "SocketInfoProxy"]


class SocketInfo(ABC):
    """What is known of a connection; :meth:`get` chooses between the header's word and the transport's.

    No property raises for anything that a peer did: what is not known is None. Of an unknown client (UNKNOWN in
    version 1, UNSPEC in version 2) every address is None and :attr:`from_localhost` is False; the real connection's
    addresses, those of the proxy, are still at the transport.

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
        """Choose who is to be believed: the header, or for LOCAL and without a header the transport.

        Args:
            transport: The connection's transport or stream writer.
            result: What the header says, None where there was none. It must come from a trusted proxy.
            unique_id: Names the connection in every log on its way, where the header does not count.
            dnsbl: What a DNS block list said of the peer, where the header does not count.
            header: What a header says that does not count, so that it can still be asked for.
        """
        if result is not None and result.proxied:
            return SocketInfoProxy(transport, result)
        info = SocketInfoLocal(transport, unique_id=unique_id, dnsbl=dnsbl)
        info._header = header or result
        return info

    @abstractmethod
    def __repr__(self) -> str: ...

    @property
    def socket(self) -> socket.socket:
        """The real connection's socket, whatever the header says; None once a transport over TLS is closed."""
        sock: socket.socket = extra_info(self._transport, "socket")
        return sock

    @property
    @abstractmethod
    def family(self) -> AddressFamily:
        """The address family; AF_UNSPEC where the client is not known."""

    @property
    @abstractmethod
    def protocol(self) -> SocketKind | None:
        """Whether the client's is a stream or a datagram socket, where that is known."""

    @property
    @abstractmethod
    def peername(self) -> SockAddr:
        """The client's address, as :meth:`socket.socket.getpeername` gives it."""

    @property
    @abstractmethod
    def sockname(self) -> SockAddr:
        """The address that the client connected to, as :meth:`socket.socket.getsockname` gives it."""

    @property
    def source_addr(self) -> str | None:
        """The client's IP address as text, or the path of its UNIX socket."""
        return self._addr(self.peername)

    @property
    def source_port(self) -> int | None:
        """The client's port, None with a UNIX socket."""
        return self._port(self.peername)

    @property
    def dest_addr(self) -> str | None:
        """The IP address that the client connected to, as text, or the path of the UNIX socket."""
        return self._addr(self.sockname)

    @property
    def dest_port(self) -> int | None:
        """The port that the client connected to, None with a UNIX socket."""
        return self._port(self.sockname)

    @property
    def peername_ip(self) -> IPv4Address | IPv6Address | None:
        """The client's IP address; one that is mapped into IPv6 as the IPv4 address that it is."""
        return self._ip(self.peername)

    @property
    def peername_port(self) -> int | None:
        """The same as :attr:`source_port`."""
        return self.source_port

    @property
    def peername_str(self) -> str | None:
        """The client's address for people: ``[ip]:port``, or the path of its UNIX socket."""
        return self._str(self.peername)

    @property
    def sockname_ip(self) -> IPv4Address | IPv6Address | None:
        """The IP address that the client connected to; a mapped one as the IPv4 address that it is."""
        return self._ip(self.sockname)

    @property
    def sockname_port(self) -> int | None:
        """The same as :attr:`dest_port`."""
        return self.dest_port

    @property
    def sockname_str(self) -> str | None:
        """The address that the client connected to, for people, as :attr:`peername_str`."""
        return self._str(self.sockname)

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
        """What :meth:`ssl.SSLSocket.cipher` gives, where the client came over TLS.

        From a header it may be partial: empty text stands for what the proxy did not say, None for secret bits.
        """

    @property
    @abstractmethod
    def compression(self) -> str | None:
        """What :meth:`ssl.SSLSocket.compression` gives; most proxies do not say."""

    @property
    @abstractmethod
    def peercert(self) -> PeerCert | None:
        """What :meth:`ssl.SSLSocket.getpeercert` gives; most proxies do not say."""

    @property
    @abstractmethod
    def unique_id(self) -> bytes:
        """Names the connection in every log on its way; empty where it has none."""

    @property
    @abstractmethod
    def dnsbl(self) -> str | None:
        """What a DNS block list said of the client; anything but None speaks for refusing it."""

    @property
    def result(self) -> ProxyResult | None:
        """What the header said, TLVs included, also where it does not count; None where there was none."""
        # not abstract: a user's class, written for `proxy-protocol`, lacks this property
        return None

    def _ip_port(self, name: SockAddr) -> tuple[str, int] | None:
        if isinstance(name, tuple) and self.family in (socket.AF_INET, socket.AF_INET6):
            return name[0], name[1]
        return None

    def _addr(self, name: SockAddr) -> str | None:
        if self.family == AF_UNIX:
            return name if isinstance(name, str) else None
        ip_port = self._ip_port(name)
        return None if ip_port is None else ip_port[0]

    def _port(self, name: SockAddr) -> int | None:
        ip_port = self._ip_port(name)
        return None if ip_port is None else ip_port[1]

    def _ip(self, name: SockAddr) -> IPv4Address | IPv6Address | None:
        ip_port = self._ip_port(name)
        if ip_port is None:
            return None
        ip = ip_address(ip_port[0])
        mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
        return ip if mapped is None else mapped

    def _str(self, name: SockAddr) -> str | None:
        ip_port = self._ip_port(name)
        if ip_port is None:
            return None if name is None else str(name)
        ip = self._ip(name)
        # the socket module's own text, which for some IPv6 addresses is not that of the ipaddress module
        text = ip if isinstance(ip, IPv4Address) else ip_port[0]
        return f"[{text}]:{ip_port[1]}"


class SocketInfoLocal(SocketInfo):
    """What the transport itself tells: for a connection without a header, or with one that says LOCAL.

    Args:
        transport: The connection's transport or stream writer.
        unique_id: Names the connection in every log on its way.
        dnsbl: What a DNS block list said of the peer.
    """

    __slots__ = ("_dnsbl", "_header", "_unique_id")

    def __init__(self, transport: TransportProtocol, *, unique_id: bytes = b"", dnsbl: str | None = None) -> None:
        super().__init__(transport)
        self._unique_id = unique_id
        self._dnsbl = dnsbl
        self._header: ProxyResult | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} peername={self.peername_str!r} sockname={self.sockname_str!r}>"

    @property
    def result(self) -> ProxyResult | None:
        """A header that does not count, such as LOCAL; None where there was none."""
        return self._header

    @property
    def family(self) -> AddressFamily:
        """The socket's address family; AF_UNSPEC once a transport over TLS is closed."""
        family: AddressFamily = getattr(self.socket, "family", socket.AF_UNSPEC)
        return family

    @property
    def protocol(self) -> SocketKind | None:
        """The socket's type; None once a transport over TLS is closed."""
        return getattr(self.socket, "type", None)

    @property
    def peername(self) -> SockAddr:
        """The peer's address; None where it cannot be had, as that of a peer that was gone at once."""
        return self._name("peername")

    @property
    def sockname(self) -> SockAddr:
        """The socket's own address; None where it cannot be had."""
        return self._name("sockname")

    @property
    def cipher(self) -> Cipher | None:
        """What :meth:`ssl.SSLSocket.cipher` gives."""
        cipher: Cipher | None = extra_info(self._transport, "cipher")
        return cipher

    @property
    def compression(self) -> str | None:
        """What :meth:`ssl.SSLSocket.compression` gives."""
        compression: str | None = extra_info(self._transport, "compression")
        return compression

    @property
    def peercert(self) -> PeerCert | None:
        """What :meth:`ssl.SSLSocket.getpeercert` gives."""
        peercert: PeerCert | None = extra_info(self._transport, "peercert")
        return peercert

    @property
    def unique_id(self) -> bytes:
        """The argument."""
        return self._unique_id

    @property
    def dnsbl(self) -> str | None:
        """The argument."""
        return self._dnsbl

    def _name(self, which: str) -> SockAddr:
        name: bytes | SockAddr = extra_info(self._transport, which)
        return decode_path(name) if isinstance(name, bytes) else name


class SocketInfoProxy(SocketInfo):
    """What the header tells of the client.

    Args:
        transport: The connection's transport or stream writer, that is the proxy's.
        result: What the header says. It must come from a trusted proxy.
    """

    __slots__ = ("_result",)

    def __init__(self, transport: TransportProtocol, result: ProxyResult) -> None:
        super().__init__(transport)
        self._result = result

    def __repr__(self) -> str:
        name = type(self).__name__
        if self.peername is not None:
            return f"<{name} peername={self.peername_str!r} sockname={self.sockname_str!r}>"
        exception = self._result.exception if is_unknown(self._result) else None
        return f"<{name}>" if exception is None else f"<{name} exc={exception!r}>"

    @property
    def result(self) -> ProxyResult:
        """What the header said, TLVs included."""
        return self._result

    @property
    def family(self) -> AddressFamily:
        """The client's address family; AF_UNSPEC where the header names no client."""
        return self._result.family

    @property
    def protocol(self) -> SocketKind | None:
        """Whether the client's is a stream or a datagram socket, where the header says so."""
        return self._result.protocol

    @property
    def peername(self) -> SockAddr:
        """The client's address; None where the header names no client."""
        return self._result.peername

    @property
    def sockname(self) -> SockAddr:
        """The address that the client connected to; None where the header names no client."""
        return self._result.sockname

    @property
    def cipher(self) -> Cipher | None:
        """The client's cipher, with empty text for what the header leaves out; None without TLS."""
        tlv = self._result.tlv
        if not tlv.ssl.has_ssl:
            return None
        return tlv.ssl.cipher or "", tlv.ssl.version or "", tlv.ext.secret_bits

    @property
    def compression(self) -> str | None:
        """The compression that the header's extension names."""
        return self._result.tlv.ext.compression

    @property
    def peercert(self) -> PeerCert | None:
        """The certificate that the header's extension holds, with lists in the place of tuples."""
        return self._result.tlv.ext.peercert

    @property
    def unique_id(self) -> bytes:
        """The header's unique ID, empty where it has none."""
        return self._result.tlv.unique_id

    @property
    def dnsbl(self) -> str | None:
        """What a DNS block list said of the client, as the header's extension has it."""
        return self._result.tlv.ext.dnsbl
