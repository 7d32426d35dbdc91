"""Floor 2: the codec that reads and writes nothing, for connections without a header."""

from __future__ import annotations

from typing import NoReturn

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.result import ProxyResult, ProxyResultLocal

__all__ = ["ProxyProtocolNoop"]


class ProxyProtocolNoop(ProxyProtocol):
    """Stands where a codec must, and disables the PROXY protocol: every connection is its own."""

    __slots__ = ()

    def is_valid(self, signature: bytes) -> NoReturn:
        """There is nothing to recognise.

        Args:
            signature: Not looked at.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("A connection without a header cannot be recognised by its first bytes")

    def unpack(self, data: bytes) -> ProxyResultLocal:
        return ProxyResultLocal()

    def pack(self, result: ProxyResult) -> bytes:
        return b""

    def parse(self, data: bytes, max_header: int = spec.V2_MAX_LENGTH) -> tuple[ProxyResult, int]:
        return ProxyResultLocal(), 0

    def begins(self, data: bytes | bytearray) -> bool:
        return False
