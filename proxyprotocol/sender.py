"""The header that a client sends on a new connection. Every client in this package uses a Sender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeAlias

from proxyprotocol.codec import ProxyProtocol, check_for_streams
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6, ProxyResultLocal, ProxyResultUnknown
from proxyprotocol.typing import SockAddr
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["ResultSource", "Sender", "name_ends"]

#: What a header says: a result, a function of the new connection that returns one, or None for a client that speaks for
#: itself.
ResultSource: TypeAlias = "ProxyResult | Callable[[Any], ProxyResult | None] | None"

_DEFAULT = ProxyProtocolV2()


@dataclass(frozen=True)
class Sender:
    """The rules for the headers that a client sends. One object serves all its connections.

    Args:
        result: What the header says, or a function that gets the new connection and returns it. If it is None, or the
            function returns None, the client speaks for itself: it sends LOCAL, or the connection's own two addresses
            if the codec cannot express LOCAL.
        pp: The codec; by default version 2.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The codec is only for datagrams.
    """

    result: ResultSource = None
    _: KW_ONLY
    pp: ProxyProtocol | None = None

    def __post_init__(self) -> None:
        if self.pp is not None and not isinstance(self.pp, ProxyProtocol):
            raise TypeError(f"pp must be a codec, such as ProxyProtocolV2(), not {self.pp!r}")
        if self.pp is not None:
            check_for_streams(self.pp)
        if self.result is not None and not isinstance(self.result, ProxyResult) and not callable(self.result):
            raise TypeError(f"result must be a ProxyResult or a function that returns one, not {self.result!r}")

    def header(self, connection: Any, local: SockAddr, peer: SockAddr) -> bytes:
        """Write the header of one connection. Send it in one piece, before anything else.

        Args:
            connection: The argument for the result function: a transport or a socket.
            local: The connection's own address, as the socket module gives it.
            peer: The address that it has connected to, in the same form.

        Raises:
            KeyError: The format cannot express the result.
            ValueError: The same, or an address or a TLV does not fit in a header.
            TypeError: The result function returned something else.
            Exception: Whatever the result function raises.
        """
        codec = _DEFAULT if self.pp is None else self.pp
        result = self.result
        if result is not None and not isinstance(result, ProxyResult):
            result = result(connection)
            if result is not None and not isinstance(result, ProxyResult):
                raise TypeError(f"The result function must return a ProxyResult or None, not {result!r}")
        if result is not None:
            return codec.pack(result)
        try:
            return codec.pack(ProxyResultLocal())
        except (KeyError, ValueError):
            return codec.pack(name_ends(local, peer))


def name_ends(source: SockAddr, dest: SockAddr) -> ProxyResult:
    """Return a result with the two ends of a connection, as the socket module gives them; without IP, UNKNOWN."""
    if isinstance(source, tuple) and isinstance(dest, tuple):
        if len(source) == len(dest) == 2:
            return ProxyResultIPv4((IPv4Address(source[0]), source[1]), (IPv4Address(dest[0]), dest[1]))
        return ProxyResultIPv6((IPv6Address(source[0]), source[1]), (IPv6Address(dest[0]), dest[1]))
    return ProxyResultUnknown()
