"""Floor 5: aiosmtpd. A mix-in for its controllers, so that ``session.peer`` is the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from proxyprotocol._wire import spec
from proxyprotocol.asyncio.server import create_server, create_unix_server
from proxyprotocol.receiver import Receiver

if TYPE_CHECKING:
    from aiosmtpd.controller import BaseController
else:
    BaseController = object  # the mix-in is none; it stands in front of one

__all__ = ["ProxyProtocolMixIn"]


class ProxyProtocolMixIn(BaseController):
    """Makes a controller of aiosmtpd read a header in front of each connection.

    It stands first among the base classes: ``class Controller(ProxyProtocolMixIn, aiosmtpd.controller.Controller)``,
    or another of aiosmtpd's, be it for UNIX sockets or without a thread. The handler finds the client in
    ``session.peer``, also behind ``STARTTLS`` and in TLS from the beginning (``ssl_context``), which comes *behind* the
    header. Leave aiosmtpd's own ``proxy_protocol_timeout`` alone: it would wait for another header.

    Attributes:
        receiver: How connections are received. It is configured by a class attribute:
            ``receiver = Receiver(policy=TrustedProxies(["10.0.0.0/8"]))``.
        tls_timeout: How long the handshake of that TLS may take, in seconds; None for no limit.
    """

    receiver: Receiver = Receiver()
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT

    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        how: Any = {"ssl": self.ssl_context, "tls_timeout": self.tls_timeout, "receiver": self.receiver}
        if hasattr(self, "unix_socket"):
            return create_unix_server(self._factory_invoker, self.unix_socket, **how)
        # which a controller has that has no such path
        hostname, port = (getattr(self, name) for name in ("hostname", "port"))
        return create_server(self._factory_invoker, hostname, port, **how)

    def _trigger_server(self) -> None:
        """Find out, as the controller starts, whether the server can be made.

        aiosmtpd connects to itself for that, without a header, and from an address that is no trusted proxy's.
        """

        async def make() -> None:
            self._factory_invoker()

        asyncio.run_coroutine_threadsafe(make(), self.loop)
