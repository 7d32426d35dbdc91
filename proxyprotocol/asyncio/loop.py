"""Event loops that read headers on every listener, for servers without an option for that, such as uvicorn's command.

``uvicorn --loop proxyprotocol.asyncio:new_event_loop app:app`` needs no change to the application. Environment
variables say how headers are read.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from proxyprotocol._adapters.deadlines import LoopClock, check_seconds
from proxyprotocol._adapters.listener import Listener, logging_to
from proxyprotocol._adapters.settings import (
    UNIX,
    Settings,
    covered,
    process_settings,
    read_settings,
    self_reading,
    startup_failure,
)
from proxyprotocol._wire import spec
from proxyprotocol.asyncio.factory import ProxyProtocolFactory
from proxyprotocol.asyncio.server import listen
from proxyprotocol.asyncio.sockets import receive_header
from proxyprotocol.asyncio.transport import LoopOfStreams, ProxyProtocolTransport
from proxyprotocol.policy import HeaderPolicy
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import describe_address

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LoopKeywords", "new_event_loop", "new_uvloop_event_loop", "read_headers"]

_UNREAD = (
    "The event loop reads no PROXY protocol header on %s: the application watches this listening socket with "
    "add_reader() and accepts its connections itself. Use proxyprotocol.integrations.tornado.add_sockets for tornado, "
    "proxyprotocol.integrations.anyio.ProxyProtocolListener for anyio and loop.sock_accept() for your own sockets, or "
    "name the ports of all other listeners in %s"
)

_log = logging.getLogger("proxyprotocol.asyncio")

_PORTS_SETTLE: Final = 5.0  # seconds from a loop's first listener; then its other listeners are there too


class LoopKeywords(ReceiverKeywords, total=False):
    """The keywords of :func:`new_event_loop`."""

    receiver: Receiver | None
    tls_timeout: float | None
    ports: Iterable[int | str] | None


_LOOP_DEFAULTS: Mapping[str, Any] = {"receiver": None, "tls_timeout": spec.DEFAULT_TLS_TIMEOUT, "ports": None}


class _State:
    """What a loop knows about its listeners."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # For connections that were accepted elsewhere. The first of them names it and logs its start line.
        self.elsewhere = Listener(settings.receiver, logging_to(_log), LoopClock)
        # For applications that call sock_accept(): the log of each listener; its connections after their headers,
        # or the error of accept(); the later transport of each connection; the tasks that read headers.
        self.listeners: MutableMapping[socket.socket, Listener] = WeakKeyDictionary()
        self.ready: MutableMapping[socket.socket, asyncio.Queue[socket.socket | OSError]] = WeakKeyDictionary()
        self.overlays: MutableMapping[socket.socket, ProxyProtocolTransport] = WeakKeyDictionary()
        self.headers: set[asyncio.Task[None]] = set()
        self.warned: set[str] = set()  # the listeners that a warning has named


if TYPE_CHECKING:
    _AnyLoop = asyncio.SelectorEventLoop
else:
    _AnyLoop = object


class _HeaderLoop(_AnyLoop):
    """The first base class of our loops, before asyncio's or uvloop's loop: it reads headers on every listener."""

    _state: _State
    _settings: Settings

    def configure(self, settings: Settings) -> None:
        self._settings, self._state = settings, _State(settings)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **keywords: Any) -> Any:
        listener = keywords.get("sock") or port or 0
        return await self._listen(super().create_server, protocol_factory, listener, host, port, **keywords)

    async def create_unix_server(self, protocol_factory: Any, path: Any = None, **keywords: Any) -> Any:
        return await self._listen(super().create_unix_server, protocol_factory, UNIX, path, **keywords)

    async def _listen(self, begin: Any, protocol_factory: Any, listener: Any, *args: Any, **keywords: Any) -> Any:
        covers = self._covers(listener)
        # the arguments of our own functions override the loop's
        if isinstance(protocol_factory, ProxyProtocolFactory):
            return await begin(protocol_factory, *args, **keywords)
        if not covers:
            server = await begin(protocol_factory, *args, **keywords)
            self._tell_unread(*(sock.getsockname() for sock in server.sockets))
            return server
        keywords = {"receiver": self._settings.receiver, "tls_timeout": self._settings.tls_timeout, **keywords}
        return await listen(begin, protocol_factory, *args, **keywords)

    def _tell_unread(self, *addresses: Any) -> None:
        receiver = Receiver(policy=HeaderPolicy.SKIP)
        Listener(receiver, logging_to(_log), LoopClock).start(*addresses)

    def _covers(self, listener: Any) -> bool:
        if self._settings.ports and not self._settings.heard:
            self.call_later(_PORTS_SETTLE, self._settings.check_ports, _log)
        return self._settings.covers(listener)

    async def start_tls(self, transport: Any, *args: Any, **keywords: Any) -> Any:
        return await LoopOfStreams(super()).start_tls(transport, *args, **keywords)

    async def sock_accept(self, sock: Any) -> tuple[socket.socket, Any]:
        """Return a connection after its header, and the client's address."""
        if not self._reads(sock):
            accepted: tuple[socket.socket, Any] = await super().sock_accept(sock)
            if sock in covered:
                covered.add(accepted[0])
            return accepted
        if sock not in self._state.listeners:
            self._state.listeners[sock] = Listener(self._settings.receiver, logging_to(_log), LoopClock)
            self_reading.add(sock)
            self._state.listeners[sock].start(sock.getsockname())
        ready, number = self._state.ready.setdefault(sock, asyncio.Queue()), sock.fileno()
        # meanwhile accept others too: a peer that is slow with its header must not hold up the rest
        super().add_reader(sock, self._accept, sock, ready)
        try:
            connection = await ready.get()
        finally:
            self.remove_reader(number)
        if isinstance(connection, OSError):
            raise connection
        return connection, self._state.overlays[connection].get_extra_info("peername")

    def _accept(self, sock: socket.socket, ready: asyncio.Queue[socket.socket | OSError]) -> None:
        try:
            connection, peer = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            ready.put_nowait(error)
            return

        listener = self._state.listeners[sock]

        async def receive() -> None:
            begun = await receive_header(connection, peer, listener)
            if sock.fileno() < 0:  # the application has closed the listener, and will not fetch this connection
                connection.close()
            elif begun is not None:
                self._state.overlays[connection] = ProxyProtocolTransport(begun, peer)
                ready.put_nowait(connection)

        task = self.create_task(receive())
        self._state.headers.add(task)
        task.add_done_callback(self._state.headers.discard)

    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **keywords: Any) -> Any:
        """Begin an application on a connection. First read its header, unless that was done already."""
        overlay = self._state.overlays.pop(sock, None)
        if overlay is None:
            if not self._reads(sock) or isinstance(protocol_factory, ProxyProtocolFactory):
                return await super().connect_accepted_socket(protocol_factory, sock, **keywords)
            peer = sock.getpeername()
            begun = await receive_header(sock, peer, self._state.elsewhere)
            if begun is None:
                address = describe_address(peer)
                raise ConnectionAbortedError(f"The connection from {address} did not begin with a header")
            overlay = ProxyProtocolTransport(begun, peer)
        if keywords.get("ssl") is not None:
            keywords = {"ssl_handshake_timeout": self._settings.tls_timeout, **keywords}
        beginning = _Beginning(overlay, protocol_factory())
        await super().connect_accepted_socket(lambda: beginning, sock, **keywords)
        return overlay, beginning.protocol

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        """Watch a file descriptor. Warn if it is a listening socket: the application accepts without this loop."""
        super().add_reader(fd, callback, *args)
        number = fd if isinstance(fd, int) else fd.fileno()
        try:
            sock = socket.socket(fileno=number)
        except OSError:
            return  # not a socket
        try:
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or not self._reads(sock):
                return
            listener = describe_address(sock.getsockname())
        finally:
            sock.detach()
        if listener not in self._state.warned and all(number != other.fileno() for other in covered):
            self._state.warned.add(listener)
            _log.warning(_UNREAD, listener, self._settings.receiver.spell("ports"))

    def _reads(self, sock: socket.socket) -> bool:
        return self._covers(sock) and sock not in covered

    def close(self) -> None:
        super().close()
        for listener in (self._state.elsewhere, *self._state.listeners.values()):
            listener.stop()


class _Beginning(asyncio.Protocol):
    """Begins the application on a connection after its header, which was read before, and after its TLS handshake."""

    def __init__(self, overlay: ProxyProtocolTransport, protocol: asyncio.BaseProtocol) -> None:
        self._overlay, self.protocol = overlay, protocol

    def connection_made(self, transport: Any) -> None:
        self._overlay.begin(transport, self.protocol)


def new_event_loop(**keywords: Unpack[LoopKeywords]) -> asyncio.AbstractEventLoop:
    """Make an asyncio event loop that reads a header at the start of every connection to its listeners.

    Without keywords, environment variables configure it. ``PROXYPROTOCOL_VERSION``, ``_TRUSTED``, ``_UNTRUSTED``,
    ``_POLICY``, ``_TIMEOUT``, ``_MAX_HEADER``, ``_IPV4_IN_TCP6`` and ``_TLS_TIMEOUT`` take the same values as the
    options of endpoint strings. ``PROXYPROTOCOL_PORTS`` names the listeners that read headers: port numbers, and
    ``unix`` for all UNIX sockets, with commas between them. Without it that is every listener from which the loop
    accepts, with ``create_server``, ``create_unix_server``, ``sock_accept`` or ``connect_accepted_socket``. Servers
    that the functions of this package open follow their own arguments. ``PROXYPROTOCOL_METRICS`` is a port, or
    ``HOST:PORT``, on which Prometheus finds counters.

    The log tells of each listener what it reads and from whom. It warns of a port in ``PROXYPROTOCOL_PORTS`` on which
    the loop does not listen, and of a listening socket that the application watches with ``add_reader``: the
    application accepts there by itself, and the loop reads no header.

    Args:
        keywords: In place of the environment: those of :class:`.Receiver` such as ``trusted``, or ``receiver`` with all
            of them; ``tls_timeout`` (seconds); ``ports``, such as ``[8080, "unix"]``.

    Raises:
        SystemExit: A variable is wrong. A sentence on standard error names the variable and what it takes.
        TypeError, ValueError: A keyword is wrong.
    """
    return _new_loop(asyncio.SelectorEventLoop, keywords)


def new_uvloop_event_loop(**keywords: Unpack[LoopKeywords]) -> asyncio.AbstractEventLoop:
    """Make a uvloop event loop. Otherwise it is :func:`new_event_loop`.

    Raises:
        SystemExit: A variable is wrong, or uvloop is not installed.
        TypeError, ValueError: A keyword is wrong.
    """
    try:
        import uvloop
    except ImportError as error:
        raise startup_failure(f"uvloop cannot be imported ({error}): install the extra proxyprotocol[uvloop]") from None
    return _new_loop(uvloop.Loop, keywords)


def _new_loop(base: type, keywords: Mapping[str, Any]) -> asyncio.AbstractEventLoop:
    # the settings first, before there is a loop that would have to be closed
    if keywords:
        rules = {**keywords}
        own = {name: rules.pop(name, default) for name, default in _LOOP_DEFAULTS.items()}
        receiver = Receiver.of(own["receiver"], rules, _LOOP_DEFAULTS)
        settings = Settings(receiver, check_seconds("tls_timeout", own["tls_timeout"]), own["ports"])
    else:
        settings = read_settings()
    loop = type("EventLoop", (_HeaderLoop, base), {})()
    loop.configure(settings)
    return loop  # type: ignore[no-any-return]


def read_headers(loop: Any) -> None:
    """Let a loop that somebody else has just made read headers on its listeners.

    The environment variables of :func:`new_event_loop` configure it, once for all loops of the process.
    """
    if not isinstance(loop, _HeaderLoop):
        made: Any = type(loop)
        loop.__class__ = _derive(made)
        loop.configure(process_settings())


@functools.cache
def _derive(kind: Any) -> Any:
    return type(kind.__name__, (_HeaderLoop, kind), {})
