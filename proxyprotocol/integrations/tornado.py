"""tornado: sockets whose connections begin with a header, so that ``request.remote_ip`` is the client."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tornado import tcpserver
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream
from tornado.netutil import add_accept_handler, ssl_wrap_socket
from tornado.tcpserver import TCPServer

from proxyprotocol._adapters.deadlines import LoopClock, check_seconds, in_time
from proxyprotocol._adapters.listener import Listener, logging_to
from proxyprotocol._adapters.overlay import ClientSocket
from proxyprotocol._adapters.refusals import describe_late_handshake
from proxyprotocol._adapters.settings import covered, process_settings
from proxyprotocol._wire import spec
from proxyprotocol.asyncio.sockets import receive_header
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["add_sockets", "proxy_result", "switch_on"]

_log = logging.getLogger("proxyprotocol.asyncio")

_results: WeakKeyDictionary[IOStream, ProxyResult | None] = WeakKeyDictionary()


def add_sockets(
    server: TCPServer,
    sockets: Iterable[socket.socket],
    *,
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
    receiver: Receiver | None = None,
    **keywords: Unpack[ReceiverKeywords],
) -> Callable[[], None]:
    """Let a server accept connections, as its own ``add_sockets`` does, and read a header at the start of each.

    The server may be any of tornado's, such as an ``HTTPServer``. It sees the client's address. Its ``ssl_options`` are
    for TLS *after* the header. ``tornado.netutil.bind_sockets`` and ``bind_unix_socket`` make the sockets.

    Args:
        server: The server.
        sockets: The listening sockets.
        tls_timeout: Seconds that the TLS handshake may take; None for no limit.
        receiver: The rules for the header, in place of the keywords below.
        keywords: ``pp``, ``policy``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver` takes them.

    Returns:
        A function that closes the sockets and drops the connections that the server does not know yet. Call it together
        with the server's own ``stop()``.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`.
    """
    tls_timeout, sockets = check_seconds("tls_timeout", tls_timeout), list(sockets)
    receiver = Receiver.of(receiver, keywords, ["receiver", "tls_timeout"])
    listener = Listener(receiver, logging_to(_log), LoopClock)
    covered.update(sockets)
    pending: set[asyncio.Task[None]] = set()  # the connections that the server does not know yet

    def accept(sock: socket.socket, peer: SockAddr) -> None:
        task = asyncio.get_running_loop().create_task(_serve(server, sock, peer, listener, tls_timeout, pending))
        pending.add(task)
        task.add_done_callback(pending.discard)
        # the IOLoop logs what the application raises, as it does without us
        IOLoop.current().add_future(task, lambda task: None if task.cancelled() else task.result())

    listener.start(*(sock.getsockname() for sock in sockets))
    removers = [add_accept_handler(sock, accept) for sock in sockets]

    def stop() -> None:
        while removers:
            removers.pop()()
        for sock in sockets:
            sock.close()
        for task in pending:
            task.cancel()
        listener.stop()

    return stop


def proxy_result(stream: IOStream) -> ProxyResult | None:
    """Return what the header of a connection said, with its TLVs; None if there was no header.

    Args:
        stream: The connection's stream, such as a handler's ``self.request.connection.stream``.
    """
    return _results.get(stream)


@functools.cache
def switch_on() -> None:
    """Let every later server of this process read headers, by the variables ``PROXYPROTOCOL_*``.

    It is for programs that make their server themselves: call it in the configuration file of Jupyter Server. Sockets
    that :func:`add_sockets` gets keep their own rules.
    """
    settings, below = process_settings(), add_accept_handler

    def accept_for(sock: socket.socket, callback: Any) -> Callable[[], None]:
        if not settings.covers(sock):
            return below(sock, callback)
        server: TCPServer = callback.__self__
        return add_sockets(server, [sock], tls_timeout=settings.tls_timeout, receiver=settings.receiver)

    tcpserver.add_accept_handler = accept_for  # type: ignore[attr-defined]


async def _serve(
    server: TCPServer, sock: Any, peer: SockAddr, listener: Listener, tls_timeout: float, pending: set[Any]
) -> None:
    """Read a connection's header, make its stream, wait for TLS, and leave the rest to the server."""
    # tornado reads and writes its sockets itself: it has no transport that an overlay could wrap
    connection = await receive_header(sock, peer, listener)
    if connection is None:
        return
    effective = connection.effective
    client: Any = peer if effective is None else effective.peername
    kind: type[IOStream] = IOStream
    closing = sock
    try:
        if server.ssl_options is not None:
            sock.getpeername()  # if the peer is gone wrapping would raise too, but leave the socket open
            sock = ssl_wrap_socket(sock, server.ssl_options, server_side=True, do_handshake_on_connect=False)
            kind, closing = SSLIOStream, sock
            # before there is a stream, which would log each failure itself
            if not await in_time(_shake_hands(sock), tls_timeout):
                raise TimeoutError(describe_late_handshake(tls_timeout))
        if effective is not None:
            sock = ClientSocket(sock, effective)
        stream = kind(sock, server.max_buffer_size, server.read_chunk_size)
    except BaseException as error:
        closing.close()
        if not isinstance(error, OSError):
            raise  # such as the CancelledError of stop()
        if server.ssl_options is None:
            _log.debug("The connection from %s was lost: %s", describe_address(peer), error)
        else:
            listener.refuse_handshake(error, client, peer)
        return
    _results[stream] = connection.result
    pending.discard(asyncio.current_task())  # stop() leaves it alone from now on: it is the server's
    if (served := server.handle_stream(stream, client)) is not None:
        await served


async def _shake_hands(sock: ssl.SSLSocket) -> None:
    """Do the TLS handshake of a server on a non-blocking socket."""
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            loop.add_reader(sock, ready.set)
        except ssl.SSLWantWriteError:
            loop.add_writer(sock, ready.set)
        else:
            return
        try:
            await ready.wait()
        finally:
            loop.remove_reader(sock)
            loop.remove_writer(sock)
