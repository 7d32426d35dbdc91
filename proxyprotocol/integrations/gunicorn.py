"""gunicorn: workers whose connections begin with a header, so that ``REMOTE_ADDR`` is the client.

``gunicorn -k proxyprotocol.integrations.gunicorn.ThreadWorker app:app`` needs no change to the application. Each name
in :data:`WORKERS` is such a class. Environment variables say how headers are read, as for :func:`.new_event_loop`. The
header is ``environ["proxy_protocol"]`` in WSGI, and ``scope["extensions"]["proxy_protocol"]["result"]`` in ASGI.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import functools
import importlib
import logging
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from proxyprotocol._adapters.asgi import extended
from proxyprotocol._adapters.listener import Listener, ThreadClock, logging_to
from proxyprotocol._adapters.settings import STARTUP_FAILURE, Settings, covered, process_settings
from proxyprotocol.asyncio.factory import ProxyProtocolFactory
from proxyprotocol.asyncio.server import listen
from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.sync import begin_tls, receive_header
from proxyprotocol.typing import SockAddr

__all__ = ["WORKERS", "switch_on"]

#: The names of the worker classes in this module, and the class that each one extends. It is imported when it is used.
#: Not ``SyncWorker``: gunicorn takes its own thread worker in place of any class of that name if there are threads.
WORKERS: Mapping[str, str] = {
    "SerialWorker": "gunicorn.workers.sync.SyncWorker",
    "ThreadWorker": "gunicorn.workers.gthread.ThreadWorker",
    "GeventWorker": "gunicorn.workers.ggevent.GeventWorker",
    "GeventPyWSGIWorker": "gunicorn.workers.ggevent.GeventPyWSGIWorker",
    "EventletWorker": "gunicorn.workers.geventlet.EventletWorker",
    "TornadoWorker": "gunicorn.workers.gtornado.TornadoWorker",
    "ASGIWorker": "gunicorn.workers.gasgi.ASGIWorker",
    "AiohttpWorker": "aiohttp.worker.GunicornWebWorker",
    "AiohttpUVLoopWorker": "aiohttp.worker.GunicornUVLoopWebWorker",
    "UvicornWorker": "uvicorn_worker.UvicornWorker",
    "UvicornH11Worker": "uvicorn_worker.UvicornH11Worker",
}

_log = logging.getLogger("proxyprotocol.gunicorn")

if TYPE_CHECKING:
    _Base: Any
else:
    _Base = object  # each of gunicorn's classes


class _Begun(NamedTuple):
    """A connection that has begun."""

    connection: ReceiverConnection
    listener: Listener
    client: SockAddr
    peer: SockAddr


_begun: MutableMapping[Any, _Begun] = WeakKeyDictionary()  # by socket, and by the same connection's socket with TLS


class _Worker(_Base):  # type: ignore[misc]
    """What all workers share; :meth:`read_headers` is left to each kind."""

    cfg: Any
    log: Any
    sockets: list[Any]
    wsgi: Any

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        from gunicorn.errors import HaltServer

        super().__init__(*arguments, **keywords)
        # here, still in the arbiter, which then stops with this one line
        if self.cfg.proxy_protocol not in (False, "off"):
            raise HaltServer(
                "gunicorn's own proxy_protocol is on, and this worker reads the header already: a connection has only "
                "one. Remove --proxy-protocol, or proxy_protocol from the configuration file",
                STARTUP_FAILURE,
            )
        covered.update(sock.sock for sock in self.sockets)

    def run(self) -> None:
        log = logging.getLogger("proxyprotocol")
        # gunicorn shows only its own logs; leave ours alone if the application has configured it
        if all(type(handler).__module__.startswith("proxyprotocol.") for handler in log.handlers):
            errors = self.log.error_log
            log.handlers, log.propagate = errors.handlers, errors.propagate
            log.setLevel(errors.level)
        settings = process_settings()
        covered.update(getattr(sock, "sock", sock) for sock in self.sockets)  # gevent has made new ones
        self.read_headers(settings, [sock for sock in self.sockets if settings.covers(sock)])
        settings.check_ports(_log)
        super().run()


class _Blocking(_Worker):
    """Reads the header of a connection where gunicorn serves it: in its thread or greenlet."""

    def read_headers(self, settings: Settings, sockets: list[Any]) -> None:
        self._listeners: dict[Any, Listener | None] = {sock.getsockname(): None for sock in self.sockets}
        for name in [sock.getsockname() for sock in sockets]:
            listener = self._listeners[name] = Listener(settings.receiver, logging_to(_log), ThreadClock())
            listener.start(name)

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi = _telling(self.wsgi, lambda sock: _begun[sock].connection.result if sock in _begun else None)

    def begin(self, sock: Any, peer: SockAddr, name: SockAddr) -> tuple[Any, SockAddr] | None:
        """Read the header of a connection; return its socket and client, or None if it is refused or lost."""
        listener = self._listeners[name]
        if listener is None:
            return sock, peer
        sock.setblocking(True)
        try:
            connection = receive_header(sock, peer, listener)
        except OSError as error:
            _log.debug("The connection from %s was lost: %s", describe_address(peer), error)
            return None
        if connection is None:
            return None
        client = peer if connection.effective is None else connection.effective.peername
        _begun[sock] = _Begun(connection, listener, client, peer)
        return sock, client


def _telling(application: Any, result_of: Callable[[Any], ProxyResult | None]) -> Any:
    """Return a WSGI application whose environ has the header."""

    def with_header(environ: dict[str, Any], start_response: Any) -> Any:
        sock = environ.get("gunicorn.socket") or environ.get("gunicorn.sock")  # the latter with gevent's pywsgi
        if sock is not None and (result := result_of(sock)) is not None:
            environ["proxy_protocol"] = result
        return application(environ, start_response)

    return with_header


class _Connections(_Blocking):
    """gunicorn handles each connection by one call."""

    def handle(self, listener: Any, client: Any, addr: SockAddr) -> None:
        try:
            begun = self.begin(client, addr, listener.getsockname())
        except OSError:  # the worker has closed its listener: it stops
            begun = None
        if begun is None:
            client.close()
        else:
            super().handle(listener, *begun)


class _Serial(_Connections):
    def begin(self, sock: Any, peer: SockAddr, name: SockAddr) -> tuple[Any, SockAddr] | None:
        try:
            return super().begin(sock, peer, name)
        finally:
            self.notify()  # gunicorn's time-out is for the request alone


class _Threads(_Blocking):
    def enqueue_req(self, conn: Any) -> None:
        if not hasattr(conn, "header_read"):
            # up to version 23 gunicorn begins TLS here, in the accept loop; later versions do it in the thread
            conn.header_read, conn.init = False, lambda: None
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        # What is raised here closes the connection at once, in every version. Otherwise newer ones wait two seconds for
        # the peer's end, in the accept loop.
        if not conn.header_read:
            conn.header_read = True
            del conn.init
            begun = self.begin(conn.sock, conn.client, conn.server)
            if begun is None:
                raise ConnectionAbortedError("refused")
            _, conn.client = begun
            if not hasattr(conn, "wait_for_data"):
                conn.init()
        done = super().handle(conn)
        if conn.sock.fileno() < 0:
            raise ConnectionAbortedError("TLS failed")
        return done


class _Gevent(_Worker):
    """Reads headers in gevent's servers."""

    server_type: Any = None  # what is gunicorn's server_class

    def read_headers(self, settings: Settings, sockets: list[Any]) -> None:
        self._settings, self._reading = settings, sockets

    def load_wsgi(self) -> None:
        super().load_wsgi()
        from proxyprotocol.integrations.gevent import proxy_result

        self.wsgi = _telling(self.wsgi, proxy_result)

    def server_class(self, sock: Any, *, spawn: Any, ssl_context: Any = None, **keywords: Any) -> Any:
        """Make the server of a listening socket."""
        from gevent.server import StreamServer

        from proxyprotocol.integrations import gevent

        tls = {} if ssl_context is None else {"ssl_context": ssl_context}
        if self.server_type is None:
            server = StreamServer(sock, partial(self.handle, sock), spawn=spawn, **tls)
            if self.cfg.workers > 1:
                server.max_accept = 1
        else:
            server = self.server_type(sock, spawn=spawn, **tls, **keywords)
        # under `proxyprotocol run` all servers of gevent do it
        if sock in self._reading and not hasattr(StreamServer.init_socket, "__wrapped__"):
            settings = self._settings
            gevent.read_headers(server, tls_timeout=settings.tls_timeout, receiver=settings.receiver)
        return server


class _Tornado(_Worker):
    """Adds the sockets to tornado's server by our own function."""

    def read_headers(self, settings: Settings, sockets: list[Any]) -> None:
        self._settings, self._reading, self._stops = settings, sockets, list[Any]()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        from tornado.web import Application
        from tornado.wsgi import WSGIContainer

        from proxyprotocol.integrations.tornado import proxy_result

        class Container(WSGIContainer):
            def environ(self, request: Any) -> dict[str, Any]:
                result = proxy_result(request.connection.stream)
                return {**super().environ(request), **({} if result is None else {"proxy_protocol": result})}

        if not isinstance(self.wsgi, (Application, WSGIContainer)):
            self.wsgi = Container(self.wsgi)

    @property
    def server(self) -> Any:
        """The HTTP server, once gunicorn has made it."""
        return self._server

    @server.setter
    def server(self, server: Any) -> None:
        from proxyprotocol.integrations.tornado import add_sockets

        settings, add, stop = self._settings, server.add_socket, server.stop

        def add_socket(sock: Any) -> None:
            if sock in self._reading:
                tls, receiver = settings.tls_timeout, settings.receiver
                self._stops.append(add_sockets(server, [sock], tls_timeout=tls, receiver=receiver))
            else:
                add(sock)

        def stop_all() -> None:
            for each in [*self._stops, stop]:
                each()

        server.add_socket, server.stop, self._server = add_socket, stop_all, server


class _Loop(_Worker):
    """Reads headers where the worker's event loop begins to listen."""

    loop: Any

    def read_headers(self, settings: Settings, sockets: list[Any]) -> None:
        self._settings = settings
        if self.loop is not None:
            self.read_on(self.loop)

    def read_on(self, loop: Any) -> None:
        """Make a loop read headers on the sockets of this worker."""
        begin, settings, own = loop.create_server, self._settings, {*self.sockets, *(s.sock for s in self.sockets)}

        async def create_server(factory: Any, *arguments: Any, **keywords: Any) -> Any:
            sock = keywords.get("sock")
            if sock not in own or not settings.covers(sock) or isinstance(factory, ProxyProtocolFactory):
                return await begin(factory, *arguments, **keywords)
            keywords = {"receiver": settings.receiver, "tls_timeout": settings.tls_timeout, **keywords}
            return await listen(begin, partial(_with_extension, factory), *arguments, **keywords)

        loop.create_server = create_server


class _Uvicorn(_Loop):
    loop = None

    async def _serve(self) -> None:
        self.read_on(asyncio.get_running_loop())
        await super()._serve()


def _with_extension(factory: Any) -> Any:
    """Make a protocol whose ASGI application knows the header."""
    protocol = factory()
    if not hasattr(protocol, "app"):
        return protocol  # aiohttp's: its requests know their transport
    application, begin = protocol.app, protocol.connection_made

    def connection_made(transport: Any) -> None:
        result = transport.get_extra_info("proxy_protocol")
        if result is not None:
            protocol.app = telling = extended(application, result)
            if hasattr(protocol, "config"):  # from which uvicorn takes the application for WebSockets
                protocol.config = copy.copy(protocol.config)
                protocol.config.loaded_app = telling
        begin(transport)

    protocol.connection_made = connection_made
    return protocol


_KINDS: Mapping[str, type[_Worker]] = {
    "gunicorn.workers.sync.SyncWorker": _Serial,
    "gunicorn.workers.gthread.ThreadWorker": _Threads,
    "gunicorn.workers.ggevent.GeventWorker": _Gevent,
    "gunicorn.workers.geventlet.EventletWorker": _Connections,
    "gunicorn.workers.gtornado.TornadoWorker": _Tornado,
    "gunicorn.workers.gasgi.ASGIWorker": _Loop,
    "aiohttp.worker.GunicornWebWorker": _Loop,
    "uvicorn_worker._workers.UvicornWorker": _Uvicorn,
    "uvicorn.workers.UvicornWorker": _Uvicorn,
}


@functools.cache
def _extend(below: type) -> type:
    """Return a worker class that reads headers, made from one of gunicorn's or of another project."""
    if issubclass(below, _Worker):
        return below
    known = (_KINDS.get(f"{base.__module__}.{base.__qualname__}") for base in below.__mro__)
    kind = next(filter(None, known), None)
    if kind is None:
        raise RuntimeError(
            f"The worker class {below.__module__}.{below.__qualname__} cannot read PROXY protocol headers: use one of "
            f"{', '.join(WORKERS)} of {__name__}"
        )
    own: dict[str, Any] = {"__module__": __name__}
    if issubclass(kind, _Blocking):
        _begin_tls_in("gunicorn.sock")
    if kind is _Connections:
        _begin_tls_in("gunicorn.workers.geventlet")
    if kind is _Gevent:
        own["server_type"] = getattr(below, "server_class", None)
    return type(below.__name__, (kind, below), own)


def _begin_tls_in(module: str) -> None:
    """Give the handshakes after a header their deadline and their log line, in place of gunicorn's endless ones."""
    gunicorn_sock: Any = importlib.import_module(module)
    wrap = getattr(gunicorn_sock, "ssl_wrap_socket", None)
    if wrap is None:
        raise RuntimeError("This gunicorn is too old to read PROXY protocol headers: install version 21.2 or later")
    if isinstance(wrap, partial):
        return

    def begin(wrap: Any, sock: Any, conf: Any) -> Any:
        from gunicorn.sock import ssl_context

        begun = _begun.get(sock)
        if begun is None:
            return wrap(sock, conf)
        timeout = process_settings().tls_timeout
        secured = begin_tls(sock, ssl_context(conf), timeout, begun.listener, begun.client, begun.peer)
        if secured is None:
            raise ConnectionResetError(errno.ECONNRESET, "the TLS handshake failed")
        _begun[secured] = begun
        return secured

    gunicorn_sock.ssl_wrap_socket = partial(begin, wrap)


class _WorkerClass(property):
    """gunicorn's setting ``worker_class``, with headers."""


def switch_on() -> None:
    """Make every gunicorn of this process use workers that read headers, whatever their class is.

    gunicorn's control socket is off by default then.

    Raises:
        AttributeError, ImportError: This gunicorn lacks what this module needs.
    """
    from gunicorn import config
    from gunicorn.sock import ssl_wrap_socket  # noqa: F401  # older versions cannot be used

    setting = config.Config.worker_class
    if not isinstance(setting, _WorkerClass):
        config.Config.worker_class = _WorkerClass(lambda config: _extend(setting.fget(config)))
        if hasattr(config, "ControlSocketDisable"):  # its event loop would want headers from gunicornc too
            config.ControlSocketDisable.default = True


def __getattr__(name: str) -> Any:
    if name not in WORKERS:
        # gunicorn shows a RuntimeError as a sentence; an AttributeError would be lost in its configuration
        kind = RuntimeError if name.endswith("Worker") else AttributeError
        raise kind(f"{__name__} has no {name}, but {', '.join(WORKERS)}")
    module, _, below = WORKERS[name].rpartition(".")
    return _extend(getattr(importlib.import_module(module), below))
