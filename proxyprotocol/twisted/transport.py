"""Floor 5: what a Twisted application can ask a transport whose connection came through a proxy."""

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
    """What is known of a connection that began with a PROXY protocol header.

    ``IProxiedTransport(transport)`` works by adaptation, through TLS too: Twisted's ``startTLS`` resets what a
    transport itself provides. It raises TypeError for a connection without a header.
    """

    def getProxyResult() -> ProxyResult:
        """Give what the header said.

        Returns:
            The result, whose ``tlv`` holds what else came.
        """

    def getProxyPeer() -> IAddress:
        """Give the address that really connected.

        Returns:
            The proxy's address.
        """


@implementer(IProxiedTransport)
class _ProxiedTransport:
    """Answers for a transport that has a result."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._result: ProxyResult
        self._result, self._client = getattr(transport, HEADER)

    def getProxyResult(self) -> ProxyResult:
        """Give what the header said."""
        return self._result

    def getProxyPeer(self) -> IAddress:
        """Give the address that really connected; where it was no attribute, the transport's class still tells it."""
        if self._client is not None:
            return from_client(self._client)
        peer: IAddress = type(self._transport).getPeer(self._transport)
        return peer


def _adapt(transport: Any) -> _ProxiedTransport | None:
    """Find the transport with a result: the application's own, or one below it."""
    for layer in layers(transport):
        if HEADER in own_attributes(layer):
            return _ProxiedTransport(layer)
    return None


def proxy_result(transport: Any) -> ProxyResult | None:
    """Tell what the header of a connection said, through TLS too.

    Args:
        transport: The application's transport.

    Returns:
        The result; None where there was no header.
    """
    proxied = _adapt(transport)
    return None if proxied is None else proxied.getProxyResult()


registerAdapter(_adapt, Interface, IProxiedTransport)
