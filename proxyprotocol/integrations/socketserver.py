"""socketserver: headers for servers that nobody can give the mix-in.

That is every stream server that some other code makes: wsgiref's, those of :mod:`http.server` and
:mod:`xmlrpc.server`, Django's ``runserver``, and Werkzeug's, which is what ``flask run`` starts. Whoever writes the
class of a server uses :class:`proxyprotocol.sync.ProxyProtocolMixIn` instead.
"""

from __future__ import annotations

import functools
import socket
import ssl
from socketserver import BaseServer, TCPServer
from typing import TYPE_CHECKING, Any

from proxyprotocol._adapters.environ import telling
from proxyprotocol._adapters.settings import Settings, covered, is_for_metrics, process_settings
from proxyprotocol._adapters.threads import own_settings
from proxyprotocol._wire import spec
from proxyprotocol.policy import HeaderPolicy
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import ProxyResult
from proxyprotocol.sync import ProxyProtocolMixIn

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["read_headers", "switch_on"]


class _Covered(ProxyProtocolMixIn):
    """Becomes the first base of a server's class, as if its author had written the mix-in there."""

    socket: Any
    _settings: Settings
    _activated = _ready = False
    _hint = ""  # nobody writes this class

    def server_activate(self) -> None:
        self._activated, self.tls_timeout = True, self._settings.tls_timeout
        if self._settings.covers(self.socket):
            self.receiver = self._settings.receiver
            covered.add(self.socket)
        else:
            self.receiver = Receiver(policy=HeaderPolicy.SKIP)
        super().server_activate()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        self._make_ready()
        super().serve_forever(poll_interval)

    def get_request(self) -> Any:
        self._make_ready()  # some programs accept without serve_forever()
        return super().get_request()

    def _make_ready(self) -> None:
        if self._ready:
            return
        self._ready = True
        if not self._activated:  # Werkzeug's reloader and read_headers() bring a socket that listens already
            self.server_activate()
        if isinstance(self.socket, ssl.SSLSocket) and self._settings.covers(self.socket):
            # TLS on the listening socket would come before the header
            self.tls_context = self.socket.context
            self.socket = socket.socket(fileno=self.socket.detach())
            covered.add(self.socket)
        # Werkzeug has its own name for the method of wsgiref
        self.RequestHandlerClass = telling(self.RequestHandlerClass, "get_environ", _result)
        self.RequestHandlerClass = telling(self.RequestHandlerClass, "make_environ", _result)


def read_headers(
    server: TCPServer,
    *,
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
    receiver: Receiver | None = None,
    **keywords: Unpack[ReceiverKeywords],
) -> None:
    """Let a server that exists already read a header at the start of each connection.

    Call this before ``serve_forever()``. It is what :class:`~proxyprotocol.sync.ProxyProtocolMixIn` does, and two
    things more: TLS that the server has put on its listening socket begins *after* the header, and a WSGI application
    finds the header as ``environ["proxy_protocol"]``.

    Args:
        server: The server, such as one that ``wsgiref.simple_server.make_server()`` or
            ``werkzeug.serving.make_server()`` has made.
        tls_timeout: Seconds that the TLS handshake may take; None for no limit.
        receiver: The rules for the header, in place of the keywords below.
        keywords: ``pp``, ``policy``, ``trusted``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver`
            takes them.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`; or the server is one for datagrams, or its class has the mix-in.
    """
    settings = own_settings(receiver, keywords, tls_timeout)
    if isinstance(server, _Covered):  # by switch_on(), whose rules these replace
        server._settings, server._activated = settings, False
    elif _can_be_covered(server):
        _cover(server, settings)
    else:
        raise TypeError(f"{server!r} is not a stream server of socketserver, or its class has ProxyProtocolMixIn")


@functools.cache
def switch_on() -> None:
    """Make every stream server of this process read headers, by the variables ``PROXYPROTOCOL_*``.

    A server with :class:`~proxyprotocol.sync.ProxyProtocolMixIn` keeps its own rules.
    """
    initialise = BaseServer.__init__

    @functools.wraps(initialise)
    def cover(self: Any, *arguments: Any, **keywords: Any) -> None:
        initialise(self, *arguments, **keywords)
        if _can_be_covered(self) and not is_for_metrics(self.server_address):
            _cover(self, process_settings())

    BaseServer.__init__ = cover  # type: ignore[method-assign]


def _can_be_covered(server: BaseServer) -> bool:
    streams = isinstance(server, TCPServer) and server.socket_type == socket.SOCK_STREAM
    return streams and not isinstance(server, ProxyProtocolMixIn)


def _cover(server: Any, settings: Settings) -> None:
    kind: Any = type(server)
    server.__class__ = _covered_class(kind)
    server._settings = settings


@functools.cache
def _covered_class(kind: Any) -> Any:
    return type(kind.__name__, (_Covered, kind), {"__module__": kind.__module__})


def _result(handler: Any) -> ProxyResult | None:
    result: ProxyResult | None = handler.server.proxy_result(handler.connection)
    return result
