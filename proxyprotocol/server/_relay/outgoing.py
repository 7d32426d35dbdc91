"""Floor 6: what the header says that goes to a destination."""

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

#: What ``tlv=`` takes, but for ``none`` and ``drop``.
ADDITIONS: Final = ("unique-id", "authority", "ssl", "client-cert", "ext")
#: What the established package sends.
_ESTABLISHED: Final = frozenset({"unique-id", "ssl", "ext"})
_WITHOUT_CHECKSUM: Final = ProxyProtocolV2(checksum=False)


class Incoming:
    """A connection that has come, as :func:`.build_transport_result` and a :class:`.SocketInfo` ask for it.

    Args:
        stream: Its end.
        peer: Who has connected.
        received: What was received in front of it.
        authority: The name that the client asked for by TLS.
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
        """Tell a fact, as a transport does.

        Args:
            name: Which one.
            default: What to answer where it is not known.
        """
        return self._facts.get(name, default)


@dataclass(frozen=True)
class Outgoing:
    """What is sent in front of the connections to a destination.

    Args:
        codec: The format.
        additions: What the header says beside the addresses; None for what the established package says, and for
            nothing where a header has come in.
        drop: Whether the TLVs of a header that has come in are left out.
    """

    codec: ProxyProtocol
    additions: frozenset[str] | None = None
    drop: bool = False

    def header(self, incoming: Incoming, dnsbl: str | None, local: SockAddr, peer: SockAddr) -> bytes:
        """Write the header of one connection.

        Args:
            incoming: Whose it is.
            dnsbl: What a DNS block list said of the client.
            local: The own address of the connection to the destination.
            peer: The other address of it.

        Raises:
            ValueError: What is to be said does not fit in a header.
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
            # who was there first knows more of the client
            added = {kind: value for kind, value in own.tlv.items() if kind not in tlv}
            tlv = ProxyProtocolTLV(bytes(tlv), added)
        return _pack(self._codec(checked), _with_tlv(believed, tlv), local, peer)

    def _codec(self, checked: bool) -> ProxyProtocol:
        """Give the codec that leaves the TLVs as they came: a CRC32C stands where one stood, and nowhere else."""
        if checked or isinstance(self.codec, (ProxyProtocolV1, ProxyProtocolNoop)):
            return self.codec
        return _WITHOUT_CHECKSUM


def _with_tlv(result: ProxyResult, tlv: ProxyProtocolTLV) -> ProxyResult:
    """Give a result that says the same with other TLVs."""
    if result.tlv is tlv:
        return result
    if isinstance(result, (ProxyResultIPv4, ProxyResultIPv6)):
        return type(result)(result.source, result.dest, protocol=result.protocol, tlv=tlv)  # type: ignore[arg-type]
    if isinstance(result, ProxyResultUnix):
        return ProxyResultUnix(result.source, result.dest, protocol=result.protocol, tlv=tlv)
    return ProxyResultLocal(tlv=tlv) if is_local(result) else ProxyResultUnknown(tlv=tlv)


def _own(incoming: Incoming, additions: frozenset[str], dnsbl: str | None) -> ProxyResult:
    """Say what is known of a connection here."""
    unique_id = uuid.uuid4().bytes if "unique-id" in additions else None
    result = build_transport_result(incoming, unique_id=unique_id, dnsbl=dnsbl)
    tls: ssl.SSLObject | None = incoming.get_extra_info("ssl_object")
    if tls is None:
        return result
    tlv = ProxyProtocolTLV(
        authority=incoming.authority if "authority" in additions else None,
        unique_id=unique_id,
        ssl=_ssl(tls, result.tlv.ssl, "client-cert" in additions) if "ssl" in additions else None,
        ext=result.tlv.ext if "ext" in additions else ProxyProtocolExtTLV(dnsbl=dnsbl),
    )
    return _with_tlv(result, tlv)


def _ssl(tls: ssl.SSLObject, facts: ProxyProtocolSSLTLV, with_certificate: bool) -> ProxyProtocolSSLTLV:
    certificate = tls.getpeercert(True) if with_certificate else None
    subject: Any = (tls.getpeercert() or {}).get("subject", ())
    names = [value for part in subject for kind, value in part if kind == "commonName"]
    return ProxyProtocolSSLTLV(init=facts, cn=names[-1] if names else None, client_cert=certificate)


def _pack(codec: ProxyProtocol, result: ProxyResult, local: SockAddr, peer: SockAddr) -> bytes:
    said: ProxyResult | None = result
    if isinstance(codec, ProxyProtocolV1):
        # version 1 knows no UNIX sockets; nor LOCAL, for which the relay names its own connection
        said = ProxyResultUnknown() if is_unix(result) else None if is_local(result) else result
    return Sender(said, pp=codec).header(None, local, peer)
