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
from typing import Any, Final

from proxyprotocol._adapters.deadlines import check_seconds
from proxyprotocol.asyncio.delivery import deliver

__all__ = ["TLS", "is_tls"]

_FIRST_BUFFER: Final = 16 * 1024  # bytes; room for a record. A handshake needs less
_LARGEST_BUFFER: Final = 256 * 1024  # bytes; asyncio's own, which it makes at once


def is_tls(protocol: asyncio.BaseProtocol) -> bool:
    """Return whether a protocol is asyncio's TLS."""
    return isinstance(protocol, SSLProtocol)


class TLS:
    """How TLS is done behind the headers of a server or a client.

    Args:
        context: The context.
        ssl_handshake_timeout: How long a handshake may take, in seconds; None for asyncio's 60.
        ssl_shutdown_timeout: How long the end of TLS may take, in seconds; None for asyncio's 30.
        server_hostname: For a client: the name that the server must have.

    Raises:
        TypeError: The context is none, or this Python knows no *ssl_shutdown_timeout*.
        ValueError: A time is not above 0.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        server_hostname: str | None = None,
    ) -> None:
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(f"TLS takes an ssl.SSLContext, not {context!r}")
        times = {"ssl_handshake_timeout": ssl_handshake_timeout, "ssl_shutdown_timeout": ssl_shutdown_timeout}
        for name, seconds in times.items():
            check_seconds(name, seconds)
        if ssl_shutdown_timeout is not None and sys.version_info < (3, 11):
            raise TypeError("ssl_shutdown_timeout needs Python 3.11 or later")
        self._context = context
        self._server_hostname = server_hostname
        self._times: dict[str, Any] = {name: seconds for name, seconds in times.items() if seconds is not None}

    def begin(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        *,
        lost: Callable[[BaseException | None], object],
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
            waiter: A future that is done when the handshake has ended; with an exception where it has failed, unless
                the connection was ended here.
        """
        loop = asyncio.get_running_loop()
        hostname = self._server_hostname
        tls = _Protocol(loop, protocol, self._context, waiter, server_side, hostname, **self._times)
        tls.lost = lost
        transport.set_protocol(tls)
        tls.connection_made(transport)
        deliver(transport, data)

    async def shake_hands(
        self,
        transport: asyncio.Transport,
        begin: Callable[[asyncio.Transport], object],
        *,
        lost: Callable[[BaseException | None], object] | None = None,
        data: bytes = b"",
        server_side: bool,
    ) -> asyncio.Transport:
        """Begin a handshake, and wait for its end. If this raises, the connection is aborted.

        Args:
            transport: The connection's transport, paused or not.
            begin: Called with the transport of TLS when the handshake is done, and before what follows it is read. It
                must not raise.
            lost: Called with the reason when the connection is lost before that.
            data: The peer's first bytes, where they have been read already.
            server_side: Whether it is the peer who speaks first.

        Returns:
            The transport of TLS.

        Raises:
            OSError: There is no TLS: the connection was lost, the peer is not whom it should be, or time has run out.
            ValueError: The context and the server's name do not go together.
        """
        if transport.is_closing():
            raise ConnectionAbortedError("The connection was lost before its TLS handshake")
        waiter = asyncio.get_running_loop().create_future()
        handshake = _AboveTLS(begin, lost)
        try:
            # nothing is read before TLS has begun: there is no turn of the loop in between
            transport.resume_reading()
            self.begin(transport, handshake, lost=handshake.lost, data=data, server_side=server_side, waiter=waiter)
            await waiter
            if handshake.transport is None:
                raise ConnectionAbortedError("The connection was lost in its TLS handshake")
        except BaseException:
            # the upper one knows the lower one, but CPython 3.10 does not tell it if that is aborted
            (handshake.transport or transport).abort()
            raise
        finally:
            del waiter  # whose exception's traceback holds this frame
        return handshake.transport


class _AboveTLS(asyncio.Protocol):
    """Stands above TLS until the handshake is done.

    Args:
        begin: Called then, with the transport of TLS.
        lost: Called if the connection is lost before, with the reason.
    """

    transport: asyncio.Transport | None = None

    def __init__(
        self,
        begin: Callable[[asyncio.Transport], object],
        lost: Callable[[BaseException | None], object] | None,
    ) -> None:
        self._begin, self._lost = begin, lost

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._begin(transport)
        del self._begin, self._lost  # this is kept as long as the connection, and they are needed no more

    def lost(self, error: BaseException | None) -> None:
        # who has begun is told by TLS
        if self.transport is None and self._lost is not None:
            self._lost(error)


class _Protocol(SSLProtocol):
    lost: Callable[[BaseException | None], object]
    max_size = _FIRST_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read, and make the buffer larger where it was full. CPython 3.10 has none."""
        if nbytes == self.max_size < _LARGEST_BUFFER:
            self.max_size *= 4
        super().buffer_updated(nbytes)  # type: ignore[misc]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost(exc)
        del self.lost  # whoever it tells may hold this
        super().connection_lost(exc)
