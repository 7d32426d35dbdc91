"""Floor 6: the relay and the echo server, as the commands ``proxyprotocol-server`` and ``proxyprotocol-echo``.

:class:`Relay` is what the first of them runs; other programs can run one too.
"""

from __future__ import annotations

from proxyprotocol.server.address import Address
from proxyprotocol.server.relay import Relay, Service, parse_service

__all__ = ["Address", "Relay", "Service", "parse_service"]
