"""eventlet: headers at the start of the connections of ``eventlet.wsgi.server()`` and ``eventlet.serve()``."""

from __future__ import annotations

import functools
import socket
import ssl
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import eventlet
from eventlet import convenience, wsgi
from eventlet.green.ssl import GreenSSLSocket
from eventlet.greenio import GreenSocket

from proxyprotocol._adapters.environ import telling
from proxyprotocol._adapters.listener import Listener
from proxyprotocol._adapters.refusals import describe_late_handshake
from proxyprotocol._adapters.settings import Settings, covered, process_settings
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


class _State:
    """The state of a connection of ``wsgi.server()``, which the server keeps by the real peer's address."""

    def __init__(self, state: list[Any], client: SockAddr) -> None:
        self._state, self._client = state, client

    def __getitem__(self, index: int) -> Any:
        return self._state[index] if index else self._client

    def __setitem__(self, index: int, value: Any) -> None:
        self._state[index] = value


def read_headers(
    sock: Any,
    protocol: Any = wsgi.HttpProtocol,
    *,
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
    receiver: Receiver | None = None,
    **keywords: Unpack[ReceiverKeywords],
) -> type:
    """Return a protocol for ``eventlet.wsgi.server()`` that reads a header in the green thread of the connection.

    Give it to the server: ``wsgi.server(sock, app, protocol=read_headers(sock, trusted=["10.0.0.0/8"]))``. TLS that
    ``eventlet.wrap_ssl()`` has put on *sock* begins *after* the header. The application finds the header as
    ``environ["proxy_protocol"]``.

    Args:
        sock: The server's listening socket.
        protocol: The protocol for the requests.
        tls_timeout: Seconds that the TLS handshake may take; None for no limit.
        receiver: The rules for the header, in place of the keywords below.
        keywords: ``pp``, ``policy``, ``trusted``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver`
            takes them.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`.
    """
    settings = own_settings(receiver, keywords, tls_timeout)
    made: type = _protocol(sock, protocol, settings)
    return made


@functools.cache
def switch_on() -> None:
    """Make every server of eventlet in this process read headers, by the variables ``PROXYPROTOCOL_*``."""
    settings, initialise, serve = process_settings(), wsgi.Server.__init__, convenience.serve

    @functools.wraps(initialise)
    def cover(self: Any, sock: Any, *arguments: Any, **keywords: Any) -> None:
        initialise(self, sock, *arguments, **keywords)
        if settings.covers(sock) and not hasattr(self.protocol, "header_listener"):
            self.protocol = _protocol(sock, self.protocol, settings)

    @functools.wraps(serve)
    def our_serve(sock: Any, handle: Any, *arguments: Any, **keywords: Any) -> Any:
        if settings.covers(sock):
            handle = functools.partial(_handle, handle, _listener(sock, settings), settings.tls_timeout)
        return serve(sock, handle, *arguments, **keywords)

    wsgi.Server.__init__ = cover
    convenience.serve = eventlet.serve = our_serve


def proxy_result(sock: Any) -> ProxyResult | None:
    """Return what the header of a connection said, with its TLVs; None if there was no header.

    Args:
        sock: The socket that the function of ``eventlet.serve()`` gets.
    """
    return _results.get(sock)


def _listener(sock: Any, settings: Settings) -> Listener:
    covered.add(getattr(sock, "fd", sock))  # a green socket accepts by the plain one in it
    return cover(sock, settings.receiver)


def _protocol(sock: Any, protocol: Any, settings: Settings) -> Any:
    listener, timeout = _listener(sock, settings), settings.tls_timeout
    protocol = telling(protocol, "get_environ", _result)

    class HttpProtocol(protocol):  # type: ignore[misc]
        header_listener = listener

        def __init__(self, state: list[Any], server: Any) -> None:
            state[1], context = _plain(state[1])  # the server closes what it finds there
            begun = _begin(state[1], state[0], listener, context, timeout)
            if begun is not None:
                state[1], client = begun
                super().__init__(_State(state, client), server)

    return HttpProtocol


def _result(handler: Any) -> ProxyResult | None:
    return _results.get(handler.request)


def _handle(handle: Any, listener: Listener, tls_timeout: float | None, sock: Any, peer: SockAddr) -> None:
    """Serve a connection of ``eventlet.serve()``."""
    sock, context = _plain(sock)
    begun = _begin(sock, peer, listener, context, tls_timeout)
    if begun is None:
        sock.close()
    else:
        handle(*begun)


def _plain(sock: Any) -> tuple[Any, ssl.SSLContext | None]:
    """Return a connection without TLS, which has not begun yet, and the context for it."""
    if not isinstance(sock, GreenSSLSocket):
        return sock, None
    context, timeout = sock.context, sock.gettimeout()
    plain = GreenSocket(socket.socket(fileno=sock.detach()))
    plain.settimeout(timeout)
    return plain, context


def _begin(
    sock: Any, peer: SockAddr, listener: Listener, context: ssl.SSLContext | None, tls_timeout: float | None
) -> tuple[Any, SockAddr] | None:
    """Read the header, and begin TLS after it; return the socket and the client, or None for a refused connection."""
    connection = receive_header(sock, peer, listener, sleep=eventlet.sleep)
    if connection is None:
        return None
    client = peer if connection.effective is None else connection.effective.peername
    if context is not None:
        plain, sock = sock, None
        try:
            sock = GreenSSLSocket(plain, server_side=True, do_handshake_on_connect=False, _context=context)
            with eventlet.Timeout(tls_timeout, TimeoutError(describe_late_handshake(tls_timeout or 0))):
                sock.do_handshake()
        except OSError as error:
            listener.refuse_handshake(error, client, peer)
            (sock or plain).close()
            return None
    _results[sock] = connection.result
    return sock, client
