"""The relay and the echo server, as the commands ``proxyprotocol-server`` and ``proxyprotocol-echo``.

Other programs can run a :class:`Relay` too.
"""

from __future__ import annotations

from proxyprotocol.server.address import Address
from proxyprotocol.server.relay import Relay, Service, parse_service

__all__ = ["Address", "Relay", "Service", "parse_service"]
