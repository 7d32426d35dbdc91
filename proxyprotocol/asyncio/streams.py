"""asyncio's streams with a header: servers, clients, and TLS that begins later on a stream."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from proxyprotocol.asyncio.client import create_connection
from proxyprotocol.asyncio.server import ProxyProtocolServer, create_server, create_unix_server
from proxyprotocol.asyncio.tls import TLS, take_unread
from proxyprotocol.asyncio.transport import Overlay, ProxyProtocolTransport
from proxyprotocol.result import describe_address

__all__ = ["open_connection", "start_server", "start_tls", "start_unix_server"]

_log = logging.getLogger("proxyprotocol.asyncio")

_LIMIT: Final = 2**16  # bytes; asyncio's own default


async def start_server(
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    host: Any = None,
    port: Any = None,
    *,
    limit: int = _LIMIT,
    **keywords: Any,
) -> ProxyProtocolServer:
    """Listen as :func:`asyncio.start_server` does, and read a header at the start of every connection.

    ``writer.get_extra_info("peername")`` is the client, and ``"proxy_protocol"`` the whole :class:`.ProxyResult`.

    Args:
        client_connected_cb: A function or a coroutine function. It is called with the reader and the writer of each
            connection whose header was accepted.
        host: Where to listen, as ``loop.create_server`` takes it.
        port: The port to listen on.
        limit: A reader buffers twice as many bytes at most.
        keywords: As for :func:`.create_server`.
    """
    return await create_server(_stream_factory(client_connected_cb, limit), host, port, **keywords)


async def start_unix_server(
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    path: Any = None,
    *,
    limit: int = _LIMIT,
    **keywords: Any,
) -> ProxyProtocolServer:
    """Listen on a UNIX socket as :func:`asyncio.start_unix_server` does. Otherwise it is :func:`start_server`."""
    return await create_unix_server(_stream_factory(client_connected_cb, limit), path, **keywords)


async def open_connection(
    host: Any = None, port: Any = None, *, limit: int = _LIMIT, **keywords: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as :func:`asyncio.open_connection` does, and send a header before anything else, before TLS too.

    Args:
        host: The server, as ``loop.create_connection`` takes it.
        port: The server's port.
        limit: The reader buffers twice as many bytes at most.
        keywords: As for :func:`create_connection`, such as ``result``, ``pp`` and ``ssl``.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await create_connection(lambda: protocol, host, port, **keywords)
    loop_of_streams: Any = _LoopOfStreams(loop)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop_of_streams)


def _stream_factory(client_connected_cb: Callable[..., Any], limit: int) -> Callable[[], asyncio.BaseProtocol]:
    loop = asyncio.get_running_loop()
    loop_of_streams: Any = _LoopOfStreams(loop)

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        begun = client_connected_cb(reader, writer)
        return _until_lost(begun, reader, writer) if asyncio.iscoroutine(begun) else begun

    def make() -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, begin, loop=loop_of_streams)

    return make


async def _until_lost(begun: Awaitable[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Run the application. If the loss of its own connection ends it, log a debug line and no traceback."""
    try:
        await begun
    except (OSError, RuntimeError) as error:  # SSLError is an OSError
        # drain() raises a ConnectionResetError of its own, and uvloop's write() a RuntimeError
        own = str(error) == "Connection lost" or "the handler is closed" in str(error)
        if error is not reader.exception() and not (own and writer.transport.is_closing()):
            raise
        client = describe_address(writer.get_extra_info("peername"))
        _log.debug("The connection from %s was lost: %s", client, error)


class _LoopOfStreams(Overlay):
    """The running loop, with a ``start_tls`` that takes our transports: ``StreamWriter.start_tls`` calls that."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._below = loop

    async def start_tls(self, transport: Any, *args: Any, **keywords: Any) -> Any:
        return await start_tls(self._below.start_tls, transport, *args, **keywords)


async def start_tls(
    own: Callable[..., Any],
    transport: Any,
    protocol: asyncio.BaseProtocol,
    sslcontext: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    **times: Any,
) -> Any:
    """Begin TLS on a connection that began without it, as ``loop.start_tls`` does, on any loop and with our transports.

    The handshake begins with the bytes that a stream has received and nobody has read. A ClientHello among them begins
    it; a command that an attacker has inserted there makes it fail. *own* is the loop's method, for other transports
    than ours. If this raises or is cancelled, the connection is aborted.
    """
    tls = TLS(sslcontext, server_hostname=server_hostname, **times)
    unread = take_unread(protocol)
    if not unread and not isinstance(transport, ProxyProtocolTransport):
        names = {"server_side": server_side, "server_hostname": server_hostname}
        return await own(transport, protocol, sslcontext, **names, **times)

    def done(upper: asyncio.Transport) -> None:
        upper.set_protocol(protocol)

    def lost(error: Any) -> None:
        # TLS calls connection_lost only after connection_made, and this protocol began before TLS
        asyncio.get_running_loop().call_soon(protocol.connection_lost, error)

    # uvloop's own method takes only uvloop's transports, and no loop gives TLS the bytes that the stream holds
    return await tls.shake_hands(transport, done, lost, data=unread, server_side=server_side)
