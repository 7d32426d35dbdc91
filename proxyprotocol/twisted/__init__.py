"""Twisted: show the real client to any application, by wrapping its factory, endpoint or endpoint string."""

from __future__ import annotations

from proxyprotocol._adapters import installation  # noqa: F401  # raises if proxy-protocol has overwritten this package
from proxyprotocol.twisted.client import ProxyProtocolClientEndpoint
from proxyprotocol.twisted.datagram import IProxiedDatagramTransport, ProxyProtocolDatagramWrapper
from proxyprotocol.twisted.factory import ProxyProtocolWrapper, ProxyProtocolWrapperFactory
from proxyprotocol.twisted.server import ProxyProtocolServerEndpoint
from proxyprotocol.twisted.transport import IProxiedTransport, proxy_result

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
