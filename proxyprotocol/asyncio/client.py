"""Floor 5: connections that begin with a header of ours."""

from __future__ import annotations

import asyncio
import ssl as _ssl
from collections.abc import Callable
from typing import Any

from proxyprotocol._adapters.facts import extra_info
from proxyprotocol.asyncio.streams import STREAM_LIMIT, loop_of_streams
from proxyprotocol.asyncio.tls import TLS
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.result import ProxyResult
from proxyprotocol.sender import Sender

__all__ = ["create_connection", "open_connection"]


async def create_connection(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Any = None,
    port: Any = None,
    *,
    result: ProxyResult | Callable[[asyncio.Transport], ProxyResult | None] | None = None,
    pp: ProxyProtocol | None = None,
    ssl: _ssl.SSLContext | bool | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    **keywords: Any,
) -> tuple[asyncio.Transport, Any]:
    """Connect, as ``loop.create_connection`` does, and send a header before anything else, before TLS too.

    Args:
        protocol_factory: Makes the application's protocol, which is connected when the header has been sent.
        host: Where to connect, as ``loop.create_connection`` takes it.
        port: Likewise.
        result: What the header says, or a function that is given the connection's transport and says it. With None,
            the function's None too, the client speaks for itself: version 2 says LOCAL, version 1 names the
            connection's own two addresses.
        pp: The codec; version 2 unless given.
        ssl: What TLS *behind* the header is done with; True for :func:`ssl.create_default_context`.
        server_hostname: The name that the server must have; *host* unless given.
        ssl_handshake_timeout: How long the handshake may take, in seconds; asyncio's 60 unless given.
        ssl_shutdown_timeout: How long the end of TLS may take, in seconds; asyncio's 30 unless given. From Python 3.11.
        keywords: All others of ``loop.create_connection``.

    Returns:
        The transport and the protocol. The addresses are those of the real connection.

    Raises:
        TypeError: An argument is of another type.
        ValueError: There is a keyword of TLS without *ssl*, or *ssl* without a name for the server; or the header
            cannot say this, as version 1 cannot say LOCAL: a KeyError then, from some codecs.
        OSError: There is no connection, or no TLS.
        Exception: What *result* or the application raises as it begins. The connection is aborted then.
    """
    sender = Sender(result, pp=pp)
    tls = None
    if ssl:
        if server_hostname is None and not host:
            raise ValueError("server_hostname must be given for ssl without a host")
        context = _ssl.create_default_context() if ssl is True else ssl
        hostname = host if server_hostname is None else server_hostname
        tls = TLS(context, ssl_handshake_timeout, ssl_shutdown_timeout, hostname)
    elif any(given is not None for given in (server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)):
        raise ValueError("server_hostname, ssl_handshake_timeout and ssl_shutdown_timeout mean nothing without ssl")
    opening = _Opening(protocol_factory, sender, tls)
    await asyncio.get_running_loop().create_connection(lambda: opening, host, port, **keywords)
    return await opening.opened()


async def open_connection(
    host: Any = None, port: Any = None, *, limit: int = STREAM_LIMIT, **keywords: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, as :func:`asyncio.open_connection` does, and send a header before anything else, before TLS too.

    Args:
        host: Where to connect, as ``loop.create_connection`` takes it.
        port: Likewise.
        limit: The most bytes that the reader buffers is twice this.
        keywords: Those of :func:`create_connection`, such as ``result``, ``pp`` and ``ssl``.

    Raises:
        Exception: As :func:`create_connection`.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await create_connection(lambda: protocol, host, port, **keywords)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop_of_streams())


class _Opening(asyncio.Protocol):
    """Sends the header of one connection, then hands the connection over to the application and is gone.

    Args:
        protocol_factory: Makes the application's protocol.
        sender: What is sent.
        tls: How TLS is done behind the header, if it is.
    """

    _transport: asyncio.Transport
    _protocol: Any
    _error: Exception | None = None
    _early = b""

    def __init__(self, protocol_factory: Callable[[], asyncio.BaseProtocol], sender: Sender, tls: TLS | None) -> None:
        self._protocol_factory = protocol_factory
        self._sender = sender
        self._tls = tls

    def connection_made(self, transport: Any) -> None:
        """Send the header and, where there is no TLS, begin the application.

        TLS begins when the loop's call has returned: uvloop does not tell a protocol of the end of its connection if
        that call is cancelled, and TLS would be left behind, waiting for its handshake.
        """
        self._transport = transport
        self._try(self._send)
        if self._tls is None and self._error is None:
            self._begin(transport)

    def data_received(self, data: bytes) -> None:
        # from a server that speaks at once, before TLS has begun; more of it waits in the socket
        self._early += data
        self._transport.pause_reading()

    def _send(self) -> None:
        transport = self._transport
        local, peer = extra_info(transport, "sockname"), extra_info(transport, "peername")
        transport.write(self._sender.header(transport, local, peer))

    def _begin(self, transport: asyncio.Transport) -> None:
        self._transport = transport  # that of TLS, if there is any
        self._try(self._begin_application)

    def _begin_application(self) -> None:
        protocol: Any = self._protocol_factory()
        self._transport.set_protocol(protocol)
        self._protocol = protocol
        protocol.connection_made(self._transport)

    def _try(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            # for whoever waits for the connection: raised here it would be the loop's to log
            self._error = error

    async def opened(self) -> tuple[asyncio.Transport, Any]:
        """Wait for the application to begin, behind TLS if there is to be any. If this raises, there is no connection.

        Raises:
            OSError: The connection was lost before.
            Exception: Why it could not begin.
        """
        if self._tls is not None and self._error is None:
            await self._tls.shake_hands(self._transport, self._begin, data=self._early, server_side=False)
        if self._error is not None:
            self._transport.abort()
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # whose traceback holds this frame
        return self._transport, self._protocol
