"""Floor 5: TLS behind a header, on asyncio's and on uvloop's own transports alike."""

from __future__ import annotations

import asyncio
import ssl
import sys

# Not public. Tried instead: loop.start_tls. Its caller goes on after the first data have come, on asyncio even after a
# close_notify, and uvloop may read from the connection before it begins: answers and handshakes were lost. This one is
# put on the transport by the very call that has read the header's last byte.
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any

from proxyprotocol.asyncio._delivery import deliver

__all__: list[str] = []


class TLS:
    """How TLS is done behind the headers of a server or a client.

    Args:
        context: The context.
        handshake_timeout: How long a handshake may take, in seconds; None for asyncio's 60.
        shutdown_timeout: How long the end of TLS may take, in seconds; None for asyncio's 30.
        server_hostname: For a client: the name that the server must have.

    Raises:
        TypeError: The context is none, or this Python knows no *shutdown_timeout*.
        ValueError: A time is not above 0.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        handshake_timeout: float | None = None,
        shutdown_timeout: float | None = None,
        server_hostname: str | None = None,
    ) -> None:
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(f"ssl is an ssl.SSLContext, not {context!r}")
        times = {"ssl_handshake_timeout": handshake_timeout, "ssl_shutdown_timeout": shutdown_timeout}
        for name, seconds in times.items():
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{name} is a number of seconds above 0, not {seconds!r}")
        if shutdown_timeout is not None and sys.version_info < (3, 11):
            raise TypeError("ssl_shutdown_timeout needs Python 3.11 or later")
        self._context = context
        self._server_hostname = server_hostname
        self._times: dict[str, Any] = {name: seconds for name, seconds in times.items() if seconds is not None}

    def begin(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        *,
        lost: Callable[[BaseException | None], object] | None = None,
        data: bytes = b"",
        server_side: bool = True,
        waiter: Any = None,
    ) -> None:
        """Begin a handshake.

        Args:
            transport: The connection's transport.
            protocol: Its ``connection_made`` is called with the transport of TLS once the handshake is done.
            lost: Called when the connection is lost, before that or after, with the reason.
            data: The peer's first bytes, where they have been read already.
            server_side: Whether it is the peer who speaks first.
            waiter: A future that gets the outcome of the handshake.
        """
        loop = asyncio.get_running_loop()
        hostname = self._server_hostname
        tls = _Protocol(loop, protocol, self._context, waiter, server_side, hostname, **self._times)
        tls.lost = lost
        transport.set_protocol(tls)
        tls.connection_made(transport)
        deliver(transport, data)


class _Protocol(SSLProtocol):
    lost: Callable[[BaseException | None], object] | None

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.lost is not None:
            self.lost(exc)
        super().connection_lost(exc)
