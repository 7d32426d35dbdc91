"""Floor 5: asyncio's streams above our transports, and TLS that begins there later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from proxyprotocol.asyncio.transport import ProxyProtocolTransport

__all__: list[str] = []

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
        return await start_tls(self._loop, self._loop.start_tls, transport, *args, **keywords)


async def start_tls(loop: Any, own: Callable[..., Any], transport: Any, *args: Any, **keywords: Any) -> Any:
    """Begin TLS on a connection that has begun without, on a loop of any kind.

    Args:
        loop: The loop.
        own: Its own method, for transports that are not ours.
        transport: The transport.
        args: What the loop's method takes.
        keywords: Likewise.

    Returns:
        The transport of TLS, which tells the addresses that the one below it tells.
    """
    if not isinstance(transport, ProxyProtocolTransport):
        return await own(transport, *args, **keywords)
    # uvloop's takes uvloop's transports alone; asyncio's takes ours, which passes its questions on, and on any loop
    return await asyncio.BaseEventLoop.start_tls(loop, transport, *args, **keywords)


def stream_factory(client_connected_cb: Callable[..., Any], limit: int) -> Callable[[], asyncio.BaseProtocol]:
    """Make the protocol factory of a server of streams.

    Args:
        client_connected_cb: Called with the reader and the writer of each connection.
        limit: The most bytes that a reader buffers is twice this.
    """
    loop = asyncio.get_running_loop()
    view = cast(asyncio.AbstractEventLoop, _LoopOfStreams(loop))

    def make() -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=view)

    return make
