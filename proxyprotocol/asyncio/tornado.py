"""Floor 5: tornado. Sockets whose connections begin with a header, so that ``request.remote_ip`` is the client."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream
from tornado.netutil import add_accept_handler, ssl_wrap_socket
from tornado.tcpserver import TCPServer

from proxyprotocol._errors import ProxyProtocolError
from proxyprotocol._facts import REST, has_ended
from proxyprotocol._refusals import log_refusal
from proxyprotocol.asyncio.transport import _ClientSocket
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["add_sockets", "proxy_result"]

_log = logging.getLogger("proxyprotocol.asyncio")

_results: WeakKeyDictionary[IOStream, ProxyResult | None] = WeakKeyDictionary()


def add_sockets(
    server: TCPServer,
    sockets: Iterable[socket.socket],
    *,
    receiver: Receiver | None = None,
    **keywords: Unpack[ReceiverKeywords],
) -> Callable[[], None]:
    """Make a server accept connections, as its own ``add_sockets`` does, and read a header in front of each.

    The server may be any of tornado's, such as an ``HTTPServer``; its ``ssl_options`` are for TLS *behind* the header.
    It is given the client's address. ``tornado.netutil.bind_sockets`` and ``bind_unix_socket`` make the sockets.

    Args:
        server: The server.
        sockets: The listening sockets.
        receiver: How connections are received, in place of all other keywords.
        keywords: ``pp``, ``policy``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver` takes them.

    Returns:
        A function that closes the sockets and drops the connections that have not begun: call it beside the server's
        own ``stop()``.

    Raises:
        TypeError: There are a receiver and another keyword, or a keyword is none.
        ValueError: A keyword's value is out of range.
    """
    return _Listening(server, Receiver.of(receiver, keywords), list(sockets)).stop


def proxy_result(stream: IOStream) -> ProxyResult | None:
    """Tell what the header of a connection said, with its TLVs; None where there was none.

    Args:
        stream: The connection's stream, such as a handler's ``self.request.connection.stream``.
    """
    return _results.get(stream)


class _Listening:
    """Accepts connections, reads their headers, and gives them to the server.

    tornado reads and writes its sockets itself, so there is no transport for an overlay to stand on.

    Args:
        server: The server.
        receiver: How connections are received.
        sockets: The listening sockets.
    """

    def __init__(self, server: TCPServer, receiver: Receiver, sockets: list[socket.socket]) -> None:
        self._server, self._receiver, self._sockets = server, receiver, sockets
        self._pending: set[asyncio.Task[None]] = set()
        self._removers = [add_accept_handler(sock, self._accepted) for sock in sockets]

    def stop(self) -> None:
        for remove in self._removers:
            remove()
        self._removers = []
        for sock in self._sockets:
            sock.close()
        for task in self._pending:
            task.cancel()

    def _accepted(self, sock: socket.socket, peer: SockAddr) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(sock, peer))
        self._pending.add(task)
        # which logs what the application raises, as tornado does itself
        IOLoop.current().add_future(task, self._served)

    def _served(self, task: Any) -> None:
        self._pending.discard(task)
        if not task.cancelled():
            task.result()

    async def _serve(self, sock: socket.socket, peer: SockAddr) -> None:
        sock.setblocking(False)
        try:
            connection = self._receiver.connection(peer, sock.getsockname())
            await _read(sock, connection, self._receiver.timeout)
            stream = self._stream(sock, connection)
        except BaseException as error:
            sock.close()
            if not isinstance(error, (ProxyProtocolError, OSError)):
                raise  # the policy function's, or stop() has cancelled us
            _log_refusal(error, peer)
            return
        task: Any = asyncio.current_task()
        self._pending.discard(task)  # it has begun, and is the server's
        client: Any = peer if connection.addresses is None else connection.addresses.peername
        served = self._server.handle_stream(stream, client)
        if served is not None:
            await served

    def _stream(self, sock: Any, connection: ReceiverConnection) -> IOStream:
        """Make the server's stream.

        Raises:
            OSError: The peer is gone.
        """
        server, kind = self._server, IOStream
        if server.ssl_options is not None:
            sock.getpeername()  # where there is none any more, wrapping would raise too, but leave the socket open
            sock = ssl_wrap_socket(sock, server.ssl_options, server_side=True, do_handshake_on_connect=False)
            kind = SSLIOStream
        if connection.addresses is not None:
            sock = _ClientSocket(sock, connection.addresses)
        stream = kind(sock, max_buffer_size=server.max_buffer_size, read_chunk_size=server.read_chunk_size)
        _results[stream] = connection.result
        return stream


def _log_refusal(error: ProxyProtocolError | OSError, peer: SockAddr) -> None:
    if isinstance(error, OSError):
        _log.debug("The connection from %s was lost: %s", describe_address(peer), error)
    else:
        log_refusal(_log, error, peer)


async def _read(sock: socket.socket, connection: ReceiverConnection, timeout: float | None) -> None:
    """Read until the application may begin, and not a byte more.

    Raises:
        ProxyProtocolError: Close the socket.
    """
    try:
        await asyncio.wait_for(_read_on(sock, connection), timeout)
    except asyncio.TimeoutError:
        connection.timed_out()


async def _read_on(sock: socket.socket, connection: ReceiverConnection) -> None:
    while not connection.begun:
        if connection.undecided:
            await _look_ahead(sock, connection)
        else:
            _advance(connection, await _receive(sock, connection.needed))


async def _look_ahead(sock: socket.socket, connection: ReceiverConnection) -> None:
    """Look at what comes until it is decided whose it is, and take it out of the socket only where it is a header's."""
    seen, ended = 0, False
    while connection.undecided:
        data = await _receive(sock, seen + connection.needed, socket.MSG_PEEK)
        if data and len(data) == seen and not ended:
            await asyncio.sleep(REST)
            ended = has_ended(sock, 0)
        else:
            _advance(connection, data[seen:])
            seen = len(data)
    if connection.begun and connection.result is None:
        return
    while seen and (data := await _receive(sock, seen)):
        seen -= len(data)


def _advance(connection: ReceiverConnection, data: bytes) -> None:
    if data:
        connection.feed(data)
    else:
        connection.eof()


async def _receive(sock: socket.socket, size: int, flags: int = 0) -> bytes:
    """Receive what is there, *size* bytes at most; nothing at the end of the stream."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return sock.recv(size, flags)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(sock, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(sock)
        except OSError:  # such as a reset, which is an end like another here
            return b""
