"""The header that a client sends on a new connection. Every client in this package uses a Sender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeAlias

from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6, ProxyResultLocal, ProxyResultUnknown
from proxyprotocol.typing import SockAddr
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["ResultSource", "Sender", "name_ends"]

#: What a header is to say: a result, a function of the new connection that gives one, or None for a client that speaks
#: for itself.
ResultSource: TypeAlias = "ProxyResult | Callable[[Any], ProxyResult | None] | None"

_DEFAULT = ProxyProtocolV2()


@dataclass(frozen=True)
class Sender:
    """What is sent in front of connections, one object for all connections of a client.

    Args:
        result: What the header says, or a function that is given the new connection and says it. With None, the
            function's None too, the client speaks for itself: LOCAL, or the connection's own two addresses where the
            codec has no way to say LOCAL.
        pp: The codec; version 2 unless given.

    Raises:
        TypeError: An argument is of another type.
    """

    result: ResultSource = None
    _: KW_ONLY
    pp: ProxyProtocol | None = None

    def __post_init__(self) -> None:
        if self.pp is not None and not isinstance(self.pp, ProxyProtocol):
            raise TypeError(f"pp must be a codec, such as ProxyProtocolV2(), not {self.pp!r}")
        if self.result is not None and not isinstance(self.result, ProxyResult) and not callable(self.result):
            raise TypeError(f"result must be a ProxyResult or a function that returns one, not {self.result!r}")

    def header(self, connection: Any, local: SockAddr, peer: SockAddr) -> bytes:
        """Write the header of one connection. It must be sent before anything else, and in one piece.

        Args:
            connection: What the function is given that says what the header says: a transport or a socket.
            local: The connection's own address, as the socket module gives it.
            peer: The address that it has connected to, in the same form.

        Raises:
            KeyError: The format has no way to say this.
            ValueError: The format has no way to say this, or an address or a TLV does not fit in a header.
            TypeError: The function has given something else.
            Exception: Whatever the function raises.
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
    """Name the two ends of a connection, in a way that both versions have: what is no IP address is unknown.

    Args:
        source: The end that has connected, as the socket module gives it.
        dest: The end that it has connected to, in the same form.
    """
    if isinstance(source, tuple) and isinstance(dest, tuple):
        if len(source) == len(dest) == 2:
            return ProxyResultIPv4((IPv4Address(source[0]), source[1]), (IPv4Address(dest[0]), dest[1]))
        return ProxyResultIPv6((IPv6Address(source[0]), source[1]), (IPv6Address(dest[0]), dest[1]))
    return ProxyResultUnknown()
