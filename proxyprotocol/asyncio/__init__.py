"""asyncio and uvloop: the real client for any application, by the functions of asyncio's own names, or by the loop."""

from __future__ import annotations

from proxyprotocol._adapters import installation  # noqa: F401  # raises where proxy-protocol lies over us
from proxyprotocol.asyncio.client import create_connection, open_connection
from proxyprotocol.asyncio.datagram import ProxyProtocolDatagramTransport, create_datagram_endpoint
from proxyprotocol.asyncio.factory import ProxyProtocolFactory
from proxyprotocol.asyncio.loop import new_event_loop, new_uvloop_event_loop
from proxyprotocol.asyncio.server import (
    ProxyProtocolServer,
    create_server,
    create_unix_server,
    start_server,
    start_unix_server,
    wrap_protocol_factory,
)
from proxyprotocol.asyncio.transport import ProxyProtocolTransport

__all__ = [
    "ProxyProtocolDatagramTransport",
    "ProxyProtocolFactory",
    "ProxyProtocolServer",
    "ProxyProtocolTransport",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_server",
    "new_event_loop",
    "new_uvloop_event_loop",
    "open_connection",
    "start_server",
    "start_unix_server",
    "wrap_protocol_factory",
]
