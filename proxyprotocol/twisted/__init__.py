"""Twisted: the real client for any application, by wrapping its factory, its endpoint or its endpoint string."""

from __future__ import annotations

from proxyprotocol._adapters import installation  # noqa: F401  # raises where proxy-protocol lies over us
from proxyprotocol.twisted.client import ProxyProtocolClientEndpoint
from proxyprotocol.twisted.datagram import IProxiedDatagramTransport, ProxyProtocolDatagramWrapper
from proxyprotocol.twisted.endpoints import ProxyProtocolServerEndpoint
from proxyprotocol.twisted.interfaces import IProxiedTransport, proxy_result
from proxyprotocol.twisted.wrapper import ProxyProtocolWrapper, ProxyProtocolWrapperFactory

__all__ = [
    "IProxiedDatagramTransport",
    "IProxiedTransport",
    "ProxyProtocolClientEndpoint",
    "ProxyProtocolDatagramWrapper",
    "ProxyProtocolServerEndpoint",
    "ProxyProtocolWrapper",
    "ProxyProtocolWrapperFactory",
    "proxy_result",
]
