"""Client connections that send a header first."""

from __future__ import annotations

import asyncio
import ssl as _ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxyprotocol._adapters.facts import extra_info
from proxyprotocol.asyncio.keywords import call_loop
from proxyprotocol.asyncio.tls import TLS
from proxyprotocol.asyncio.transport import LoopOfStreams
from proxyprotocol.asyncio.typing import ClientKeywords, ConnectKeywords, ProtocolT, TransportResult
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.sender import Sender

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["create_connection", "open_connection"]

_OWN_KEYWORDS = ("limit", "pp", "result")  # those that the loop's method does not have


async def create_connection(
    protocol_factory: Callable[[], ProtocolT],
    host: str | None = None,
    port: int | str | None = None,
    *,
    result: TransportResult = None,
    pp: ProxyProtocol | None = None,
    ssl: _ssl.SSLContext | bool | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    **keywords: Unpack[ConnectKeywords],
) -> tuple[asyncio.Transport, ProtocolT]:
    """Connect as ``loop.create_connection`` does, and send a header before anything else, before TLS too.

    Args:
        protocol_factory: Makes the application's protocol, which begins when the header has been sent.
        host: The server, as ``loop.create_connection`` takes it.
        port: The server's port.
        result: What the header says, or a function that takes the connection's transport and returns it. If it is None
            the client speaks for itself: version 2 says LOCAL, version 1 names the connection's own two addresses.
        pp: The codec; version 2 by default.
        ssl: The context for TLS *after* the header; True for :func:`ssl.create_default_context`.
        server_hostname: The name that the server's certificate must have; *host* by default.
        ssl_handshake_timeout: Seconds that the handshake may take; asyncio's 60 by default.
        ssl_shutdown_timeout: Seconds that the end of TLS may take; asyncio's 30 by default. Needs Python 3.11.
        keywords: All other keywords of ``loop.create_connection``.

    Returns:
        The transport and the protocol. The transport shows the real connection's addresses.

    Raises:
        TypeError: An argument has a wrong type.
        ValueError: A TLS keyword came without *ssl*, *ssl* came without a name for the server, or the header cannot
            say this result: version 1 cannot say LOCAL. Some codecs raise a KeyError then.
        OSError: The connection or the TLS handshake failed.
        Exception: *result* or the application raised as it began. The connection is aborted then.
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
    connect = asyncio.get_running_loop().create_connection
    await call_loop(connect, lambda: opening, host, port, known=_OWN_KEYWORDS, **keywords)
    if tls is not None and opening.error is None:
        await tls.shake_hands(opening.transport, opening.begin, data=opening.early, server_side=False)
    if opening.error is not None:
        opening.transport.abort()
        try:
            raise opening.error
        finally:
            del opening  # the error's traceback refers to this frame
    return opening.transport, opening.protocol


async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = 2**16, **keywords: Unpack[ClientKeywords]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as :func:`asyncio.open_connection` does, and send a header before anything else, before TLS too.

    Args:
        host: The server, as ``loop.create_connection`` takes it.
        port: The server's port.
        limit: The reader buffers twice as many bytes at most.
        keywords: As for :func:`create_connection`, such as ``result``, ``pp`` and ``ssl``.
    """
    loop: Any = LoopOfStreams(asyncio.get_running_loop())
    reader = asyncio.StreamReader(limit, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await create_connection(lambda: protocol, host, port, **keywords)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class _Opening(asyncio.Protocol):
    """Sends the header of one connection, then gives the connection to the application."""

    transport: asyncio.Transport
    protocol: Any
    error: Exception | None = None  # if it were raised at once, the loop would log it
    early = b""

    def __init__(self, protocol_factory: Callable[[], asyncio.BaseProtocol], sender: Sender, tls: TLS | None) -> None:
        self._protocol_factory, self._sender, self._tls = protocol_factory, sender, tls

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        try:
            local, peer = extra_info(transport, "sockname"), extra_info(transport, "peername")
            transport.write(self._sender.header(transport, local, peer))
        except Exception as error:
            self.error = error
        else:
            # TLS waits until the loop's call has returned. If that call is cancelled, uvloop does not tell the protocol
            # that its connection has ended, and TLS would wait for its handshake for ever.
            if self._tls is None:
                self.begin(transport)

    def data_received(self, data: bytes) -> None:
        # the server spoke before TLS began; the socket keeps the rest
        self.early += data
        self.transport.pause_reading()

    def begin(self, transport: asyncio.Transport) -> None:
        """Begin the application on the transport of the connection, or of its TLS."""
        self.transport = transport
        try:
            self.protocol = self._protocol_factory()
            transport.set_protocol(self.protocol)
            self.protocol.connection_made(transport)
        except Exception as error:
            self.error = error
