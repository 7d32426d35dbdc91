"""Floor 5: asyncio's streams above our transports, and TLS that begins there later."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

from proxyprotocol.asyncio.delivery import take_unread
from proxyprotocol.asyncio.tls import TLS
from proxyprotocol.asyncio.transport import ProxyProtocolTransport
from proxyprotocol.result import describe_address

__all__ = ["STREAM_LIMIT", "loop_of_streams", "start_tls", "stream_factory"]

_log = logging.getLogger("proxyprotocol.asyncio")

STREAM_LIMIT = 2**16  # bytes; asyncio's own default


class _LoopOfStreams:
    """What a stream is told its loop is: the running one, with a ``start_tls`` that takes our transports everywhere.

    ``StreamWriter.start_tls`` asks the loop that its protocol was made with.

    Args:
        loop: The running loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def start_tls(self, transport: Any, *args: Any, **keywords: Any) -> Any:
        return await start_tls(self._loop.start_tls, transport, *args, **keywords)


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
    """Begin TLS on a connection that has begun without, on a loop of any kind.

    What a stream has received by then and nobody has read are the first bytes of the handshake: a ClientHello begins
    it, and a command that somebody has put there ends it.

    Args:
        own: The loop's own method, for transports that are not ours.
        transport: The transport.
        protocol: The protocol above TLS.
        sslcontext: The context.
        server_side: Whether it is the peer who speaks first.
        server_hostname: For a client: the name that the server must have.
        times: The time-outs that the loop's method takes.

    Returns:
        The transport of TLS, which tells the addresses that the one below it tells.

    Raises:
        TypeError: There is no context, or an argument is none of the method's.
        ValueError: A time is not above 0, or the context and the server's name do not go together.
        OSError: There is no TLS. The connection is aborted then, and when this is cancelled.
    """
    tls = TLS(sslcontext, server_hostname=server_hostname, **times)
    unread = take_unread(protocol)
    if not unread and not isinstance(transport, ProxyProtocolTransport):
        names = {"server_side": server_side, "server_hostname": server_hostname}
        return await own(transport, protocol, sslcontext, **names, **times)

    def begin(upper: asyncio.Transport) -> None:
        upper.set_protocol(protocol)

    def lost(error: Any) -> None:
        # TLS tells the end only to whom it has told the beginning, and this protocol has begun without it
        asyncio.get_running_loop().call_soon(protocol.connection_lost, error)

    # uvloop's own takes uvloop's transports alone, and neither gives TLS what the stream holds
    return await tls.shake_hands(transport, begin, lost=lost, data=unread, server_side=server_side)


def loop_of_streams() -> asyncio.AbstractEventLoop:
    """Make what a stream writer is told its loop is."""
    return cast(asyncio.AbstractEventLoop, _LoopOfStreams(asyncio.get_running_loop()))


def stream_factory(client_connected_cb: Callable[..., Any], limit: int) -> Callable[[], asyncio.BaseProtocol]:
    """Make the protocol factory of a server of streams.

    Args:
        client_connected_cb: Called with the reader and the writer of each connection.
        limit: The most bytes that a reader buffers is twice this.
    """
    loop, view = asyncio.get_running_loop(), loop_of_streams()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        begun = client_connected_cb(reader, writer)
        return _until_lost(begun, reader, writer) if asyncio.iscoroutine(begun) else begun

    def make() -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, begin, loop=view)

    return make


async def _until_lost(begun: Awaitable[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Run an application to its end, where the loss of its own connection is one too, and no traceback in the log."""
    try:
        await begun
    except OSError as error:  # SSLError is one
        if error is not reader.exception():
            raise
        client = describe_address(writer.get_extra_info("peername"))
        _log.debug("The connection from %s was lost: %s", client, error)
