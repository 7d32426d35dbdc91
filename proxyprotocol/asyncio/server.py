"""Servers that read a header at the start of every connection."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxyprotocol._adapters.overlay import Overlay
from proxyprotocol.asyncio.factory import ServerFactory
from proxyprotocol.asyncio.keywords import call_loop
from proxyprotocol.asyncio.sockets import Acceptor
from proxyprotocol.asyncio.transport import LoopOfStreams
from proxyprotocol.asyncio.typing import (
    FactoryKeywords,
    Hosts,
    Path,
    ServerKeywords,
    StreamCallback,
    UnixServerKeywords,
)
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "ProxyProtocolServer",
    "create_server",
    "create_unix_server",
    "listen",
    "start_server",
    "start_unix_server",
]

_log = logging.getLogger("proxyprotocol.asyncio")

# the keywords of the factory; the loop takes all others
_OWN_KEYWORDS = FactoryKeywords.__optional_keys__


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Hosts = None,
    port: int | str | None = None,
    **keywords: Unpack[ServerKeywords],
) -> ProxyProtocolServer:
    """Listen as ``loop.create_server`` does, and read a header at the start of every connection.

    The application's transport shows the client's addresses; see :class:`.ProxyProtocolTransport`.

    Args:
        protocol_factory: Makes the application's protocols. It is called after each accepted header.
        host: Where to listen, as ``loop.create_server`` takes it.
        port: The port to listen on.
        keywords: Those of :class:`.ProxyProtocolFactory`, such as ``policy`` and ``ssl`` for TLS *after* the header,
            and all others of ``loop.create_server``.

    Raises:
        TypeError, ValueError: As :class:`.ProxyProtocolFactory`.
        OSError: The system does not let us listen on this address.
    """
    return await listen(asyncio.get_running_loop().create_server, protocol_factory, host, port, **keywords)


async def create_unix_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol], path: Path = None, **keywords: Unpack[UnixServerKeywords]
) -> ProxyProtocolServer:
    """Listen on a UNIX socket as ``loop.create_unix_server`` does. Otherwise it is :func:`create_server`."""
    return await listen(asyncio.get_running_loop().create_unix_server, protocol_factory, path, **keywords)


async def start_server(
    client_connected_cb: StreamCallback,
    host: Hosts = None,
    port: int | str | None = None,
    *,
    limit: int = 2**16,
    **keywords: Unpack[ServerKeywords],
) -> ProxyProtocolServer:
    """Listen as :func:`asyncio.start_server` does, and read a header at the start of every connection.

    ``writer.get_extra_info("peername")`` is the client, and ``"proxy_protocol"`` the whole :class:`.ProxyResult`.

    Args:
        client_connected_cb: A function or a coroutine function. It is called with the reader and the writer of each
            connection with an accepted header.
        host: Where to listen, as ``loop.create_server`` takes it.
        port: The port to listen on.
        limit: A reader buffers twice as many bytes at most.
        keywords: As for :func:`.create_server`.
    """
    return await create_server(_stream_factory(client_connected_cb, limit), host, port, **keywords)


async def start_unix_server(
    client_connected_cb: StreamCallback,
    path: Path = None,
    *,
    limit: int = 2**16,
    **keywords: Unpack[UnixServerKeywords],
) -> ProxyProtocolServer:
    """Listen on a UNIX socket as :func:`asyncio.start_unix_server` does. Otherwise it is :func:`start_server`."""
    return await create_unix_server(_stream_factory(client_connected_cb, limit), path, **keywords)


def _stream_factory(client_connected_cb: StreamCallback, limit: int) -> Callable[[], asyncio.BaseProtocol]:
    loop: Any = LoopOfStreams(asyncio.get_running_loop())

    async def run(begun: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        begun = client_connected_cb(reader, writer)
        return run(begun, reader, writer) if asyncio.iscoroutine(begun) else begun

    return lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(limit, loop), begin, loop)


async def listen(
    begin: Any, protocol_factory: Any, *args: Any, start_serving: bool = True, **keywords: Any
) -> ProxyProtocolServer:
    """Listen with a loop's own method, *begin*, and the keywords of :class:`.ProxyProtocolFactory`."""
    own = {name: keywords.pop(name) for name in _OWN_KEYWORDS & keywords.keys()}
    factory = ServerFactory(protocol_factory, **own)
    # not yet serving: the listener needs its name before its first connection
    below = await call_loop(begin, factory, *args, start_serving=False, known=(*_OWN_KEYWORDS, "limit"), **keywords)
    server = ProxyProtocolServer(below, factory)
    if start_serving:
        try:
            await server.start_serving()
        except BaseException:
            server.close()
            raise
    return server


class ProxyProtocolServer(Overlay, asyncio.AbstractServer):
    """A listening server, with the methods and attributes of :class:`asyncio.Server`, and of uvloop's on uvloop.

    Closing it aborts the connections without an application so far. Otherwise :meth:`wait_closed`, which from Python
    3.12 waits for connections, would wait for peers that never finish a header. :func:`create_server` makes it.
    """

    get_loop: Any  # these come from Overlay; asyncio's class declares them abstract
    is_serving: Any
    wait_closed: Any

    def __init__(self, server: Any, factory: ServerFactory) -> None:
        self._below, self._factory = server, factory
        self._closed = False
        self._serving: asyncio.Future[None] | None = None
        self._loop: Any = server.get_loop()
        self._acceptor = Acceptor(self._loop, _log)
        self._listeners: list[socket.socket] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    async def start_serving(self) -> None:
        """Start to accept connections, unless the server accepts already."""
        if self.is_serving():
            return
        self._factory.name(self.sockets)
        await self._below.start_serving()
        self._accept_ourselves()
        self._factory.start()

    def _accept_ourselves(self) -> None:
        """Accept in place of asyncio's server, which logs a hundred tracebacks a second when descriptors run out."""
        # Not on uvloop: libuv accepts there, and closes the connections that it has no descriptor for.
        if self._listeners or not self.is_serving() or not isinstance(self._loop, asyncio.SelectorEventLoop):
            return
        for sock in self.sockets:
            self._loop.remove_reader(sock)
            self._listeners.append(sock.dup())  # server.sockets holds only read-only views
            self._acceptor.listen(self._listeners[-1], 0, self._begin)

    def _begin(self, sock: socket.socket, peer: SockAddr) -> None:
        try:
            # Not public. We tried loop.connect_accepted_socket instead: the server does not know the connections that
            # it makes, and neither waits for them nor closes them.
            self._loop._make_socket_transport(sock, self._factory(), extra={"peername": peer}, server=self._below)
        except OSError:  # macOS: the peer is gone
            sock.close()

    async def serve_forever(self) -> None:
        """Accept connections until the server is closed or this call is cancelled, which closes it."""
        # not the loop's own, which waits for all connections to end before it raises CancelledError
        if self._serving is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        self._serving = self._loop.create_future()
        try:
            await self.start_serving()
            await self._serving
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._serving = None

    def close(self) -> None:
        """Close the listening sockets, and abort the connections without an application so far."""
        self._closed = True
        self._acceptor.close()
        for sock in self._listeners:
            sock.close()
        self._below.close()
        self._factory.close()
        if self._serving is not None:
            self._serving.cancel()
