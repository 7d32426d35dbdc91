"""Builds the result that describes a connection, from its socket or its transport.

A relay gives the result to ``pack()`` of a codec, and sends the header to its server. These functions read nothing from
the connection and write nothing to it.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address
from ssl import SSLObject, SSLSocket
from typing import Any

from proxyprotocol._adapters.facts import AF_UNIX, decode_path, extra_info
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6, ProxyResultUnix, ProxyResultUnknown
from proxyprotocol.tlv import ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.typing import TransportProtocol

__all__ = ["build_socket_result", "build_transport_result"]


def build_socket_result(
    sock: socket.socket, *, unique_id: bytes | None = None, dnsbl: str | None = None
) -> ProxyResult:
    """Build the result that describes a connected socket.

    For an :class:`ssl.SSLSocket` the result has a TLV about its TLS (section 2.2.6). As in ``proxy-protocol``, the
    verify field is 0 even if the peer showed no certificate; the ``CERT_CONN`` flag says whether it did. A certificate
    that was not checked (``ssl.CERT_NONE``) never counts as verified.

    Args:
        sock: The socket. An IPv6 scope id is dropped, because a header has no field for it.
        unique_id: The connection's name in logs, 128 bytes at most (section 2.2.5); ``pack()`` rejects more.
        dnsbl: What a DNS block list said about the peer.

    Returns:
        The result. It is a :class:`.ProxyResultUnknown` if a header cannot name the socket's family. If the socket is
        closed or not connected, it is one without TLVs, and its ``exception`` is the OSError.
    """
    try:
        peername, sockname = sock.getpeername(), sock.getsockname()
    except OSError as exc:
        # a result may live long, and a traceback would keep this frame and the socket alive
        return ProxyResultUnknown(exc.with_traceback(None))
    tlv = _build_tlv(sock if isinstance(sock, SSLSocket) else None, unique_id, dnsbl)
    return _build_result(sock, peername, sockname, tlv)


def build_transport_result(
    transport: TransportProtocol, *, unique_id: bytes | None = None, dnsbl: str | None = None
) -> ProxyResult:
    """Build the result that describes a connected transport, as :func:`build_socket_result` does for a socket.

    If a header was read on the transport, the result names the client, as the transport's addresses do.

    Args:
        transport: An :class:`asyncio.BaseTransport`, an :class:`asyncio.StreamWriter`, or the like.
        unique_id: The connection's name in logs, 128 bytes at most (section 2.2.5); ``pack()`` rejects more.
        dnsbl: What a DNS block list said about the peer.

    Returns:
        The result. It is a :class:`.ProxyResultUnknown` if a header cannot name the family, or if the transport does
        not know an address: a TLS transport forgets both when it closes, and uvloop does not know that of a peer that
        left at once.
    """
    sock, peername, sockname = (extra_info(transport, name) for name in ("socket", "peername", "sockname"))
    tlv = _build_tlv(extra_info(transport, "ssl_object"), unique_id, dnsbl)
    return _build_result(sock, peername, sockname, tlv)


def _build_result(sock: Any, peername: Any, sockname: Any, tlv: ProxyProtocolTLV) -> ProxyResult:
    if sock is None or peername is None or sockname is None:
        return ProxyResultUnknown()
    if sock.family == AF_UNIX:
        return ProxyResultUnix(decode_path(peername), decode_path(sockname), protocol=sock.type, tlv=tlv)
    named = peername and sockname  # wrappers give an empty string for an IP socket without a name
    if named and sock.family == socket.AF_INET:
        source, dest = ((IPv4Address(host), port) for host, port in (peername, sockname))
        return ProxyResultIPv4(source, dest, protocol=sock.type, tlv=tlv)
    if named and sock.family == socket.AF_INET6:
        source6, dest6 = ((IPv6Address(host), port) for host, port, *_ in (peername, sockname))
        return ProxyResultIPv6(source6, dest6, protocol=sock.type, tlv=tlv)
    return ProxyResultUnknown()


def _build_tlv(tls: SSLSocket | SSLObject | None, unique_id: bytes | None, dnsbl: str | None) -> ProxyProtocolTLV:
    if tls is None:
        return ProxyProtocolTLV(unique_id=unique_id, ext=ProxyProtocolExtTLV(dnsbl=dnsbl))
    cipher, version, secret_bits = tls.cipher() or (None, None, None)
    try:
        peercert = tls.getpeercert()
    except (AttributeError, OSError, ValueError):
        # In this order: unwrap() has ended TLS, the certificate cannot be decoded, the handshake is not over.
        peercert = None
    ssl = ProxyProtocolSSLTLV(
        has_ssl=True,
        has_cert_conn=peercert is not None,
        # {} stands for a certificate that nothing checked; `proxy-protocol` called it verified
        verified=peercert != {},
        version=version,
        cipher=cipher,
    )
    ext = ProxyProtocolExtTLV(compression=tls.compression(), secret_bits=secret_bits, peercert=peercert, dnsbl=dnsbl)
    return ProxyProtocolTLV(unique_id=unique_id, ssl=ssl, ext=ext)
