"""The header that the relay sends to a destination."""

from __future__ import annotations

import ssl
import uuid
from dataclasses import dataclass
from typing import Any, Final

from proxyprotocol.build import build_transport_result
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.noop import ProxyProtocolNoop
from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.result import (
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
    ProxyResultUnknown,
    is_local,
    is_unix,
)
from proxyprotocol.sender import Sender
from proxyprotocol.server._relay.ends import Stream
from proxyprotocol.tlv import ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV, Type
from proxyprotocol.typing import SockAddr
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__: list[str] = []

#: The values of ``tlv=``, apart from ``none`` and ``drop``.
ADDITIONS: Final = ("unique-id", "authority", "ssl", "client-cert", "ext")
#: What ``proxy-protocol`` sends.
_ESTABLISHED: Final = frozenset({"unique-id", "ssl", "ext"})
_WITHOUT_CHECKSUM: Final = ProxyProtocolV2(checksum=False)


class Incoming:
    """A client's connection, in the form that :func:`.build_transport_result` and :class:`.SocketInfo` expect.

    Args:
        stream: The client's end.
        peer: The address of whoever connected.
        received: What the receiver knows of the connection.
        authority: The name that the client asked for in TLS.
    """

    __slots__ = ("_facts", "authority", "received")

    def __init__(
        self, stream: Stream, peer: SockAddr, received: ReceiverConnection, authority: str | None = None
    ) -> None:
        sock = stream.sock
        tls: ssl.SSLObject | None = getattr(stream, "tls", None)
        self._facts = {"socket": sock, "peername": peer, "sockname": sock.getsockname(), "ssl_object": tls}
        self.received = received
        self.authority = authority

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact, as a transport does."""
        return self._facts.get(name, default)


@dataclass(frozen=True)
class Outgoing:
    """Writes the headers for a destination.

    Args:
        codec: The format.
        additions: What the header says beside the addresses. None is for what ``proxy-protocol`` says, and for nothing
            if the connection came in with a header.
        drop: Whether to leave out the TLVs of the header that came in.
    """

    codec: ProxyProtocol
    additions: frozenset[str] | None = None
    drop: bool = False

    def header(self, incoming: Incoming, dnsbl: str | None, local: SockAddr, peer: SockAddr) -> bytes:
        """Return the header of one connection.

        Args:
            incoming: The client's connection.
            dnsbl: The answer of a DNS block list about the client.
            local: The relay's address on the connection to the destination.
            peer: The destination's address on it.

        Raises:
            ValueError: The content does not fit in a header.
        """
        believed = incoming.received.believed
        if believed is None:
            own = _own(incoming, _ESTABLISHED if self.additions is None else self.additions, dnsbl)
            return _pack(self.codec, own, local, peer)
        tlv = ProxyProtocolTLV() if self.drop else believed.tlv
        checked = Type.PP2_TYPE_CRC32C in tlv
        additions: frozenset[str] = frozenset() if self.additions is None else self.additions
        if additions or dnsbl is not None:
            own = _own(incoming, additions, dnsbl)
            # the first proxy knows more of the client
            added = {kind: value for kind, value in own.tlv.items() if kind not in tlv}
            tlv = ProxyProtocolTLV(bytes(tlv), added)
        codec = self.codec
        if not checked and not isinstance(codec, (ProxyProtocolV1, ProxyProtocolNoop)):
            codec = _WITHOUT_CHECKSUM  # the TLVs go on as they came: with a CRC32C only if there was one
        return _pack(codec, _with_tlv(believed, tlv), local, peer)


def _with_tlv(result: ProxyResult, tlv: ProxyProtocolTLV) -> ProxyResult:
    """Return the same result with other TLVs."""
    if result.tlv is tlv:
        return result
    if isinstance(result, (ProxyResultIPv4, ProxyResultIPv6)):
        return type(result)(result.source, result.dest, protocol=result.protocol, tlv=tlv)  # type: ignore[arg-type]
    if isinstance(result, ProxyResultUnix):
        return ProxyResultUnix(result.source, result.dest, protocol=result.protocol, tlv=tlv)
    return ProxyResultLocal(tlv=tlv) if is_local(result) else ProxyResultUnknown(tlv=tlv)


def _own(incoming: Incoming, additions: frozenset[str], dnsbl: str | None) -> ProxyResult:
    """Return what the relay itself knows of a connection."""
    unique_id = uuid.uuid4().bytes if "unique-id" in additions else None
    result = build_transport_result(incoming, unique_id=unique_id, dnsbl=dnsbl)
    tls: ssl.SSLObject | None = incoming.get_extra_info("ssl_object")
    if tls is None:
        return result
    facts = None
    if "ssl" in additions:
        subject: Any = (tls.getpeercert() or {}).get("subject", ())
        names = [value for part in subject for kind, value in part if kind == "commonName"]
        certificate = tls.getpeercert(True) if "client-cert" in additions else None
        facts = ProxyProtocolSSLTLV(init=result.tlv.ssl, cn=names[-1] if names else None, client_cert=certificate)
    tlv = ProxyProtocolTLV(
        authority=incoming.authority if "authority" in additions else None,
        unique_id=unique_id,
        ssl=facts,
        ext=result.tlv.ext if "ext" in additions else ProxyProtocolExtTLV(dnsbl=dnsbl),
    )
    return _with_tlv(result, tlv)


def _pack(codec: ProxyProtocol, result: ProxyResult, local: SockAddr, peer: SockAddr) -> bytes:
    said: ProxyResult | None = result
    if isinstance(codec, ProxyProtocolV1):
        # Version 1 has neither UNIX addresses nor LOCAL. For LOCAL, the relay names its own connection.
        said = ProxyResultUnknown() if is_unix(result) else None if is_local(result) else result
    return Sender(said, pp=codec).header(None, local, peer)
