"""Floor 5: event loops whose listeners read headers, for servers that cannot be told to, such as uvicorn's command.

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
from proxyprotocol.asyncio.factory import ProxyProtocolFactory, Told
from proxyprotocol.asyncio.server import listen
from proxyprotocol.asyncio.sockets import accept, covered
from proxyprotocol.asyncio.streams import start_tls
from proxyprotocol.asyncio.transport import ProxyProtocolTransport
from proxyprotocol.options import OPTIONS, describe_risk, parse_receiver, parse_tls_timeout
from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr

__all__ = ["new_event_loop", "new_uvloop_event_loop"]

# The status by which gunicorn's and uvicorn's workers tell that the next one would fail likewise. With another they are
# started again and again.
_STARTUP_FAILURE = 3

_UNREAD = (
    "No PROXY protocol header is read on %s: the application accepts the connections past the event loop, by "
    "add_reader(). Use proxyprotocol.integrations.tornado.add_sockets for tornado, proxyprotocol.integrations.anyio."
    "ProxyProtocolListener for anyio and loop.sock_accept() for sockets of your own, or name the ports of all other "
    "listeners in PROXYPROTOCOL_PORTS"
)

_log = logging.getLogger("proxyprotocol.asyncio")

_PREFIX = "PROXYPROTOCOL_"
_UNIX = "unix"
# as the text of a listener's own number is: 080 would be none
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def _spell(option: str) -> str:
    """Give the name of an option in the environment: ``max_header`` is ``PROXYPROTOCOL_MAX_HEADER``."""
    return _PREFIX + option.upper()


_PORTS = _spell("ports")
_VARIABLES = {_spell(option): option for option in OPTIONS}


class _Configuration:
    """What the environment says.

    Args:
        environment: The variables.

    Raises:
        ValueError: A value is wrong, or a variable that begins as ours is none of them.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        given = {name: value for name, value in environment.items() if name.startswith(_PREFIX)}
        ports = given.pop(_PORTS, None)
        # with a slip in the name of _TRUSTED everybody would be trusted
        unknown = ", ".join(sorted(given.keys() - _VARIABLES.keys()))
        if unknown:
            raise ValueError(f"{unknown}: there is no such variable, but {', '.join([*_VARIABLES, _PORTS])}")
        options = {_VARIABLES[name]: value for name, value in given.items()}
        self.receiver = parse_receiver(options, _spell)
        self.tls_timeout = parse_tls_timeout(options, _spell)
        self._ports = None if ports is None else frozenset(map(_parse_port, ports.split(",")))

    def covers(self, port: str) -> bool:
        """Tell whether the connections of a listener begin with a header.

        Args:
            port: Its port, or ``unix``.
        """
        return self._ports is None or port in self._ports


def _parse_port(text: str) -> str:
    text = text.strip()
    if text != _UNIX and not (_PORT.fullmatch(text) and int(text) <= spec.MAX_PORT):
        raise ValueError(f"{_PORTS} takes port numbers and unix, with commas between them, not {text!r}")
    return text


if TYPE_CHECKING:
    _AnyLoop = asyncio.SelectorEventLoop
else:
    _AnyLoop = object


class _Accepted:
    """What a loop knows of the sockets that an application accepts from by itself."""

    def __init__(self) -> None:
        #: The connections of each that have begun with a header, or why there are none.
        self.ready: MutableMapping[socket.socket, asyncio.Queue[socket.socket | OSError]] = WeakKeyDictionary()
        #: What the header of a connection has said.
        self.told: MutableMapping[socket.socket, Told] = WeakKeyDictionary()
        #: The connections in their header.
        self.headers: set[asyncio.Task[None]] = set()
        #: The listeners that were warned of.
        self.warned: set[str] = set()


class _Listeners(_AnyLoop):
    """What stands in front of a class of loops: it reads headers on every listener that is opened."""

    _configuration: _Configuration
    _accepted: _Accepted

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **keywords: Any) -> Any:
        sock = keywords.get("sock")
        name = _name(port) if sock is None else _name_of_socket(sock)
        return await self._listen(super().create_server, protocol_factory, name, host, port, **keywords)

    async def create_unix_server(self, protocol_factory: Any, path: Any = None, **keywords: Any) -> Any:
        return await self._listen(super().create_unix_server, protocol_factory, _UNIX, path, **keywords)

    async def start_tls(self, transport: Any, *args: Any, **keywords: Any) -> Any:
        return await start_tls(super().start_tls, transport, *args, **keywords)

    async def sock_accept(self, sock: Any) -> tuple[socket.socket, Any]:
        """Give a connection that has begun with a header, and the client's address.

        Others are accepted meanwhile: whoever is slow with a header must not keep the rest waiting.
        """
        if sock in covered:
            accepted: tuple[socket.socket, Any] = await super().sock_accept(sock)
            covered.add(accepted[0])
            return accepted
        if not self._reads(sock):
            return await super().sock_accept(sock)
        ready, number = self._accepted.ready.setdefault(sock, asyncio.Queue()), sock.fileno()
        super().add_reader(sock, self._accept, sock, ready)
        try:
            connection = await ready.get()
        finally:
            self.remove_reader(number)
        if isinstance(connection, OSError):
            raise connection
        _, addresses, peer = self._accepted.told[connection]
        return connection, peer if addresses is None else addresses.peername

    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **keywords: Any) -> Any:
        """Begin an application on a connection, whose header is read first where that has not been done.

        Raises:
            ConnectionAbortedError: The header was refused, or the connection was lost. It is closed.
        """
        told = self._accepted.told.pop(sock, None)
        if told is None and self._reads(sock) and not isinstance(protocol_factory, ProxyProtocolFactory):
            peer = sock.getpeername()
            told = await accept(sock, peer, self._configuration.receiver, lambda connection: _tell(connection, peer))
            if told is None:
                raise ConnectionAbortedError(f"The connection from {describe_address(peer)} has begun with no header")
        if told is None:
            return await super().connect_accepted_socket(protocol_factory, sock, **keywords)
        begun = _Begun(protocol_factory(), told)
        await super().connect_accepted_socket(lambda: begun, sock, **keywords)
        return begun.transport, begun.protocol

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        """Watch a file descriptor, and warn of a listening socket: its connections are accepted past this loop."""
        super().add_reader(fd, callback, *args)
        number = fd if isinstance(fd, int) else fd.fileno()
        try:
            sock = socket.socket(fileno=number)
        except OSError:
            return  # a pipe, or something else
        try:
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if not listening or any(number == other.fileno() for other in covered) or not self._reads(sock):
                return
            listener = describe_address(sock.getsockname())
        finally:
            sock.detach()
        if listener not in self._accepted.warned:
            self._accepted.warned.add(listener)
            _log.warning(_UNREAD, listener)

    def _reads(self, sock: socket.socket) -> bool:
        return sock not in covered and self._configuration.covers(_name_of_socket(sock))

    def _accept(self, sock: socket.socket, ready: asyncio.Queue[socket.socket | OSError]) -> None:
        try:
            connection, peer = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            ready.put_nowait(error)
            return

        async def receive() -> None:
            told = await accept(connection, peer, self._configuration.receiver, lambda header: _tell(header, peer))
            if told is None:
                return
            if sock.fileno() < 0:  # nobody comes for it any more
                connection.close()
                return
            self._accepted.told[connection] = told
            ready.put_nowait(connection)

        task = self.create_task(receive())
        self._accepted.headers.add(task)
        task.add_done_callback(self._accepted.headers.discard)

    async def _listen(self, begin: Any, protocol_factory: Any, name: str, *args: Any, **keywords: Any) -> Any:
        configuration = self._configuration
        # whoever listens with our own functions has said more than the environment does
        if isinstance(protocol_factory, ProxyProtocolFactory) or not configuration.covers(name):
            return await begin(protocol_factory, *args, **keywords)
        keywords = {"receiver": configuration.receiver, "tls_timeout": configuration.tls_timeout, **keywords}
        return await listen(begin, protocol_factory, *args, **keywords)


class _Begun(asyncio.Protocol):
    """Begins an application on a connection whose header has been read, when its TLS has begun if there is any."""

    transport: ProxyProtocolTransport

    def __init__(self, protocol: asyncio.BaseProtocol, told: Told) -> None:
        self.protocol, self._told = protocol, told

    def connection_made(self, transport: Any) -> None:
        self.transport = ProxyProtocolTransport(transport, *self._told)
        self.transport.begin(self.protocol)


def _tell(connection: ReceiverConnection, peer: SockAddr) -> Told:
    return connection.result, connection.addresses, peer


class _EventLoop(_Listeners, asyncio.SelectorEventLoop):
    """asyncio's own loop."""


def _name(port: Any) -> str:
    """Name a port as the variable does, where it was given as a loop takes it: a number, a text, or None."""
    return str(port or 0)


def _name_of_socket(sock: socket.socket) -> str:
    # by its address, not by its family: uvicorn takes what --fd gives it for a UNIX socket, whatever it is
    name = sock.getsockname()
    return _UNIX if isinstance(name, (str, bytes)) else str(name[1])


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make one of asyncio's event loops, whose listeners read a header at the front of every connection.

    Which, and how, is said by environment variables. They take what the options of endpoint strings take:
    ``PROXYPROTOCOL_VERSION``, ``_TRUSTED``, ``_UNTRUSTED``, ``_POLICY``, ``_TIMEOUT``, ``_MAX_HEADER`` and
    ``_IPV4_IN_TCP6`` and ``_TLS_TIMEOUT``; and ``PROXYPROTOCOL_PORTS`` takes the ports whose connections begin with a
    header, with commas between them, and ``unix`` for all UNIX sockets. Without it all listeners are meant that the
    loop accepts from: by ``create_server``, ``create_unix_server``, ``sock_accept`` or ``connect_accepted_socket``.
    Those that are opened with the functions of this package go by their own arguments. The log warns of an optional
    header from anybody, and of a listening socket that the loop only watches, by ``add_reader``: the application
    accepts there by itself, and no header is read.

    Raises:
        SystemExit: A variable is wrong. It ends the program with a sentence that names the variable and what it takes.
    """
    return _configure(_EventLoop)


def new_uvloop_event_loop() -> asyncio.AbstractEventLoop:
    """Make one of uvloop's event loops, for the rest as :func:`new_event_loop`.

    Raises:
        SystemExit: A variable is wrong, or there is no uvloop.
    """
    try:
        import uvloop
    except ImportError as error:
        raise _stop(f"There is no uvloop here ({error}): the extra proxyprotocol[uvloop] installs it") from None

    class UvloopEventLoop(_Listeners, uvloop.Loop):  # type: ignore[misc]
        """uvloop's own loop."""

    return _configure(UvloopEventLoop)


def _configure(kind: type[_Listeners]) -> asyncio.AbstractEventLoop:
    # An exit, and not the ValueError: who runs a server by its command wants the sentence, and no server catches it on
    # its way to show a traceback. Before the loop is made, which would have to be closed.
    try:
        configuration = _Configuration(os.environ)
    except ValueError as error:
        raise _stop(str(error)) from None
    risk = describe_risk(configuration.receiver, _spell)
    if risk is not None:
        _log.warning("%s", risk)
    loop = kind()
    loop._configuration = configuration
    loop._accepted = _Accepted()
    return loop


def _stop(sentence: str) -> SystemExit:
    """Say why there can be no loop, and make the exit."""
    print(sentence, file=sys.stderr)
    stop = SystemExit(sentence)
    # Left alone it is the sentence, to be printed, and the status 1.
    stop.code = _STARTUP_FAILURE
    return stop
