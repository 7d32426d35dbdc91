"""aiosmtpd: a mix-in for its controllers, so that ``session.peer`` is the client."""

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
    BaseController = object  # the mix-in is not a controller itself; the class that uses it is

__all__ = ["ProxyProtocolMixIn", "switch_on"]


class ProxyProtocolMixIn(BaseController):
    """Lets an aiosmtpd controller read a header at the start of each connection.

    Put it first among the base classes: ``class Controller(ProxyProtocolMixIn, aiosmtpd.controller.Controller)``. The
    other class may be any of aiosmtpd's, also for UNIX sockets or without a thread. The handler finds the client in
    ``session.peer``, also after ``STARTTLS``, and with TLS from the start (``ssl_context``), which comes *after* the
    header. Do not set aiosmtpd's own ``proxy_protocol_timeout``: it would wait for a second header.

    Attributes:
        receiver: The rules for the header, a class attribute:
            ``receiver = Receiver(policy=TrustedProxies(["10.0.0.0/8"]))``.
        tls_timeout: Seconds that the handshake of that TLS may take; None for no limit.
    """

    receiver: Receiver = Receiver()
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT

    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        keywords: Any = {"ssl": self.ssl_context, "tls_timeout": self.tls_timeout, "receiver": self.receiver}
        if hasattr(self, "unix_socket"):
            return create_unix_server(self._factory_invoker, self.unix_socket, **keywords)
        # getattr, because mypy knows these attributes only of the other controllers
        hostname, port = (getattr(self, name) for name in ("hostname", "port"))
        return create_server(self._factory_invoker, hostname, port, **keywords)

    def _trigger_server(self) -> None:
        # A controller tries at its start whether it can make an SMTP server. aiosmtpd connects to its own port for
        # that: without a header, and from an address that the policy may not trust. This needs no connection.
        self.loop.call_soon_threadsafe(self._factory_invoker)


def switch_on() -> None:
    """Let no controller connect to its own port, for ``proxyprotocol run``; the listeners are the loop's."""
    from aiosmtpd.controller import InetMixin, UnixSocketMixin

    kinds: list[Any] = [InetMixin, UnixSocketMixin]
    for kind in kinds:
        kind._trigger_server = ProxyProtocolMixIn._trigger_server
