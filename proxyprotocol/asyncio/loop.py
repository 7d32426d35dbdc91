"""Event loops whose listeners read headers, for servers without an option for that, such as uvicorn's command.

``uvicorn --loop proxyprotocol.asyncio:new_event_loop app:app`` needs no change to the application. Environment
variables say how headers are read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from proxyprotocol._wire import spec
from proxyprotocol.asyncio.factory import ProxyProtocolFactory
from proxyprotocol.asyncio.server import listen
from proxyprotocol.asyncio.sockets import covered, receive_header
from proxyprotocol.asyncio.transport import LoopOfStreams, ProxyProtocolTransport
from proxyprotocol.options import OPTIONS, describe_risk, parse_receiver, parse_tls_timeout
from proxyprotocol.result import describe_address

__all__ = ["new_event_loop", "new_uvloop_event_loop"]

# gunicorn's and uvicorn's workers exit with this status to say that the next worker would fail too. After any other
# status they are started again and again.
_STARTUP_FAILURE = 3

_UNREAD = (
    "The event loop reads no PROXY protocol header on %s: the application watches this listening socket with "
    "add_reader() and accepts its connections itself. Use proxyprotocol.integrations.tornado.add_sockets for tornado, "
    "proxyprotocol.integrations.anyio.ProxyProtocolListener for anyio and loop.sock_accept() for your own sockets, or "
    "name the ports of all other listeners in PROXYPROTOCOL_PORTS"
)

_log = logging.getLogger("proxyprotocol.asyncio")

_PREFIX = "PROXYPROTOCOL_"
_PORTS = _PREFIX + "PORTS"
_VARIABLES = {_PREFIX + option.upper(): option for option in OPTIONS}
_UNIX = "unix"
# without leading zeros: ports are compared as text, and a listener's own number has none
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def _spell(option: str) -> str:
    return _PREFIX + option.upper()


class _State:
    """A loop's state. A wrong value in the environment, or an unknown variable with our prefix, raises ValueError."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        given = {name: value for name, value in environment.items() if name.startswith(_PREFIX)}
        ports = given.pop(_PORTS, None)
        # We must not ignore these: with a typo in the name of _TRUSTED we would trust every peer.
        unknown = ", ".join(sorted(given.keys() - _VARIABLES.keys()))
        if unknown:
            raise ValueError(f"Unknown variable {unknown}. The known ones are {', '.join([*_VARIABLES, _PORTS])}")
        options = {_VARIABLES[name]: value for name, value in given.items()}
        self.receiver = parse_receiver(options, _spell)
        self.tls_timeout = parse_tls_timeout(options, _spell)
        self.ports = None if ports is None else {port.strip() for port in ports.split(",")}
        for port in self.ports or ():
            if port != _UNIX and not (_PORT.fullmatch(port) and int(port) <= spec.MAX_PORT):
                raise ValueError(f"{_PORTS} takes port numbers and unix, with commas between them, not {port!r}")
        # For applications that call sock_accept(): the connections of each listener whose header has arrived, or the
        # error of accept(); the later transport of each connection; the tasks that read headers.
        self.ready: MutableMapping[socket.socket, asyncio.Queue[socket.socket | OSError]] = WeakKeyDictionary()
        self.overlays: MutableMapping[socket.socket, ProxyProtocolTransport] = WeakKeyDictionary()
        self.headers: set[asyncio.Task[None]] = set()
        self.warned: set[str] = set()  # the listeners that a warning has named

    def covers(self, listener: Any) -> bool:
        """Return whether connections begin with a header at a listener, given as its socket, its port or ``unix``."""
        if self.ports is None:
            return True
        if hasattr(listener, "getsockname"):
            # ask for the address, not for the family: uvicorn makes every socket of --fd an AF_UNIX one, whatever it is
            name = listener.getsockname()
            listener = _UNIX if isinstance(name, (str, bytes)) else name[1]
        return str(listener) in self.ports


if TYPE_CHECKING:
    _AnyLoop = asyncio.SelectorEventLoop
else:
    _AnyLoop = object


class _HeaderLoop(_AnyLoop):
    """The first base class of our loops, before asyncio's or uvloop's loop: it reads headers on every listener."""

    _state: _State

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **keywords: Any) -> Any:
        listener = keywords.get("sock") or port or 0
        return await self._listen(super().create_server, protocol_factory, listener, host, port, **keywords)

    async def create_unix_server(self, protocol_factory: Any, path: Any = None, **keywords: Any) -> Any:
        return await self._listen(super().create_unix_server, protocol_factory, _UNIX, path, **keywords)

    async def _listen(self, begin: Any, protocol_factory: Any, listener: Any, *args: Any, **keywords: Any) -> Any:
        # the arguments of our own functions override the environment
        if isinstance(protocol_factory, ProxyProtocolFactory) or not self._state.covers(listener):
            return await begin(protocol_factory, *args, **keywords)
        keywords = {"receiver": self._state.receiver, "tls_timeout": self._state.tls_timeout, **keywords}
        return await listen(begin, protocol_factory, *args, **keywords)

    async def start_tls(self, transport: Any, *args: Any, **keywords: Any) -> Any:
        return await LoopOfStreams(super()).start_tls(transport, *args, **keywords)

    async def sock_accept(self, sock: Any) -> tuple[socket.socket, Any]:
        """Return a connection whose header has arrived, and the client's address."""
        if not self._reads(sock):
            accepted: tuple[socket.socket, Any] = await super().sock_accept(sock)
            if sock in covered:
                covered.add(accepted[0])
            return accepted
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

        async def receive() -> None:
            begun = await receive_header(connection, peer, self._state.receiver)
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
            begun = await receive_header(sock, peer, self._state.receiver)
            if begun is None:
                address = describe_address(peer)
                raise ConnectionAbortedError(f"The connection from {address} did not begin with a header")
            overlay = ProxyProtocolTransport(begun, peer)
        if keywords.get("ssl") is not None:
            keywords = {"ssl_handshake_timeout": self._state.tls_timeout, **keywords}
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
            _log.warning(_UNREAD, listener)

    def _reads(self, sock: socket.socket) -> bool:
        return sock not in covered and self._state.covers(sock)


class _Beginning(asyncio.Protocol):
    """Begins the application on a connection after its header, which was read before, and after its TLS handshake."""

    def __init__(self, overlay: ProxyProtocolTransport, protocol: asyncio.BaseProtocol) -> None:
        self._overlay, self.protocol = overlay, protocol

    def connection_made(self, transport: Any) -> None:
        self._overlay.begin(transport, self.protocol)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an asyncio event loop whose listeners read a header at the start of every connection.

    Environment variables configure it. ``PROXYPROTOCOL_VERSION``, ``_TRUSTED``, ``_UNTRUSTED``, ``_POLICY``,
    ``_TIMEOUT``, ``_MAX_HEADER``, ``_IPV4_IN_TCP6`` and ``_TLS_TIMEOUT`` take the same values as the options of
    endpoint strings. ``PROXYPROTOCOL_PORTS`` names the listeners that read headers: port numbers, and ``unix`` for all
    UNIX sockets, with commas between them. Without it that is every listener from which the loop accepts, with
    ``create_server``, ``create_unix_server``, ``sock_accept`` or ``connect_accepted_socket``. Servers that the
    functions of this package open follow their own arguments.

    The loop logs a warning if every peer may send an optional header. It logs another if the application watches a
    listening socket with ``add_reader``: the application accepts there by itself, and the loop reads no header.

    Raises:
        SystemExit: A variable is wrong. A sentence on standard error names the variable and what it takes.
    """
    return _new_loop(asyncio.SelectorEventLoop)


def new_uvloop_event_loop() -> asyncio.AbstractEventLoop:
    """Make a uvloop event loop. Otherwise it is :func:`new_event_loop`.

    Raises:
        SystemExit: A variable is wrong, or uvloop is not installed.
    """
    try:
        import uvloop
    except ImportError as error:
        raise _exit(f"uvloop cannot be imported ({error}): install the extra proxyprotocol[uvloop]") from None
    return _new_loop(uvloop.Loop)


def _new_loop(base: type) -> asyncio.AbstractEventLoop:
    try:
        state = _State(os.environ)  # before there is a loop that would have to be closed
    except ValueError as error:
        raise _exit(str(error)) from None
    if (risk := describe_risk(state.receiver, _spell)) is not None:
        _log.warning("%s", risk)
    loop: Any = type("EventLoop", (_HeaderLoop, base), {})()
    loop._state = state
    return loop  # type: ignore[no-any-return]


def _exit(sentence: str) -> SystemExit:
    """Print why there can be no loop, and return the exception: no server catches it to show a traceback."""
    print(sentence, file=sys.stderr)
    stop = SystemExit(sentence)
    stop.code = _STARTUP_FAILURE  # otherwise Python would print the sentence again, and exit with status 1
    return stop
