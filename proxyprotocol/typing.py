"""The public type aliases and Protocols in the signatures of this package."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol, TypeAlias

__all__ = ["Address", "Cipher", "PeerCert", "SockAddr", "StreamReaderProtocol", "TransportProtocol"]

#: A socket address of the :mod:`socket` module: a tuple that starts with host and port, a UNIX path, or None.
SockAddr: TypeAlias = "tuple[Any, ...] | str | None"

#: An address in a :class:`.ProxyResult`: an IP address with a port, a UNIX path, or None.
Address: TypeAlias = "tuple[IPv4Address, int] | tuple[IPv6Address, int] | str | None"

#: The result of :meth:`ssl.SSLSocket.cipher`: name, version of the protocol and number of secret bits.
Cipher: TypeAlias = "tuple[str, str | None, int | None]"

#: The result of :meth:`ssl.SSLSocket.getpeercert`.
PeerCert: TypeAlias = Mapping[str, Any]


class TransportProtocol(Protocol):
    """A transport, such as an :class:`asyncio.BaseTransport` or an :class:`asyncio.StreamWriter`."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the connection.

        Args:
            name: The fact, such as ``"peername"``.
            default: The answer if the transport does not know.
        """
        ...


class StreamReaderProtocol(Protocol):
    """A stream to read from, such as an :class:`asyncio.StreamReader`.

    If the stream also has a ``read(n)`` that returns the bytes that have arrived, the reader rejects a wrong first byte
    at once.
    """

    def readexactly(self, n: int) -> Awaitable[bytes]:
        """Read exactly *n* bytes.

        Args:
            n: How many bytes.

        Raises:
            asyncio.IncompleteReadError: The stream ended earlier.
        """
        ...

    def readline(self) -> Awaitable[bytes]:
        """Read up to and including the next line feed. Kept for `proxy-protocol`; nothing calls it here."""
        ...
