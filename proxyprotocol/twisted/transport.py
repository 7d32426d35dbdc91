"""What a Twisted application can ask a transport about the proxy and the header."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.python.components import registerAdapter
from zope.interface import Interface, implementer

from proxyprotocol.result import ProxyResult
from proxyprotocol.twisted.addresses import from_client
from proxyprotocol.twisted.handover import HEADER, layers, own_attributes

__all__ = ["IProxiedTransport", "proxy_result"]


class IProxiedTransport(Interface):
    """Information about a connection that began with a PROXY protocol header.

    ``IProxiedTransport(transport)`` adapts a transport, through TLS as well. We register an adapter because Twisted's
    ``startTLS`` resets the interfaces that a transport itself provides. A connection without a header raises TypeError.
    """

    def getProxyResult() -> ProxyResult:
        """Return what the header said.

        Returns:
            The result; its ``tlv`` holds the additional fields.
        """

    def getProxyPeer() -> IAddress:
        """Return the address of the proxy, which is the address that really connected."""


@implementer(IProxiedTransport)
class _ProxiedTransport:
    """Adapts a transport that has a result."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._result: ProxyResult
        self._result, self._client = getattr(transport, HEADER)

    def getProxyResult(self) -> ProxyResult:
        return self._result

    def getProxyPeer(self) -> IAddress:
        if self._client is not None:
            return from_client(self._client)
        # handing over replaced getPeer only on the instance: the class still returns the proxy's address
        peer: IAddress = type(self._transport).getPeer(self._transport)
        return peer


def _adapt(transport: Any) -> _ProxiedTransport | None:
    """Find the transport with a result: the application's own, or one below it."""
    for layer in layers(transport):
        if HEADER in own_attributes(layer):
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
