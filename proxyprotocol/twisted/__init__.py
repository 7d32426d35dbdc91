"""Twisted: the real client for any application, by wrapping its factory, its endpoint or its endpoint string."""

from __future__ import annotations

from .. import _installation  # noqa: F401  # raises where proxy-protocol lies over us
from .client import ProxyProtocolClientEndpoint
from .datagram import IProxiedDatagramTransport, ProxyProtocolDatagramWrapper
from .endpoints import ProxyProtocolServerEndpoint
from .interfaces import IProxiedTransport, proxy_result
from .wrapper import ProxyProtocolWrapper, ProxyProtocolWrapperFactory

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
