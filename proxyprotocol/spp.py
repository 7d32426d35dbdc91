"""The Simple Proxy Protocol, which Cloudflare Spectrum and Tencent EdgeOne put in front of each UDP datagram."""

from __future__ import annotations

from socket import SOCK_DGRAM
from typing import Final

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol, check_signature, signature_begins
from proxyprotocol.errors import ProxyProtocolIncompleteError, ProxyProtocolWantRead
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6

__all__ = ["ProxyProtocolSPP"]

_ADDRESSES_AT: Final = len(spec.SPP_SIGNATURE)
_DEST_AT: Final = _ADDRESSES_AT + 16
_PORTS_AT: Final = _DEST_AT + 16


class ProxyProtocolSPP(ProxyProtocol):
    """The 38 bytes of the Simple Proxy Protocol: a magic number, two addresses of 16 bytes, two ports.

    It is only for datagrams. :class:`.ProxyProtocolDetect` does not take it: its magic number has two bytes, and an
    application's own data may begin with them. The proxy accepts an answer only if it begins with the header of the
    question; the datagram adapters put it there.

    IPv4 is written as IPv4-mapped IPv6. If only one of the two addresses is, the result is IPv6 and has the mapped
    address. The destination is the address of the proxy, where the client's datagram came in.
    """

    __slots__ = ()

    for_datagrams = True

    def is_valid(self, signature: bytes) -> bool:
        return bytes(signature[: len(spec.SPP_SIGNATURE)]) == spec.SPP_SIGNATURE

    def unpack(self, data: bytes) -> ProxyResult:
        found = self.parse(bytes(data))
        if isinstance(found, int):
            raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(found - len(data)))
        return found[0]

    def parse(self, data: bytes, max_header: int = spec.V2_MAX_LENGTH) -> tuple[ProxyResult, int] | int:
        """Parse the header; its length is always 38 bytes. See :meth:`.ProxyProtocol.parse`."""
        if not check_signature(data, spec.SPP_SIGNATURE) or len(data) < spec.SPP_LENGTH:
            return spec.SPP_LENGTH
        source, dest = data[_ADDRESSES_AT:_DEST_AT], data[_DEST_AT:_PORTS_AT]
        mapped = spec.IPV4_MAPPED
        if source.startswith(mapped) and dest.startswith(mapped):
            block = source[len(mapped) :] + dest[len(mapped) :] + data[_PORTS_AT : spec.SPP_LENGTH]
            return ProxyResultIPv4.from_block(block, SOCK_DGRAM, b""), spec.SPP_LENGTH
        # the rest is laid out as the block of version 2
        return ProxyResultIPv6.from_block(data[_ADDRESSES_AT : spec.SPP_LENGTH], SOCK_DGRAM, b""), spec.SPP_LENGTH

    def pack(self, result: ProxyResult) -> bytes:
        """Write a header. It leaves out the TLVs.

        Args:
            result: What the header says.

        Raises:
            ValueError: The result does not name a client of UDP.
        """
        block = result.address_block() if result.protocol in (SOCK_DGRAM, None) else b""
        if isinstance(result, ProxyResultIPv4) and block:
            block = spec.IPV4_MAPPED + block[:4] + spec.IPV4_MAPPED + block[4:]
        elif not isinstance(result, ProxyResultIPv6) or not block:
            raise ValueError(f"The Simple Proxy Protocol names IPv4 and IPv6 clients of UDP, it cannot say {result!r}")
        return spec.SPP_SIGNATURE + block

    def begins(self, data: bytes | bytearray) -> bool | None:
        return signature_begins(data, spec.SPP_SIGNATURE)
