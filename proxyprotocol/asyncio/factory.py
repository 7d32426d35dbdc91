"""The protocols that read the header, and the factory that makes them for a listening socket."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl as _ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from proxyprotocol._adapters.deadlines import Deadlines, LoopClock, check_seconds
from proxyprotocol._adapters.facts import extra_info
from proxyprotocol._adapters.listener import Listener, logging_to
from proxyprotocol._adapters.refusals import describe_late_handshake, describe_second_header
from proxyprotocol._wire import spec
from proxyprotocol.asyncio.tls import TLS
from proxyprotocol.asyncio.transport import ProxyProtocolTransport
from proxyprotocol.asyncio.typing import FactoryKeywords
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxyProtocolFactory", "ServerFactory", "wrap_protocol_factory"]

_log = logging.getLogger("proxyprotocol.asyncio")

# Bytes of each read until the header is complete; it may bring a whole request or ClientHello too. Where malloc() gives
# the 256 KiB of asyncio's own reads a memory map (musl's always, glibc's at first), that costs a fifth of a connection.
_FIRST_READ: Final = 16 * 1024
_OWN_KEYWORDS = FactoryKeywords.__optional_keys__ - ReceiverKeywords.__optional_keys__


class ProxyProtocolFactory:
    """A protocol factory that reads a header before it calls another one, for servers that you open yourself.

    Give it to ``loop.create_server`` without ``ssl``: a balancer sends its header before TLS, so this factory takes the
    context. When that server closes, call :meth:`close`. The log says at once what this factory reads and from whom. It
    says where at the first connection: this factory does not know your server.

    Args:
        protocol_factory: Makes the application's protocols. It is called after each accepted header.
        ssl: The context for TLS *after* the header.
        tls_timeout: Seconds that its handshake may take; None for no limit.
        ssl_handshake_timeout: asyncio's name for the same time-out. It overrides *tls_timeout*.
        ssl_shutdown_timeout: Seconds that the end of TLS may take; asyncio's 30 by default. Needs Python 3.11.
        receiver: The rules for the header, in place of the keywords of :class:`.Receiver`.
        keywords: ``pp``, ``policy``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver` takes them.

    Raises:
        TypeError: A keyword is unknown, *ssl* is not a context, there are a receiver and its keywords, or the factory
            reads a header already.
        ValueError: A keyword's value is out of range, or there is a TLS time-out without TLS.
    """

    _knows_server = False

    def __init__(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        ssl: _ssl.SSLContext | None = None,
        tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        receiver: Receiver | None = None,
        **keywords: Unpack[ReceiverKeywords],
    ) -> None:
        tls, tls_timeout = None, check_seconds("tls_timeout", tls_timeout)
        if ssl is not None:
            # this factory keeps the deadline, so asyncio gets none (None would be its default)
            tls = TLS(ssl, math.inf, ssl_shutdown_timeout)
            if ssl_handshake_timeout is not None:
                tls_timeout = check_seconds("ssl_handshake_timeout", ssl_handshake_timeout)
        elif ssl_handshake_timeout is not None or ssl_shutdown_timeout is not None:
            raise ValueError("ssl_handshake_timeout and ssl_shutdown_timeout mean nothing without ssl")
        if isinstance(protocol_factory, ProxyProtocolFactory):
            raise TypeError(describe_second_header("The factory"))
        self._protocol_factory = protocol_factory
        receiver = Receiver.of(receiver, keywords, sorted(_OWN_KEYWORDS))
        self._listener = Listener(receiver, logging_to(_log), LoopClock)
        self._receiver = receiver
        self._tls, self._tls_timeout = tls, tls_timeout
        self._headers: Deadlines[_Pending] = Deadlines(receiver.timeout, _Pending.header_late, LoopClock())
        self._handshakes: Deadlines[_Pending] = Deadlines(tls_timeout, _Pending.handshake_late, LoopClock())
        self._closed = False
        if not self._knows_server:
            self._listener.start()

    def __call__(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection."""
        return _Pending(self)

    def close(self) -> None:
        """Abort the connections without an application so far, and all that still come.

        Call this when your own server closes. From Python 3.12 its ``wait_closed()`` would otherwise wait for peers
        that never finish a header or a TLS handshake. Connections with an application stay open.
        """
        self._closed = True
        for connection in [*self._headers.close(), *self._handshakes.close()]:
            connection.abort()
        self._listener.stop()


#: The same class. This name says what it does: it wraps the application's protocol factory.
wrap_protocol_factory = ProxyProtocolFactory


class ServerFactory(ProxyProtocolFactory):
    """The factory of a server of this package, which tells it where it listens."""

    _knows_server = True

    def name(self, sockets: Iterable[Any]) -> None:
        """Name the sockets of the server, for the log and for counters; do it before the server listens."""
        self._listener.name(*(sock.getsockname() for sock in sockets))
        self._receiver = self._listener.receiver

    def start(self) -> None:
        """Log what the server reads and from whom, now that it listens."""
        self._listener.start()


class _Pending(asyncio.Protocol):
    """A connection before its application: it reads the header, then waits for the TLS handshake if there is one.

    It reads whatever comes and gives TLS the bytes after the header. We tried to read only the header, with a buffer of
    just the bytes needed: that takes three reads for version 2 and up to eight for version 1.
    """

    _connection: ReceiverConnection | None = None  # None before the policy has decided, and after the header
    _transport: asyncio.Transport
    _peer: SockAddr = None
    _overlay: ProxyProtocolTransport  # after the header
    _reads_less = False  # whether this object has set the transport's max_size

    def __init__(self, factory: ProxyProtocolFactory) -> None:
        self._factory = factory

    def connection_made(self, transport: Any) -> None:
        factory = self._factory
        receiver, self._transport = factory._receiver, transport
        if factory._closed:
            transport.abort()
            return
        # at once: uvloop asks the socket, which forgets its peer when the peer is gone
        self._peer = extra_info(transport, "peername")
        local = extra_info(transport, "sockname") if receiver.needs_addresses else None
        if factory._listener.asks:
            receiver = factory._listener.at(self._local())
        try:
            self._connection = connection = receiver.connection(self._peer, local)
        except BaseException as error:
            self._drop(error, None)
        else:
            if connection.begun:  # the policy or the codec expects no header
                self._advance(connection.eof)
            else:
                if hasattr(transport, "max_size"):  # asyncio's own selector loops
                    transport.max_size, self._reads_less = _FIRST_READ, True
                factory._headers.add(self)

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:  # None: the connection was refused
            self._advance(self._connection.feed, data)

    def eof_received(self) -> bool | None:
        if self._connection is None or not self._advance(self._connection.eof) or self._transport.is_closing():
            return None
        # The header was optional. An application that speaks first may still have something to say.
        protocol: Any = self._transport.get_protocol()
        keep_open: bool | None = protocol.eof_received()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            try:
                self._connection.eof()
            except ProxyProtocolError as error:
                self._refuse(error)
            self._connection = None
            self._factory._headers.discard(self)

    def header_late(self) -> None:
        connection: Any = self._connection  # never None here: only undecided connections have this deadline
        try:
            self._advance(connection.timed_out)
        except Exception as error:
            # The header was optional: the application began, and raised. A deadline must not raise.
            context = {"message": "The application raised an exception when its connection started", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def handshake_late(self) -> None:
        late = TimeoutError(describe_late_handshake(self._factory._tls_timeout))
        self._refuse_handshake(late)
        self._transport.abort()

    def abort(self) -> None:
        """Drop the connection and log nothing."""
        self._connection = None
        self._factory._headers.discard(self)
        self._factory._handshakes.discard(self)
        self._transport.abort()

    def _advance(self, step: Callable[..., bool], *data: bytes) -> bool:
        """Take data, or the end of it. Return whether the header is done, and TLS or the application began."""
        connection: Any = self._connection
        try:
            if not step(*data):
                return False
        except BaseException as error:
            self._drop(error, connection)
            return False
        factory, transport, self._connection = self._factory, self._transport, None
        if self._reads_less:
            del transport.max_size  # type: ignore[attr-defined]
        factory._headers.discard(self)
        if connection.trailing and connection.repeated:
            factory._listener.warn_of_second_header(self._peer, self._local())
        overlay = ProxyProtocolTransport(connection, self._peer)
        try:
            if factory._tls is None:
                overlay.begin(transport, factory._protocol_factory(), connection.trailing)
            else:
                self._overlay = overlay
                factory._tls.begin(transport, self._handshake_done, self._handshake_lost, data=connection.trailing)
                factory._handshakes.add(self)
        except BaseException:
            # The application raised; the loop logs it, but drops the connection only in a read of its own.
            transport.abort()
            raise
        return True

    def _drop(self, error: BaseException, connection: ReceiverConnection | None) -> None:
        """Refuse the connection for what its step raised."""
        try:
            self._factory._listener.refuse_raised(error, connection, self._peer, self._local())
        finally:
            self.abort()

    def _refuse(self, error: ProxyProtocolError) -> None:
        self._factory._listener.refuse(error, self._peer, self._local())

    def _local(self) -> SockAddr:
        """Return our address, for a listener without a name."""
        local: SockAddr = None if self._factory._knows_server else extra_info(self._transport, "sockname")
        return local

    def _handshake_done(self, transport: asyncio.Transport) -> None:
        self._factory._handshakes.discard(self)
        try:
            self._overlay.begin(transport, self._factory._protocol_factory())
        except BaseException:
            transport.abort()
            raise

    def _handshake_lost(self, error: BaseException | None) -> None:
        if self in self._factory._handshakes and error is not None:
            self._refuse_handshake(error)
        self._factory._handshakes.discard(self)

    def _refuse_handshake(self, error: BaseException) -> None:
        client = self._overlay.get_extra_info("peername")
        self._factory._listener.refuse_handshake(error, client, self._peer, self._local())
