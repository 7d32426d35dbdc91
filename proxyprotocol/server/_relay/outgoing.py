"""The header that the relay sends to a destination."""

from __future__ import annotations

import socket
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from proxyprotocol._wire import spec, walk
from proxyprotocol.build import build_transport_result
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6, ProxyResultUnknown, is_local, is_unix
from proxyprotocol.sender import name_ends
from proxyprotocol.tlv import ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV, Type
from proxyprotocol.typing import SockAddr
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

#: The TLVs that ``tlv=`` can ask the relay for by a word.
ADDITIONS: Final = ("unique-id", "authority", "alpn", "ssl", "client-cert", "ext")
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
    """Writes the headers for a destination.

    *additions* are what a header says beside the addresses. With None it says what ``proxy-protocol`` says, and nothing
    if the connection came in with a header. *passed* are the types of the TLVs that go on from a header that came in;
    None are all. *fixed* are TLVs that all headers say, unless one that came in says another.
    """

    codec: ProxyProtocol
    additions: frozenset[str] | None = None
    passed: frozenset[int] | None = None
    fixed: Mapping[int, bytes] = field(default_factory=dict)

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
        adds = bool(self.additions or self.fixed) or dnsbl is not None
        if received is None:
            said = _describe(incoming, _DEFAULT if self.additions is None else self.additions, dnsbl, authority)
            if self.fixed:
                said = said.replace(tlv=ProxyProtocolTLV(bytes(said.tlv), self.fixed))
        else:
            version_2 = isinstance(codec, ProxyProtocolV2)
            # not for UNIX: the bytes after the NUL of a path say nothing, and go no further
            same = version_2 and received.family_number and not is_unix(received)
            if same and wire[0] == _V2_BEGINS and not adds and self.passed is None:
                return wire
            said, tlv = received, received.tlv if self.passed is None else _only(received.tlv, self.passed)
            if version_2 and Type.PP2_TYPE_CRC32C not in tlv:
                codec = _WITHOUT_CHECKSUM  # a CRC32C goes on only if one came in
            if adds:
                own = _describe(incoming, self.additions or frozenset(), dnsbl, authority).tlv
                # the first proxy knows more about the client
                added = {kind: value for kind, value in {**own, **self.fixed}.items() if kind not in tlv}
                tlv = ProxyProtocolTLV(bytes(tlv), added)
            if tlv is not received.tlv:
                said = received.replace(tlv=tlv)
        if isinstance(codec, ProxyProtocolV1):  # it has neither UNIX addresses nor LOCAL
            if is_unix(said):
                said = ProxyResultUnknown()
            elif is_local(said):
                said = name_ends(server.getsockname(), address)
        return codec.pack(said)


def _only(tlv: ProxyProtocolTLV, kinds: frozenset[int]) -> ProxyProtocolTLV:
    """Return the vectors of these types, in their order."""
    return ProxyProtocolTLV(
        b"".join(walk.vector(kind, value) for kind, value in walk.split(bytes(tlv)) if kind in kinds)
    )


def _describe(incoming: Incoming, additions: frozenset[str], dnsbl: str | None, authority: str | None) -> ProxyResult:
    """Return what the relay itself knows about a connection."""
    unique_id = uuid.uuid4().bytes if "unique-id" in additions else None
    result = build_transport_result(incoming, unique_id=unique_id, dnsbl=dnsbl)
    if isinstance(result, ProxyResultIPv6):
        source, dest = result.source[0].ipv4_mapped, result.dest[0].ipv4_mapped
        if source and dest:  # an IPv4 client of a socket of systemd, which takes both families
            ends = (source, result.source[1]), (dest, result.dest[1])
            result = ProxyResultIPv4(*ends, protocol=result.protocol, tlv=result.tlv)
    tls: ssl.SSLObject | None = incoming["ssl_object"]
    if tls is None:
        return result
    facts = None
    if "ssl" in additions:
        subject: Any = (tls.getpeercert() or {}).get("subject", ())
        names = [value for part in subject for kind, value in part if kind == "commonName"]
        certificate = tls.getpeercert(True) if "client-cert" in additions else None
        facts = ProxyProtocolSSLTLV(init=result.tlv.ssl, cn=names[-1] if names else None, client_cert=certificate)
    protocol = tls.selected_alpn_protocol() if "alpn" in additions else None
    tlv = ProxyProtocolTLV(
        alpn=None if protocol is None else protocol.encode(),
        authority=authority if "authority" in additions else None,
        unique_id=unique_id,
        ssl=facts,
        ext=result.tlv.ext if "ext" in additions else ProxyProtocolExtTLV(dnsbl=dnsbl),
    )
    return result.replace(tlv=tlv)
