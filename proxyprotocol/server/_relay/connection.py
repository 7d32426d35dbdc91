"""A connection from accept until it is relayed: its header, its TLS, and the connection to the destination."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from proxyprotocol._adapters.deadlines import Deadlines
from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol._adapters.listener import Listener, address_fields
from proxyprotocol._adapters.refusals import describe_late_handshake
from proxyprotocol.errors import ProxyProtocolError, RefusalCode
from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.result import describe_address
from proxyprotocol.server._process.program import describe_error
from proxyprotocol.server._relay import metrics
from proxyprotocol.server._relay.deadlines import Timed
from proxyprotocol.server._relay.ends import Stream
from proxyprotocol.server._relay.link import Context, Link
from proxyprotocol.server._relay.options import Destination, Listening, NamedTLS
from proxyprotocol.server._relay.outgoing import Incoming
from proxyprotocol.server._relay.places import Places
from proxyprotocol.server._relay.tls import TLSStream
from proxyprotocol.server._relay.transparent import PORT_ERRORS, Origin, bind_to, find_origin
from proxyprotocol.sock import SocketInfo
from proxyprotocol.typing import SockAddr

_log = logging.getLogger("proxyprotocol.server")

# Bytes. The relay sends what it reads beyond the header together with the outgoing header.
_HEADER_READ: Final = 4096
_FIRST_READ: Final = 16384
_AGAIN: Final = 0.02  # seconds between two attempts at a UNIX socket with a full queue


@dataclass(frozen=True, eq=False)
class Route:
    """What all connections of one listening socket share."""

    source: Listening
    destination: Destination
    places: Places
    listener: Listener
    values: memoryview  # the counters of the service


class Connection(Timed):
    """One connection, with the non-blocking socket of the client. It begins when it is made, right after accept."""

    _incoming: Incoming
    _received: ReceiverConnection
    # A function, not a bound method: the connection would refer to itself until the next garbage collection.
    _late: Callable[[Connection], None]
    _remaining: Iterator[tuple[int, Any]]

    def __init__(self, relay: Context, route: Route, sock: socket.socket, peer: SockAddr) -> None:
        self.queue: Deadlines[Timed] | None = None
        self._relay: Context = relay
        self.route: Route = route
        self._sock, self._peer = sock, peer
        self._client = Stream(sock)
        self._server: socket.socket | None = None
        self._link: Link | None = None
        self._task: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self._to: tuple[int, Any] = (0, None)  # the family and the address of the server
        self._origin: Origin | None = None  # where to connect from; None for this machine
        self._dnsbl: str | None = None
        self._header = b""  # as it came in
        relay.connections.add(self)
        route.values[metrics.OPEN] += 1
        receiver = route.listener.receiver
        try:
            local = sock.getsockname() if receiver.needs_addresses else None
            self._received = receiver.connection(peer, local)
        except ProxyProtocolError as error:
            self._refuse(error)
            return
        if self._received.begun:
            self._after_header()
        else:
            self._late = Connection._header_late
            self.wait(relay.queues[receiver.timeout])
            relay.loop.add_reader(self._client.fd, self._read_header)

    def abort(self, reason: str) -> None:
        """End the connection in whatever state it is."""
        if self._link is not None:
            self._link.abort(reason)
        else:
            self._tell(RefusalCode.CLOSED.value, reason)
            self._close()

    def expired(self) -> None:
        """Handle that the present step took too long."""
        self._late(self)

    # the header

    def _read_header(self) -> bool:
        """Read once, and return whether to read again: the header is not complete, and there may be more bytes."""
        try:
            data = self._sock.recv(_HEADER_READ)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""  # a reset before the header counts as an end
        received = self._received
        try:
            if data:
                self._header += data
                received.feed(data)
            else:
                received.eof()
        except ProxyProtocolError as error:
            self._refuse(error)
            return False
        if received.begun:
            self._after_header()
        return not received.begun

    def _header_late(self) -> None:
        # If the process or the loop was held up, the header may be in the socket already.
        while self._read_header():
            pass
        if not self._received.begun and self._sock.fileno() >= 0:
            try:
                self._received.timed_out()
            except ProxyProtocolError as error:
                self._refuse(error)
            else:
                self._after_header()

    def _after_header(self) -> None:
        """Go on after the header: begin TLS, if the source has it."""
        relay, received, tls = self._relay, self._received, self.route.source.tls
        relay.loop.remove_reader(self._client.fd)
        self._header = self._header[: len(self._header) - len(received.trailing)]
        if received.trailing and received.repeated:
            self.route.listener.warn_of_second_header(self._peer)
        if tls is None:
            self._find_destination()
            return
        self._client = stream = TLSStream(self._sock, tls, server_side=True, data=received.trailing)
        self._late = Connection._handshake_late
        self.wait(relay.queues[self.route.source.tls_timeout])
        self._step_handshake(stream, self._find_destination, self._refuse_tls)

    # TLS, on either end

    def _step_handshake(self, stream: TLSStream, done: Callable[[], None], failed: Callable[[OSError], None]) -> None:
        """Take the next step of a handshake, and come back for the next one."""
        loop = self._relay.loop
        try:
            finished = stream.handshake()
        except OSError as error:  # including SSLError
            self._stop(stream.sock)
            failed(error)
            return
        if finished:
            self._stop(stream.sock)
            done()
            return
        loop.add_reader(stream.fd, self._step_handshake, stream, done, failed)
        if stream.unsent:
            loop.add_writer(stream.fd, self._step_handshake, stream, done, failed)
        else:
            loop.remove_writer(stream.fd)

    def _handshake_late(self) -> None:
        self._refuse_tls(TimeoutError(describe_late_handshake(self.route.source.tls_timeout)))

    def _refuse_tls(self, error: OSError) -> None:
        self.route.listener.refuse_handshake(error, self._client_address, self._peer)
        self._close()

    # the way to the destination

    def _find_destination(self) -> None:
        """Look up the client in the block list and the destination's name, as far as needed, and connect."""
        relay, places, sock = self._relay, self.route.places, self._sock
        tls = self._client.tls if isinstance(self._client, TLSStream) else None
        self._incoming = Incoming(socket=sock, peername=self._peer, sockname=sock.getsockname(), ssl_object=tls)
        if self.route.destination.transparent:
            try:
                self._origin = find_origin(self._client_address)
            except ValueError as problem:
                self._fail(str(problem))
                return
        if relay.dnsbl is None and relay.loop.time() < places.fresh_until:
            self._remaining = iter(places.found)
            self._try_next("it has no address")
        else:
            self.wait(None)  # both look-ups have time-outs of their own
            self._task = relay.loop.create_task(self._look_up())

    async def _look_up(self) -> None:
        relay = self._relay
        if relay.dnsbl is not None:
            try:
                self._dnsbl = await relay.dnsbl.lookup(SocketInfo.get(self._incoming, self._received.believed))
            except Exception as error:  # from a user's own class: the client must not wait for ever
                # repr(): log handlers that keep records must not keep the traceback, which refers to this connection
                _log.error("The block list failed: %s counts as not listed: %s", self._name(), repr(error))
        try:
            self._remaining = iter(await self.route.places.find(relay.connect_timeout))
        except OSError as error:
            self._task = None
            self._fail(describe_error(error))
        else:
            self._task = None
            self._try_next("it has no address")

    def _try_next(self, problem: str, again: tuple[tuple[int, Any], ...] = ()) -> None:
        """Connect to the next place; *problem* says what was wrong with the last one."""
        self._drop_task()
        self._drop_server()
        relay = self._relay
        for place in chain(again, self._remaining):
            if place is not self._to:
                self._to, self._late = place, Connection._connect_late
                self.wait(relay.queues[relay.connect_timeout])
            family, address = place
            if self._origin is not None and family != self._origin.family:
                problem = f"{describe_address(address)} is of another family than {self._origin.host}, the client"
                continue
            error, problem = self._connect(family, address)
            if error == 0:
                self._connected()
                return
            if error == errno.EINPROGRESS:
                assert self._server is not None
                relay.loop.add_writer(self._server.fileno(), self._connected)
                return
            self._drop_server()
            if error == errno.EAGAIN:  # a UNIX socket has a full queue, and nothing tells when it has room
                self._task = relay.loop.call_later(_AGAIN, self._try_next, problem, (place,))
                return
        self._fail(problem)

    def _connect(self, family: int, address: Any) -> tuple[int, str]:
        """Begin to connect, and return the number and the text of the error; 0 is none."""
        origin, error, problem = self._origin, 0, ""
        for port in (0,) if origin is None else (origin.port, 0):
            if origin is not None and (origin.host, port) == address[:2]:
                continue  # TCP would connect the socket to itself if the server is down
            self._drop_server()
            try:
                self._server = server = socket.socket(family, socket.SOCK_STREAM)
                server.setblocking(False)
                if family != AF_UNIX:
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if origin is not None:
                    bind_to(server, origin, port)
                error = server.connect_ex(address)
                problem = os.strerror(error)
            except OSError as failure:
                error, problem = failure.errno or errno.EIO, describe_error(failure)
            if error not in PORT_ERRORS:
                break
        return error, problem

    def _connect_late(self) -> None:
        hint = "" if self._origin is None else f"; are its answers to {self._origin.host} routed to this machine?"
        self._try_next(f"it did not answer within {self._relay.connect_timeout:g} seconds{hint}")

    def _connected(self) -> None:
        server, destination, received = self._server, self.route.destination, self._received
        assert server is not None
        self._relay.loop.remove_writer(server.fileno())
        error = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._try_next(os.strerror(error))
            return
        tls = self._incoming["ssl_object"]
        authority = tls.name if isinstance(tls, NamedTLS) else None
        try:
            header = destination.outgoing.header(
                self._incoming, received.believed, self._header, self._dnsbl, authority, server, self._to[1]
            )
        except ValueError as problem:
            self._fail(f"the header cannot be written: {problem}")
            return
        if header:
            self.route.values[metrics.HEADERS_SENT[header[0]]] += 1
        if destination.tls is None:
            self._begin(Stream(server), header)
            return
        name = destination.server_name
        stream = TLSStream(server, destination.tls, server_side=False, server_hostname=name, first=header)
        self._step_handshake(
            stream,
            lambda: self._begin(stream, b""),
            lambda error: self._try_next(f"the TLS handshake failed: {describe_error(error)}"),
        )

    def _begin(self, server: Stream, header: bytes) -> None:
        """Begin to relay: send the header at once, in one piece with what the client has sent by now."""
        relay = self._relay
        self.wait(None)
        first = self._received.trailing if self.route.source.tls is None else b""
        try:
            size = self._client.recv_into(relay.buffer[:_FIRST_READ])
        except (BlockingIOError, InterruptedError):
            size = 0
        except OSError as error:
            # health checks go away before their first byte
            level = logging.WARNING if first else logging.DEBUG
            self._tell("lost", f"the client is gone: {describe_error(error)}", level)
            self._close()
            return
        first += relay.buffer[:size]
        self._link = link = Link(relay, self.route.values, self._client, server, self._link_ended)
        if _log.isEnabledFor(logging.INFO):
            _log.info("Opened %s to %s", self._name(), self.route.destination.address.name)
        link.begin(header, first)

    # the end

    def _refuse(self, error: ProxyProtocolError) -> None:
        self.route.listener.refuse(error, self._peer)
        self._close()

    def _fail(self, problem: str) -> None:
        """Close the client's connection, because the destination cannot be reached."""
        self.route.values[metrics.REFUSALS[RefusalCode.DESTINATION]] += 1
        to = self.route.destination.address.name
        self._tell(RefusalCode.DESTINATION.value, f"cannot connect to {to}: {problem}")
        self._close()

    def _link_ended(self, reason: str | None) -> None:
        if _log.isEnabledFor(logging.INFO):
            reason = reason or "both ends have sent everything"
            _log.info("Closed %s to %s: %s", self._name(), self.route.destination.address.name, reason)
        self._link = None  # the link refers to this connection
        self._relay.forget(self)

    def _close(self) -> None:
        """Close a connection that was never relayed."""
        self._drop_task()
        self.wait(None)
        self._drop_server()
        self._stop(self._sock)
        self._sock.close()
        self._relay.forget(self)

    def _drop_task(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _drop_server(self) -> None:
        if self._server is not None:
            self._stop(self._server)
            self._server.close()
            self._server = None

    def _stop(self, sock: socket.socket) -> None:
        number = sock.fileno()
        self._relay.loop.remove_reader(number)
        self._relay.loop.remove_writer(number)

    def _tell(self, word: str, reason: str, level: int = logging.WARNING) -> None:
        """Log why a connection was closed that was never relayed."""
        text = f"Closed the connection from {self._name()}: {reason}"
        self.route.listener.tell(level, word, text, self._peer, **address_fields("client", self._client_address))

    def _name(self) -> str:
        """Name the client as the header does, and the proxy that sent the header."""
        if self._received.effective is None:
            return describe_address(self._peer)
        return f"{describe_address(self._client_address)} (relayed by {describe_address(self._peer)})"

    @property
    def _client_address(self) -> SockAddr:
        effective = self._received.effective
        return self._peer if effective is None else effective.peername
