"""asyncio and uvloop: functions with asyncio's own names, and event loops, that show the client to any application."""

from __future__ import annotations

from proxyprotocol._adapters import installation  # noqa: F401  # raises if proxy-protocol is installed over this package
from proxyprotocol.asyncio.client import create_connection, open_connection
from proxyprotocol.asyncio.datagram import ProxyProtocolDatagramTransport, create_datagram_endpoint
from proxyprotocol.asyncio.factory import ProxyProtocolFactory, wrap_protocol_factory
from proxyprotocol.asyncio.loop import new_event_loop, new_uvloop_event_loop
from proxyprotocol.asyncio.server import (
    ProxyProtocolServer,
    create_server,
    create_unix_server,
    start_server,
    start_unix_server,
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
