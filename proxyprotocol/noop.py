"""The codec that reads and writes nothing, for connections without a header."""

from __future__ import annotations

from typing import NoReturn

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.result import ProxyResult, ProxyResultLocal

__all__ = ["ProxyProtocolNoop"]


class ProxyProtocolNoop(ProxyProtocol):
    """Disables the PROXY protocol: every connection starts without a header."""

    __slots__ = ()

    def is_valid(self, signature: bytes) -> NoReturn:
        """Raise NotImplementedError: there are no bytes to recognise."""
        raise NotImplementedError("A connection without a header cannot be recognised by its first bytes")

    def unpack(self, data: bytes) -> ProxyResultLocal:
        return ProxyResultLocal()

    def pack(self, result: ProxyResult) -> bytes:
        return b""

    def parse(self, data: bytes, max_header: int = spec.V2_MAX_LENGTH) -> tuple[ProxyResult, int]:
        return ProxyResultLocal(), 0

    def begins(self, data: bytes | bytearray) -> bool:
        return False
