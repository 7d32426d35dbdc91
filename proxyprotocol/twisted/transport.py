"""Twisted's transports: their addresses, their layers, and what an application can ask them about the header."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.tcp import Server
from twisted.logger import Logger, LogLevel
from twisted.python.components import registerAdapter
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.twisted.typing import Interface, method
from proxyprotocol.typing import SockAddr

__all__ = [
    "AT_THE_SOCKET",
    "HEADER",
    "IN_A_LAYER",
    "IProxiedTransport",
    "abort",
    "addresses",
    "describe_peer",
    "emit",
    "find_slot",
    "from_sockaddr",
    "layers",
    "local_address",
    "log",
    "log_prefix",
    "proxy_peer",
    "proxy_result",
    "to_sockaddr",
]

log: Logger = Logger(namespace="proxyprotocol.twisted")
_LEVELS: Final = {
    logging.DEBUG: LogLevel.debug,
    logging.INFO: LogLevel.info,
    logging.WARNING: LogLevel.warn,
    logging.ERROR: LogLevel.error,
}

# the attribute in which a transport keeps its result and its former ``client``
HEADER: Final = "_proxyprotocol_header"
# the attributes in which Twisted's transports keep their protocol
AT_THE_SOCKET: Final = "protocol"
IN_A_LAYER: Final = "wrappedProtocol"
# far more than any application stacks; it also ends the search if transports form a ring
_MOST_LAYERS: Final = 32


class IProxiedTransport(Interface):
    """Information about a connection that began with a PROXY protocol header.

    ``IProxiedTransport(transport)`` adapts a transport, through TLS as well. We register an adapter because Twisted's
    ``startTLS`` resets the interfaces that a transport itself provides. A connection without a header raises TypeError.
    """

    @method
    def getProxyResult() -> ProxyResult:  # type: ignore[empty-body]
        """Return what the header said; the result's ``tlv`` holds the additional fields."""

    @method
    def getProxyPeer() -> IAddress:  # type: ignore[empty-body]
        """Return the address of the proxy, which is the address that really connected."""


@implementer(IProxiedTransport)  # type: ignore[misc]  # for type checkers it is an ordinary class
class _ProxiedTransport:
    """Adapts a transport that has a result."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def getProxyResult(self) -> ProxyResult:
        result: ProxyResult = getattr(self._transport, HEADER)[0]
        return result

    def getProxyPeer(self) -> IAddress:
        client = getattr(self._transport, HEADER)[1]
        if client is None:
            # handing over replaced getPeer only on the instance: the class still returns the proxy's address
            peer: IAddress = type(self._transport).getPeer(self._transport)
            return peer
        return from_sockaddr(os.fsdecode(client[0]) if client[1] is None else client)


def _adapt(transport: Any) -> _ProxiedTransport | None:
    """Find the transport with a result: the application's own, or one below it."""
    for layer in layers(transport):
        if HEADER in getattr(layer, "__dict__", ()):
            return _ProxiedTransport(layer)
    return None


def proxy_result(transport: Any) -> ProxyResult | None:
    """Return what the header of a connection said, through TLS as well.

    Args:
        transport: The application's transport.

    Returns:
        The result; None if there was no header.
    """
    proxied = _adapt(transport)
    return None if proxied is None else proxied.getProxyResult()


registerAdapter(_adapt, Interface, IProxiedTransport)


def emit(level: int, text: str, fields: Mapping[str, Any], error: BaseException | None = None) -> None:
    """Write a line of a listener to Twisted's log: the fields become keys of the event."""
    failure = {} if error is None else {"log_failure": Failure(error, type(error), error.__traceback__)}
    log.emit(_LEVELS[level], "{text}", text=text, **fields, **failure)


def layers(transport: Any) -> Iterator[Any]:
    """Yield a transport and the transports below it, as layers such as TLS keep them."""
    for _ in range(_MOST_LAYERS):
        if transport is None:
            return
        yield transport
        # own attributes only: a mock in a test makes up every attribute, so it would never run out of transports
        transport = getattr(transport, "__dict__", {}).get("transport")


def find_slot(transport: Any, protocol: IProtocol) -> str | None:
    """Return the name of the attribute in which a transport keeps *protocol*; None if the transport's kind is unknown.

    The socket's attribute is tried first: a ``ProtocolWrapper``, such as TLS, looks it up on the socket below.
    """
    if getattr(transport, AT_THE_SOCKET, None) is protocol:
        return AT_THE_SOCKET
    return IN_A_LAYER if getattr(transport, IN_A_LAYER, None) is protocol else None


def abort(transport: Any) -> None:
    """Drop a connection at once; a transport without ``abortConnection``, such as standard input, closes normally."""
    (getattr(transport, "abortConnection", None) or transport.loseConnection)()


def log_prefix(protocol: Any) -> str:
    """Return the name of a protocol in the log, as Twisted's transports make it."""
    prefix: str = protocol.logPrefix() if hasattr(protocol, "logPrefix") else type(protocol).__name__
    return prefix


def local_address(transport: Any) -> SockAddr:
    """Return the address of a port, or of our end of a connection.

    None if it is unknown, as after a connection was lost: Twisted asks the socket.
    """
    try:
        return to_sockaddr(transport.getHost())
    except (AttributeError, OSError):
        return None


def addresses(transport: Any) -> tuple[SockAddr, SockAddr]:
    """Return the address that connected and our own; without Twisted's objects for them where that is possible."""
    if type(transport) is Server and len(transport.client) == 2:
        return transport.client, transport.socket.getsockname()
    return to_sockaddr(transport.getPeer()), to_sockaddr(transport.getHost())


def proxy_peer(transport: Any) -> SockAddr:
    """Return the address that really connected, after the hand-over too."""
    proxied = _adapt(transport)
    return to_sockaddr(transport.getPeer() if proxied is None else proxied.getProxyPeer())


def describe_peer(transport: Any) -> str:
    """Return the address of a transport's peer as text."""
    return describe_address(to_sockaddr(transport.getPeer()))


def to_sockaddr(address: IAddress) -> SockAddr:
    """Convert a Twisted address to the form of the socket module; any other kind of address gives None."""
    if isinstance(address, IPv4Address):
        return address.host, address.port
    if isinstance(address, IPv6Address):
        return address.host, address.port, address.flowInfo, address.scopeID
    if isinstance(address, UNIXAddress):
        return "" if address.name is None else os.fsdecode(address.name)
    return None


def from_sockaddr(address: Any) -> IAddress:
    """Convert a result's ``peername`` or ``sockname``, not None, to a Twisted address."""
    if type(address) is str:
        return UNIXAddress(os.fsencode(address) or None)
    if len(address) == 2:
        return IPv4Address("TCP", address[0], address[1])
    return IPv6Address("TCP", *address)
