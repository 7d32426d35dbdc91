"""Floor 6: a connection from accept until it is relayed: its header, TLS, the way to the destination."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol._adapters.refusals import describe_late_handshake, log_refusal
from proxyprotocol.dnsbl import Dnsbl
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.result import describe_address
from proxyprotocol.server._process.program import describe_error
from proxyprotocol.server._relay import metrics
from proxyprotocol.server._relay.ends import PlainStream, Stream
from proxyprotocol.server._relay.link import Link
from proxyprotocol.server._relay.names import Places
from proxyprotocol.server._relay.options import Destination, Listening
from proxyprotocol.server._relay.outgoing import Incoming
from proxyprotocol.server._relay.timers import Timed, Wheel
from proxyprotocol.server._relay.tls import TLSStream
from proxyprotocol.sock import SocketInfo
from proxyprotocol.typing import SockAddr

__all__: list[str] = []

_log = logging.getLogger("proxyprotocol.server")

_HEADER_READ: Final = 4096  # bytes; what of it is behind the header goes on with the outgoing one
_FIRST_READ: Final = 16384
_AGAIN: Final = 0.02  # seconds until a UNIX socket is tried again whose queue is full


class Context(Protocol):
    """What a connection needs of the relay."""

    loop: asyncio.AbstractEventLoop
    wheel: Wheel
    buffer: memoryview
    values: memoryview
    dnsbl: Dnsbl | None
    connect_timeout: float
    idle_timeout: float | None

    def forget(self, connection: Connection) -> None:
        """Take that a connection is over."""


class Connection(Timed):
    """One connection.

    Args:
        relay: What all connections share.
        source: The address that it has come to.
        destination: Where it goes.
        places: Where that is.
        sock: Its socket, non-blocking.
        peer: Who has connected.
    """

    __slots__ = (
        "_client",
        "_destination",
        "_dnsbl",
        "_first_byte",
        "_incoming",
        "_late",
        "_link",
        "_peer",
        "_places",
        "_received",
        "_relay",
        "_remaining",
        "_server",
        "_sock",
        "_source",
        "_task",
        "_to",
    )

    _incoming: Incoming
    _received: ReceiverConnection
    _late: Callable[[Connection], None]

    def __init__(
        self,
        relay: Context,
        source: Listening,
        destination: Destination,
        places: Places,
        sock: socket.socket,
        peer: SockAddr,
    ) -> None:
        super().__init__()
        self._relay = relay
        self._source, self._destination, self._places = source, destination, places
        self._sock, self._peer = sock, peer
        self._client: Stream = PlainStream(sock)
        self._server: socket.socket | None = None
        self._link: Link | None = None
        self._task: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self._dnsbl: str | None = None
        self._first_byte = 0

    def begin(self) -> None:
        """Begin, right after accept."""
        receiver = self._source.receiver
        try:
            local = self._sock.getsockname() if receiver.needs_addresses else None
            self._received = receiver.connection(self._peer, local)
        except ProxyProtocolError as error:
            self._refuse(error)
            return
        if self._received.begun:
            self._headed()
        else:
            self._wait(receiver.timeout, Connection._header_late)
            self._relay.loop.add_reader(self._sock.fileno(), self._read_header)

    def abort(self, reason: str) -> None:
        """End the connection, however far it is.

        Args:
            reason: Why.
        """
        if self._link is not None:
            self._link.abort(reason)
        else:
            _log.warning("Closed the connection from %s: %s", self._name(), reason)
            self._close()

    def expired(self) -> None:
        """Take that what is waited for now has not come in time."""
        self._late(self)

    # the header

    def _read_header(self) -> bool:
        """Read once; give whether more of the header is still wanted, and may be there."""
        try:
            data = self._sock.recv(_HEADER_READ)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""  # the peer is gone, in its own way
        try:
            if data:
                self._first_byte = self._first_byte or data[0]
                self._received.feed(data)
            else:
                self._received.eof()
        except ProxyProtocolError as error:
            self._refuse(error)
            return False
        if self._received.begun:
            self._stop(self._sock)
            self._headed()
        return not self._received.begun

    def _header_late(self) -> None:
        # where the process stood still, or something blocked the loop, the header may lie in the socket
        while self._read_header():
            pass
        if self._received.begun or self._sock.fileno() < 0:
            return
        try:
            self._received.timed_out()
        except ProxyProtocolError as error:
            self._refuse(error)
        else:
            self._stop(self._sock)
            self._headed()

    def _headed(self) -> None:
        """Go on behind the header: do TLS, where the client is to."""
        if self._received.result is not None:
            self._relay.values[metrics.header("received", self._first_byte)] += 1
        if self._source.tls is None:
            self._identified()
            return
        stream = TLSStream(self._sock, self._source.tls, server_side=True, data=self._received.trailing)
        self._client = stream
        self._wait(self._source.tls_timeout, Connection._handshake_late)
        self._shake(stream, self._identified, self._refuse_tls)

    # TLS, on either end

    def _shake(self, stream: TLSStream, done: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Take the next step of a handshake, and come back for the others."""
        loop = self._relay.loop
        try:
            finished = stream.handshake()
        except OSError as error:  # SSLError is one
            self._stop(stream.sock)
            failed(describe_error(error))
            return
        if finished:
            self._stop(stream.sock)
            done()
            return
        loop.add_reader(stream.fd, self._shake, stream, done, failed)
        if stream.unsent:
            loop.add_writer(stream.fd, self._shake, stream, done, failed)
        else:
            loop.remove_writer(stream.fd)

    def _handshake_late(self) -> None:
        self._refuse_tls(describe_late_handshake(self._source.tls_timeout))

    def _refuse_tls(self, reason: str) -> None:
        self._relay.values[metrics.refusal("tls")] += 1
        _log.warning("Refused a connection from %s: the TLS handshake failed: %s", self._name(), reason)
        self._close()

    # the way to the destination

    def _identified(self) -> None:
        """Find out what there is to find out about the client and the destination."""
        relay = self._relay
        tls = self._client.tls if isinstance(self._client, TLSStream) else None
        authority = None if tls is None else self._source.names.get(tls)
        self._incoming = Incoming(self._client, self._peer, self._received, authority)
        known = self._places.known(relay.loop.time())
        if relay.dnsbl is None and known is not None:
            self._connect(known)
        else:
            # each of the two has its own time-out
            self._relay.wheel.discard(self)
            self._task = relay.loop.create_task(self._ask())

    async def _ask(self) -> None:
        relay = self._relay
        if relay.dnsbl is not None:
            try:
                self._dnsbl = await relay.dnsbl.lookup(SocketInfo.get(self._incoming, self._received.believed))
            except Exception as error:  # whatever somebody's own class raises: the client is not to wait for ever
                _log.error("%s counts as not listed: its block list failed: %s", self._name(), repr(error))
        try:
            found = await self._places.find(relay.connect_timeout)
        except OSError as error:
            self._task = None
            self._fail(describe_error(error))
        else:
            self._task = None
            self._connect(found)

    def _connect(self, places: list[tuple[int, Any]]) -> None:
        self._remaining = iter(places)
        self._to: Any = None
        self._try_next("it has no address")

    def _try_next(self, problem: str) -> None:
        """Try the next place; *problem* is what was wrong with the one before."""
        self._drop_server()
        while True:
            place = next(self._remaining, None)
            if place is None:
                self._fail(problem)
                return
            self._to = place
            self._wait(self._relay.connect_timeout, Connection._connect_late)
            tried = self._try()
            if tried is None:
                return
            problem = tried

    def _try(self) -> str | None:
        """Begin to connect; give what is wrong, if that is known at once."""
        family, address = self._to
        try:
            self._server = server = socket.socket(family, socket.SOCK_STREAM)
            server.setblocking(False)
            if family != AF_UNIX:
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            error = server.connect_ex(address)
        except OSError as failure:
            self._drop_server()
            return describe_error(failure)
        if error == 0:
            self._connected()
        elif error == errno.EINPROGRESS:
            self._relay.loop.add_writer(server.fileno(), self._connected)
        elif error == errno.EAGAIN:  # of a UNIX socket, which does not tell when its queue has room
            self._drop_server()
            self._task = self._relay.loop.call_later(_AGAIN, self._try_again)
        else:
            self._drop_server()
            return os.strerror(error)
        return None

    def _try_again(self) -> None:
        self._task = None
        problem = self._try()
        if problem is not None:
            self._try_next(problem)

    def _connect_late(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._try_next(f"it did not answer within {self._relay.connect_timeout:g} seconds")

    def _connected(self) -> None:
        server = self._server
        assert server is not None
        self._relay.loop.remove_writer(server.fileno())
        error = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._try_next(os.strerror(error))
            return
        outgoing, tls = self._destination.outgoing, self._destination.tls
        try:
            header = outgoing.header(self._incoming, self._dnsbl, server.getsockname(), self._to[1])
        except ValueError as problem:
            self._fail(f"no header can be written: {problem}")
            return
        if header:
            self._relay.values[metrics.header("sent", header[0])] += 1
        if tls is None:
            self._begin(PlainStream(server), header)
            return
        stream = TLSStream(server, tls, server_side=False, server_hostname=self._destination.server_name, first=header)
        self._shake(
            stream,
            lambda: self._begin(stream, b""),
            lambda reason: self._try_next(f"the TLS handshake failed: {reason}"),
        )

    def _begin(self, server: Stream, header: bytes) -> None:
        """Begin to relay: the header leaves with what the client has sent by now, in one piece, and at once."""
        relay = self._relay
        relay.wheel.discard(self)
        first = self._received.trailing if isinstance(self._client, PlainStream) else b""
        try:
            size = self._client.recv_into(relay.buffer[:_FIRST_READ])
        except (BlockingIOError, InterruptedError):
            size = 0
        except OSError as error:
            # before its first byte, as health checks go
            level = logging.WARNING if first else logging.DEBUG
            _log.log(
                level, "Closed the connection from %s: the client is gone: %s", self._name(), describe_error(error)
            )
            self._close()
            return
        first += relay.buffer[:size]
        link = Link(relay.loop, relay.wheel, relay.buffer, relay.values, relay.idle_timeout, self._ended)
        self._link = link
        if _log.isEnabledFor(logging.INFO):
            _log.info("Opened %s to %s", self._name(), self._destination.address.name)
        link.begin(self._client, server, header, first)

    # the end

    def _refuse(self, error: ProxyProtocolError) -> None:
        self._relay.values[metrics.refusal_of(error)] += 1
        log_refusal(_log, error, self._peer)
        self._close()

    def _fail(self, problem: str) -> None:
        """Close the client's connection, because the destination cannot be had."""
        self._relay.values[metrics.refusal("destination")] += 1
        to = self._destination.address.name
        _log.warning("Closed the connection from %s: cannot connect to %s: %s", self._name(), to, problem)
        self._close()

    def _ended(self, reason: str | None) -> None:
        if _log.isEnabledFor(logging.INFO):
            _log.info(
                "Closed %s to %s: %s", self._name(), self._destination.address.name, reason or "both have said all"
            )
        self._link = None  # which holds this, to call it
        self._relay.forget(self)

    def _close(self) -> None:
        """Close what was never relayed."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._relay.wheel.discard(self)
        self._drop_server()
        self._stop(self._sock)
        self._sock.close()
        self._relay.forget(self)

    def _drop_server(self) -> None:
        if self._server is not None:
            self._stop(self._server)
            self._server.close()
            self._server = None

    def _stop(self, sock: socket.socket) -> None:
        number = sock.fileno()
        self._relay.loop.remove_reader(number)
        self._relay.loop.remove_writer(number)

    def _wait(self, seconds: float | None, late: Callable[[Connection], None]) -> None:
        # not a method of this connection: it would hold itself until the next garbage collection
        self._late = late
        self._relay.wheel.set(self, seconds)

    def _name(self) -> str:
        """Name the client: who the header says it is, and by whose word."""
        addresses = self._received.addresses
        if addresses is None:
            return describe_address(self._peer)
        return f"{describe_address(addresses.peername)} (relayed by {describe_address(self._peer)})"
