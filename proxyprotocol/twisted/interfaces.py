"""Floor 5: what a Twisted application can ask a transport whose connection came through a proxy."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.python.components import registerAdapter
from zope.interface import Interface, implementer

from proxyprotocol.result import ProxyResult

__all__ = ["IProxiedTransport", "proxy_result"]

# What is put on a transport at the hand-over. It refers to nothing that refers to the transport: no cycle.
FACTS = "_proxyprotocol_facts"


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
class ProxyFacts:
    """The answers to IProxiedTransport.

    Args:
        result: What the header said.
        peer: The address that really connected.
    """

    __slots__ = ("_peer", "_result")

    def __init__(self, result: ProxyResult, peer: IAddress) -> None:
        self._result = result
        self._peer = peer

    def getProxyResult(self) -> ProxyResult:
        """Give what the header said."""
        return self._result

    def getProxyPeer(self) -> IAddress:
        """Give the address that really connected."""
        return self._peer


def proxy_facts(transport: Any) -> ProxyFacts | None:
    """Find the facts on a transport or on one below it.

    Args:
        transport: An application's transport.
    """
    while transport is not None:
        facts: ProxyFacts | None = getattr(transport, FACTS, None)
        if facts is not None:
            return facts
        transport = getattr(transport, "transport", None)
    return None


def proxy_result(transport: Any) -> ProxyResult | None:
    """Tell what the header of a connection said, through TLS too.

    Args:
        transport: The application's transport.

    Returns:
        The result; None where there was no header.
    """
    facts = proxy_facts(transport)
    return None if facts is None else facts.getProxyResult()


registerAdapter(proxy_facts, Interface, IProxiedTransport)
