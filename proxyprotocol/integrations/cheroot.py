"""cheroot, the server of CherryPy: headers at the start of its connections, and TLS after them."""

from __future__ import annotations

import functools
import socket
from typing import TYPE_CHECKING, Any

from cheroot.errors import FatalSSLAlert, NoSSLError
from cheroot.makefile import MakeFile
from cheroot.server import HTTPServer

from proxyprotocol._adapters.environ import telling
from proxyprotocol._adapters.listener import Listener
from proxyprotocol._adapters.overlay import Overlay
from proxyprotocol._adapters.settings import Settings, process_settings
from proxyprotocol._adapters.threads import cover, own_settings
from proxyprotocol._wire import spec
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import ProxyResult
from proxyprotocol.sync import receive_header
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from cheroot.server import HTTPConnection
    from typing_extensions import Unpack
else:
    HTTPConnection = object  # becomes the first base of the server's own class of connections

__all__ = ["read_headers", "switch_on"]


class _Connection(HTTPConnection):
    """Reads the header in a worker thread; cheroot would do TLS in the thread that accepts."""

    socket: Any
    remote_addr: Any
    remote_port: Any
    _listener: Listener
    _tls_timeout: float | None
    result: ProxyResult | None = None
    _begun = _refused = False

    def communicate(self) -> bool:
        if not self._begun:
            self._begun = True
            self._refused = not self._begin()
            if self._refused:
                return False
        keep_open: bool = super().communicate()  # type: ignore[no-untyped-call]
        return keep_open

    def close(self) -> None:
        if self._refused:  # a handshake that fails closes the socket, and cheroot's own close() would raise
            self.rfile.close()
            self.socket.close()
        else:
            super().close()

    def _begin(self) -> bool:
        # cheroot has no address for a UNIX peer
        peer: SockAddr = (self.remote_addr, self.remote_port) if self.remote_addr else ""
        connection = receive_header(self.socket, peer, self._listener)
        if connection is None:
            return False
        self.result = connection.result
        client: Any = peer
        if connection.effective is not None:
            client = connection.effective.peername
            self.remote_addr, self.remote_port = (client, None) if isinstance(client, str) else client[:2]
        adapter = self.server.ssl_adapter
        if adapter is not None:
            try:
                self.socket.settimeout(self._tls_timeout)
                self.socket, self.ssl_env = adapter.wrap_later(self.socket)
            except (OSError, FatalSSLAlert, NoSSLError) as error:
                self._listener.refuse_handshake(error.__cause__ or error, client, peer)
                return False
            self.socket.settimeout(self.server.timeout)
            self.rfile = adapter.makefile_later(self.socket, "rb", self.rbufsize)
            self.wfile = adapter.makefile_later(self.socket, "wb", self.wbufsize)
        return True


class _Later(Overlay):
    """An adapter for TLS that does nothing to a new connection."""

    makefile = staticmethod(MakeFile)

    def __init__(self, adapter: Any) -> None:
        self._below = adapter
        self.wrap_later, self.makefile_later = adapter.wrap, adapter.makefile

    def wrap(self, sock: Any) -> tuple[Any, dict[str, Any]]:
        return sock, {}


def read_headers(
    server: HTTPServer,
    *,
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
    receiver: Receiver | None = None,
    **keywords: Unpack[ReceiverKeywords],
) -> None:
    """Let a server read a header at the start of each connection, in the worker thread of the connection.

    Call this before the server's ``start()`` or ``prepare()``. The server's own TLS begins *after* the header; its
    ``ssl_adapter`` must be the built-in one. A WSGI application finds the header as ``environ["proxy_protocol"]``.

    Args:
        server: The server, such as a ``cheroot.wsgi.Server``.
        tls_timeout: Seconds that the TLS handshake may take; None for no limit.
        receiver: The rules for the header, in place of the keywords below.
        keywords: ``pp``, ``policy``, ``trusted``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver`
            takes them.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`.
    """
    settings = own_settings(receiver, keywords, tls_timeout)
    server.prepare = functools.partial(_prepare, server.prepare, settings, server)  # type: ignore[method-assign]


@functools.cache
def switch_on() -> None:
    """Make every server of cheroot in this process read headers, by the variables ``PROXYPROTOCOL_*``."""
    settings, own = process_settings(), HTTPServer.prepare

    @functools.wraps(own)
    def prepare(self: Any) -> None:
        if "prepare" in vars(self):  # read_headers() has given it rules of its own
            own(self)
        else:
            _prepare(functools.partial(own, self), settings, self)

    HTTPServer.prepare = prepare  # type: ignore[method-assign]


def _prepare(prepare: Any, settings: Settings, server: Any) -> None:
    """Let a server listen, and replace the class of its connections."""
    prepare()
    if not settings.covers(server.socket) or isinstance(server.ssl_adapter, _Later):
        return
    if not isinstance(server.socket, socket.socket):
        server.stop()
        raise TypeError("cheroot's adapter for pyOpenSSL puts TLS before the header: use the built-in ssl_adapter")
    rules = {"_listener": cover(server.socket, settings.receiver), "_tls_timeout": settings.tls_timeout}
    server.ConnectionClass = type("HTTPConnection", (_Connection, server.ConnectionClass), rules)
    server.gateway = telling(server.gateway, "get_environ", _result)
    if server.ssl_adapter is not None:
        server.ssl_adapter = _Later(server.ssl_adapter)


def _result(gateway: Any) -> ProxyResult | None:
    result: ProxyResult | None = gateway.req.conn.result
    return result
