"""asyncio and uvloop: the real client for any application, by the functions of asyncio's own names, or by the loop."""

from __future__ import annotations

from .. import _installation  # noqa: F401  # raises where proxy-protocol lies over us
from .client import create_connection, open_connection
from .datagram import ProxyProtocolDatagramTransport, create_datagram_endpoint
from .factory import ProxyProtocolFactory
from .loop import new_event_loop, new_uvloop_event_loop
from .server import (
    ProxyProtocolServer,
    create_server,
    create_unix_server,
    start_server,
    start_unix_server,
    wrap_protocol_factory,
)
from .transport import ProxyProtocolTransport

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
