"""Floor 0: the public aliases and Protocols that the signatures of this package are written with."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol, TypeAlias

__all__ = ["Address", "Cipher", "PeerCert", "SockAddr", "StreamReaderProtocol", "TransportProtocol"]

#: A socket address as the :mod:`socket` module gives it: a tuple that begins with host and port, a UNIX path, or None.
SockAddr: TypeAlias = "tuple[Any, ...] | str | None"

#: An address as :attr:`.ProxyResult.source` gives it: an IP address with a port, a UNIX path, or None.
Address: TypeAlias = "tuple[IPv4Address, int] | tuple[IPv6Address, int] | str | None"

#: What :meth:`ssl.SSLSocket.cipher` gives: name, version of the protocol and number of secret bits.
Cipher: TypeAlias = "tuple[str, str | None, int | None]"

#: What :meth:`ssl.SSLSocket.getpeercert` gives.
PeerCert: TypeAlias = Mapping[str, Any]


class TransportProtocol(Protocol):
    """What is needed of a transport: an :class:`asyncio.BaseTransport` and an :class:`asyncio.StreamWriter` have it."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Tell a fact about the connection.

        Args:
            name: Which one, such as ``"peername"``.
            default: What to answer where it is not known.
        """
        ...


class StreamReaderProtocol(Protocol):
    """What is needed of a stream to read from: an :class:`asyncio.StreamReader` has it.

    A ``read(n)`` that returns what is there is used where the stream has one, so that a wrong first byte is refused at
    once.
    """

    def readexactly(self, n: int) -> Awaitable[bytes]:
        """Read just *n* bytes.

        Args:
            n: How many bytes.

        Raises:
            asyncio.IncompleteReadError: The stream ended before.
        """
        ...

    def readline(self) -> Awaitable[bytes]:
        """Read up to and including the next line feed. Kept for the established package; nothing here calls it."""
        ...
