"""The header that the relay sends to a destination."""

from __future__ import annotations

import socket
import ssl
import uuid
from dataclasses import dataclass
from typing import Any, Final

from proxyprotocol._wire import spec
from proxyprotocol.build import build_transport_result
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.result import ProxyResult, ProxyResultUnknown, is_local, is_unix
from proxyprotocol.sender import name_ends
from proxyprotocol.tlv import ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV, Type
from proxyprotocol.typing import SockAddr
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__: list[str] = []

#: The values of ``tlv=``, apart from ``none`` and ``drop``.
ADDITIONS: Final = ("unique-id", "authority", "ssl", "client-cert", "ext")
# what `proxy-protocol` sends
_DEFAULT: Final = frozenset({"unique-id", "ssl", "ext"})
_V2_BEGINS: Final = spec.V2_SIGNATURE[0]
_WITHOUT_CHECKSUM: Final = ProxyProtocolV2(checksum=False)


class Incoming(dict[str, Any]):
    """A client's connection, in the form that :func:`.build_transport_result` and :class:`.SocketInfo` expect."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.get(name, default)


@dataclass(frozen=True)
class Outgoing:
    """Writes the headers for a destination. *drop* leaves out the TLVs of the header that came in.

    *additions* are what a header says beside the addresses. With None it says what ``proxy-protocol`` says, and nothing
    if the connection came in with a header.
    """

    codec: ProxyProtocol
    additions: frozenset[str] | None = None
    drop: bool = False

    def header(
        self,
        incoming: Incoming,
        received: ProxyResult | None,
        wire: bytes,
        dnsbl: str | None,
        authority: str | None,
        server: socket.socket,
        address: SockAddr,
    ) -> bytes:
        """Return the header of one connection; raise ValueError if it has no room for the content.

        *received* is the header that came in, if the relay believes it, and *wire* its bytes; *authority* is the name
        that the client asked for in TLS. *server* is the socket to the destination, connected to *address*.
        """
        codec = self.codec
        adds = bool(self.additions) or dnsbl is not None
        if received is None:
            said = _describe(incoming, _DEFAULT if self.additions is None else self.additions, dnsbl, authority)
        else:
            version_2 = isinstance(codec, ProxyProtocolV2)
            if version_2 and received.family_number and wire[0] == _V2_BEGINS and not (adds or self.drop):
                return wire
            said, tlv = received, ProxyProtocolTLV() if self.drop else received.tlv
            if version_2 and Type.PP2_TYPE_CRC32C not in tlv:
                codec = _WITHOUT_CHECKSUM  # a CRC32C goes on only if one came in
            if adds:
                own = _describe(incoming, self.additions or frozenset(), dnsbl, authority).tlv
                # the first proxy knows more about the client
                added = {kind: value for kind, value in own.items() if kind not in tlv}
                tlv = ProxyProtocolTLV(bytes(tlv), added)
            if tlv is not received.tlv:
                said = received.replace(tlv=tlv)
        if isinstance(codec, ProxyProtocolV1):  # it has neither UNIX addresses nor LOCAL
            if is_unix(said):
                said = ProxyResultUnknown()
            elif is_local(said):
                said = name_ends(server.getsockname(), address)
        return codec.pack(said)


def _describe(incoming: Incoming, additions: frozenset[str], dnsbl: str | None, authority: str | None) -> ProxyResult:
    """Return what the relay itself knows about a connection."""
    unique_id = uuid.uuid4().bytes if "unique-id" in additions else None
    result = build_transport_result(incoming, unique_id=unique_id, dnsbl=dnsbl)
    tls: ssl.SSLObject | None = incoming["ssl_object"]
    if tls is None:
        return result
    facts = None
    if "ssl" in additions:
        subject: Any = (tls.getpeercert() or {}).get("subject", ())
        names = [value for part in subject for kind, value in part if kind == "commonName"]
        certificate = tls.getpeercert(True) if "client-cert" in additions else None
        facts = ProxyProtocolSSLTLV(init=result.tlv.ssl, cn=names[-1] if names else None, client_cert=certificate)
    tlv = ProxyProtocolTLV(
        authority=authority if "authority" in additions else None,
        unique_id=unique_id,
        ssl=facts,
        ext=result.tlv.ext if "ext" in additions else ProxyProtocolExtTLV(dnsbl=dnsbl),
    )
    return result.replace(tlv=tlv)
