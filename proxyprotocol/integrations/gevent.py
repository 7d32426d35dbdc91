"""gevent: headers at the start of the connections of a ``StreamServer`` or a ``pywsgi.WSGIServer``."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gevent
from gevent.server import StreamServer

from proxyprotocol._adapters.environ import telling
from proxyprotocol._adapters.listener import Listener
from proxyprotocol._adapters.refusals import describe_late_handshake
from proxyprotocol._adapters.settings import Settings, process_settings
from proxyprotocol._adapters.threads import cover, own_settings
from proxyprotocol._wire import spec
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import ProxyResult
from proxyprotocol.sync import receive_header
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["proxy_result", "read_headers", "switch_on"]

_results: WeakKeyDictionary[Any, ProxyResult | None] = WeakKeyDictionary()


def read_headers(
    server: StreamServer,
    *,
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
    receiver: Receiver | None = None,
    **keywords: Unpack[ReceiverKeywords],
) -> None:
    """Let a server read a header at the start of each connection, in the greenlet that serves the connection.

    Call this before the server's ``start()`` or ``serve_forever()``. The server's own TLS begins *after* the header.
    The server's function gets the client's address, and a WSGI application finds the header as
    ``environ["proxy_protocol"]``.

    Args:
        server: The server.
        tls_timeout: Seconds that the TLS handshake may take; None for no limit.
        receiver: The rules for the header, in place of the keywords below.
        keywords: ``pp``, ``policy``, ``trusted``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver`
            takes them.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`.
    """
    settings = own_settings(receiver, keywords, tls_timeout)
    server.init_socket = functools.partial(_listen, server.init_socket, settings, server)


@functools.cache
def switch_on() -> None:
    """Make every stream server of gevent in this process read headers, by the variables ``PROXYPROTOCOL_*``."""
    settings, listen = process_settings(), StreamServer.init_socket

    @functools.wraps(listen)
    def init_socket(self: Any) -> None:
        if "init_socket" in vars(self):  # read_headers() has given it rules of its own
            listen(self)
        else:
            _listen(functools.partial(listen, self), settings, self)

    StreamServer.init_socket = init_socket


def proxy_result(sock: Any) -> ProxyResult | None:
    """Return what the header of a connection said, with its TLVs; None if there was no header.

    Args:
        sock: The socket that the server's function gets.
    """
    return _results.get(sock)


def _listen(listen: Any, settings: Settings, server: Any) -> None:
    """Open a server's socket, and replace the function that serves a connection."""
    listen()
    if settings.covers(server.socket):
        listener = cover(server.socket, settings.receiver)
        server._handle = functools.partial(_serve, server, listener, settings.tls_timeout)
        if hasattr(server, "handler_class"):
            server.handler_class = telling(server.handler_class, "get_environ", _result)


def _serve(server: Any, listener: Listener, tls_timeout: float | None, sock: Any, peer: SockAddr) -> None:
    connection = receive_header(sock, peer, listener, sleep=gevent.sleep)
    if connection is None:
        return  # the server closes the socket
    client = peer if connection.effective is None else connection.effective.peername
    if server.ssl_enabled:
        try:
            with gevent.Timeout(tls_timeout, TimeoutError(describe_late_handshake(tls_timeout or 0))):
                sock = server.wrap_socket(sock, **server.ssl_args)
        except OSError as error:
            listener.refuse_handshake(error, client, peer)
            return
    with contextlib.closing(sock):
        _results[sock] = connection.result
        server.handle(sock, client)


def _result(handler: Any) -> ProxyResult | None:
    return _results.get(handler.socket)
