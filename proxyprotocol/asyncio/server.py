"""Floor 5: servers that read a header at the front of every connection."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl as _ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from proxyprotocol._adapters.deadlines import check_seconds
from proxyprotocol._wire import spec
from proxyprotocol.asyncio.accept import Acceptor
from proxyprotocol.asyncio.factory import ProxyProtocolFactory
from proxyprotocol.asyncio.streams import STREAM_LIMIT, stream_factory
from proxyprotocol.asyncio.tls import TLS
from proxyprotocol.receiver import Receiver, ReceiverKeywords
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
    "wrap_protocol_factory",
]

_log = logging.getLogger("proxyprotocol.asyncio")

# what a server takes for itself; everything else is the loop's
_OWN_KEYWORDS = ReceiverKeywords.__optional_keys__ | {
    "receiver",
    "ssl",
    "ssl_handshake_timeout",
    "ssl_shutdown_timeout",
    "tls_timeout",
}


def wrap_protocol_factory(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    *,
    ssl: _ssl.SSLContext | None = None,
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    receiver: Receiver | None = None,
    **keywords: Unpack[ReceiverKeywords],
) -> ProxyProtocolFactory:
    """Put a header in front of every connection of a protocol factory, for whoever listens by means of their own.

    The result is what is given to ``loop.create_server``, without ``ssl``: a balancer's header comes in front of TLS,
    so the context is given here. When that server closes, call the result's ``close()``.

    Args:
        protocol_factory: Makes the application's protocols. It is called when a header is there and accepted.
        ssl: What TLS *behind* the header is done with.
        tls_timeout: How long its handshake may take, in seconds; None for no limit.
        ssl_handshake_timeout: The same by asyncio's name, which counts if it is given.
        ssl_shutdown_timeout: How long the end of TLS may take, in seconds; asyncio's 30 unless given. From Python 3.11.
        receiver: How connections are received, in place of the keywords of :class:`.Receiver`.
        keywords: ``pp``, ``policy``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver` takes them.

    Raises:
        TypeError: There are a receiver and its keywords, a keyword is none, *ssl* is no context, or the factory reads a
            header already.
        ValueError: A keyword's value is out of range, or there is a time-out of TLS without TLS.
    """
    tls, tls_timeout = None, check_seconds("tls_timeout", tls_timeout)
    if ssl is not None:
        # the factory meets the deadline, and asyncio, which would take it for itself, has none
        tls = TLS(ssl, math.inf, ssl_shutdown_timeout)
        if ssl_handshake_timeout is not None:
            tls_timeout = check_seconds("ssl_handshake_timeout", ssl_handshake_timeout)
    elif ssl_handshake_timeout is not None or ssl_shutdown_timeout is not None:
        raise ValueError("ssl_handshake_timeout and ssl_shutdown_timeout mean nothing without ssl")
    return ProxyProtocolFactory(protocol_factory, Receiver.of(receiver, keywords), tls, tls_timeout)


class ProxyProtocolServer(asyncio.AbstractServer):
    """A listening server. It is used as an :class:`asyncio.Server` is, and has what that has.

    Closing it drops the connections that have not begun: otherwise :meth:`wait_closed`, which waits for connections on
    Python 3.12 and later, would wait for peers that never finish a header.

    Args:
        server: The loop's own server.
        factory: What it makes its protocols with.
    """

    def __init__(self, server: Any, factory: ProxyProtocolFactory) -> None:
        self._server = server
        self._factory = factory
        self._closed = False
        self._serving: asyncio.Future[None] | None = None
        self._loop: Any = server.get_loop()
        self._acceptor = Acceptor(self._loop, _log)
        self._listeners: list[socket.socket] = []
        self._accept_ourselves()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    @property
    def sockets(self) -> Sequence[Any]:
        """The listening sockets; none when it is closed."""
        sockets: Sequence[Any] = self._server.sockets
        return sockets

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop."""
        loop: asyncio.AbstractEventLoop = self._loop
        return loop

    def is_serving(self) -> bool:
        """Tell whether it accepts connections."""
        return bool(self._server.is_serving())

    async def start_serving(self) -> None:
        """Begin to accept connections, if it does not."""
        await self._server.start_serving()
        self._accept_ourselves()

    def _accept_ourselves(self) -> None:
        """Accept in place of asyncio's server, which logs a hundred tracebacks a second when descriptors run out."""
        # uvloop cannot be told to: libuv closes the connections that it has no descriptor for
        if self._listeners or not self.is_serving() or not isinstance(self._loop, asyncio.SelectorEventLoop):
            return
        for sock in self.sockets:
            self._loop.remove_reader(sock)
            self._listeners.append(sock.dup())  # the server does not show its own
            self._acceptor.listen(self._listeners[-1], 0, self._begin)

    def _begin(self, sock: socket.socket, peer: SockAddr) -> None:
        try:
            # Not public. Tried instead: loop.connect_accepted_socket. The server does not know of its connections,
            # and neither waits for them nor closes them.
            self._loop._make_socket_transport(sock, self._factory(), extra={"peername": peer}, server=self._server)
        except OSError:  # macOS: the peer is gone
            sock.close()

    async def serve_forever(self) -> None:
        """Accept connections until the server is closed or this is cancelled, which closes it.

        Raises:
            RuntimeError: It is closed, or somebody waits here already.
        """
        # Not the loop's own, which waits for the end of the connections before it says that it has been cancelled.
        if self._serving is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        self._serving = self.get_loop().create_future()
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
        """Close the listening sockets, and drop the connections that have not begun."""
        self._closed = True
        self._acceptor.close()
        for sock in self._listeners:
            sock.close()
        self._server.close()
        self._factory.close()
        if self._serving is not None:
            self._serving.cancel()

    async def wait_closed(self) -> None:
        """Wait as the loop's own server does: on Python 3.12 and later until the last connection has ended."""
        await self._server.wait_closed()

    def close_clients(self) -> None:
        """Close all connections. From Python 3.13, and not on uvloop."""
        self._server.close_clients()

    def abort_clients(self) -> None:
        """Abort all connections. From Python 3.13, and not on uvloop."""
        self._server.abort_clients()


async def listen(
    begin: Callable[..., Awaitable[Any]],
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    *args: Any,
    **keywords: Any,
) -> ProxyProtocolServer:
    """Listen by a loop's own means.

    Args:
        begin: The loop's ``create_server`` or ``create_unix_server``.
        protocol_factory: Makes the application's protocols.
        args: What the loop's method takes.
        keywords: Likewise, with the keywords of :func:`wrap_protocol_factory` among them.
    """
    own = {name: keywords.pop(name) for name in _OWN_KEYWORDS & keywords.keys()}
    factory = wrap_protocol_factory(protocol_factory, **own)
    return ProxyProtocolServer(await begin(factory, *args, **keywords), factory)


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol], host: Any = None, port: Any = None, **keywords: Any
) -> ProxyProtocolServer:
    """Listen, as ``loop.create_server`` does, and read a header at the front of every connection.

    The application's transport tells the client's addresses; see :class:`.ProxyProtocolTransport`.

    Args:
        protocol_factory: Makes the application's protocols. It is called when a header is there and accepted.
        host: Where to listen, as ``loop.create_server`` takes it.
        port: Likewise.
        keywords: Those of :func:`wrap_protocol_factory`: ``ssl`` for TLS *behind* the header, ``tls_timeout`` (seconds)
            for its handshake; ``receiver``, or ``pp``, ``policy``, ``timeout`` (seconds) and ``max_header`` (bytes);
            and all of ``loop.create_server``.

    Raises:
        TypeError: There are a receiver and its keywords, a keyword is none, or *ssl* is no context.
        ValueError: A keyword's value is out of range.
        OSError: The address cannot be listened on.
    """
    return await listen(asyncio.get_running_loop().create_server, protocol_factory, host, port, **keywords)


async def create_unix_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol], path: Any = None, **keywords: Any
) -> ProxyProtocolServer:
    """Listen on a UNIX socket, as ``loop.create_unix_server`` does; for the rest it is :func:`create_server`.

    Args:
        protocol_factory: Makes the application's protocols. It is called when a header is there and accepted.
        path: Where to listen.
        keywords: As for :func:`create_server`, and all of ``loop.create_unix_server``.

    Raises:
        TypeError: There are a receiver and its keywords, a keyword is none, or *ssl* is no context.
        ValueError: A keyword's value is out of range.
        OSError: The path cannot be listened on.
    """
    return await listen(asyncio.get_running_loop().create_unix_server, protocol_factory, path, **keywords)


async def start_server(
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    host: Any = None,
    port: Any = None,
    *,
    limit: int = STREAM_LIMIT,
    **keywords: Any,
) -> ProxyProtocolServer:
    """Listen, as :func:`asyncio.start_server` does, and read a header at the front of every connection.

    ``writer.get_extra_info("peername")`` is the client; ``"proxy_protocol"`` the whole :class:`.ProxyResult`.

    Args:
        client_connected_cb: Called with the reader and the writer of each connection whose header is there and
            accepted; a function or a coroutine function.
        host: Where to listen, as ``loop.create_server`` takes it.
        port: Likewise.
        limit: The most bytes that a reader buffers is twice this.
        keywords: As for :func:`create_server`.

    Raises:
        TypeError: There are a receiver and its keywords, a keyword is none, or *ssl* is no context.
        ValueError: A keyword's value is out of range.
        OSError: The address cannot be listened on.
    """
    return await create_server(stream_factory(client_connected_cb, limit), host, port, **keywords)


async def start_unix_server(
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    path: Any = None,
    *,
    limit: int = STREAM_LIMIT,
    **keywords: Any,
) -> ProxyProtocolServer:
    """Listen on a UNIX socket, as :func:`asyncio.start_unix_server` does; for the rest it is :func:`start_server`.

    Args:
        client_connected_cb: Called with the reader and the writer of each connection whose header is there and
            accepted; a function or a coroutine function.
        path: Where to listen.
        limit: The most bytes that a reader buffers is twice this.
        keywords: As for :func:`create_server`, and all of ``loop.create_unix_server``.

    Raises:
        TypeError: There are a receiver and its keywords, a keyword is none, or *ssl* is no context.
        ValueError: A keyword's value is out of range.
        OSError: The path cannot be listened on.
    """
    return await create_unix_server(stream_factory(client_connected_cb, limit), path, **keywords)
