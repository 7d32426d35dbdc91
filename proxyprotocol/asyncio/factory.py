"""The protocols that read the header, and the factory that makes them for a listening socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from proxyprotocol._adapters.deadlines import Deadlines, LoopClock
from proxyprotocol._adapters.facts import extra_info
from proxyprotocol._adapters.refusals import (
    describe_late_handshake,
    describe_second_header,
    log_no_handshake,
    log_refusal,
)
from proxyprotocol.asyncio.tls import TLS
from proxyprotocol.asyncio.transport import Origin, ProxyProtocolTransport
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection
from proxyprotocol.typing import SockAddr

__all__ = ["ProxyProtocolFactory"]

_log = logging.getLogger("proxyprotocol.asyncio")


class ProxyProtocolFactory:
    """Makes protocols that read a header and then give the connection to the application.

    It is the *protocol_factory* of a listening socket without ``ssl``. :func:`.wrap_protocol_factory` makes it.

    Args:
        protocol_factory: Makes the application's protocols. It is called after each accepted header.
        receiver: The rules for the header.
        tls: The settings for TLS after the header; None without TLS.
        tls_timeout: Seconds that a TLS handshake may take.
    """

    def __init__(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        receiver: Receiver,
        tls: TLS | None,
        tls_timeout: float,
    ) -> None:
        if isinstance(protocol_factory, ProxyProtocolFactory):
            raise TypeError(describe_second_header("The factory"))
        self._protocol_factory = protocol_factory
        self._receiver = receiver
        self._tls = tls
        self._tls_timeout = tls_timeout
        self._headers: Deadlines[_Pending] = Deadlines(receiver.timeout, _Pending.header_late, LoopClock())
        self._handshakes: Deadlines[_Pending] = Deadlines(tls_timeout, _Pending.handshake_late, LoopClock())
        self._closed = False

    def __call__(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection."""
        return _Pending(self)

    def close(self) -> None:
        """Abort the connections whose application has not begun, and all that still come.

        Call this when your own server closes. From Python 3.12 its ``wait_closed()`` would otherwise wait for peers
        that never finish a header or a TLS handshake. Connections whose application has begun stay open.
        """
        self._closed = True
        for connection in [*self._headers.close(), *self._handshakes.close()]:
            connection.abort()


class _Pending(asyncio.Protocol):
    """A connection before its application: it reads the header, then waits for the TLS handshake if there is one.

    It reads whatever comes and gives TLS the bytes after the header. We tried to read only the header, with a buffer of
    just the bytes needed: that takes three reads for version 2 and up to eight for version 1.
    """

    _connection: ReceiverConnection | None = None  # None before the policy has decided, and after the header
    _transport: asyncio.Transport
    _peer: SockAddr = None
    _origin: Origin  # during the TLS handshake

    def __init__(self, factory: ProxyProtocolFactory) -> None:
        self._factory = factory

    def connection_made(self, transport: Any) -> None:
        factory = self._factory
        self._transport = transport
        if factory._closed:
            transport.abort()
            return
        # at once: uvloop asks the socket, which forgets its peer when the peer is gone
        self._peer = extra_info(transport, "peername")
        local = extra_info(transport, "sockname") if factory._receiver.needs_addresses else None
        try:
            connection = factory._receiver.connection(self._peer, local)
        except ProxyProtocolError as error:
            self._refuse(error)
        except BaseException:  # the policy function raised; the loop logs it
            transport.abort()
            raise
        else:
            if connection.begun:
                self._begin(connection)
            else:
                self._connection = connection
                factory._headers.add(self)

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        if connection is None:
            return  # refused already
        try:
            begun = connection.feed(data)
        except ProxyProtocolError as error:
            self._refuse(error)
        else:
            if begun:
                self._begin(connection)

    def eof_received(self) -> bool | None:
        if self._connection is None or not self._finish(self._connection, self._connection.eof):
            return None
        if self._transport.is_closing():
            return None  # the application closed the connection as it began
        # The header was optional. An application that speaks first may still have something to say.
        protocol: Any = self._transport.get_protocol()
        keep_open: bool | None = protocol.eof_received()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            try:
                self._connection.eof()
            except ProxyProtocolError as error:
                log_refusal(_log, error, self._peer)
            self._connection = None
            self._factory._headers.discard(self)

    def header_late(self) -> None:
        connection: Any = self._connection  # never None here: only undecided connections have this deadline
        try:
            self._finish(connection, connection.timed_out)
        except Exception as error:
            # The header was optional, the application began and raised. A deadline must not raise.
            context = {"message": "An application has raised as it began", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def abort(self) -> None:
        """Drop the connection and log nothing."""
        self._connection = None
        self._factory._headers.discard(self)
        self._factory._handshakes.discard(self)
        self._transport.abort()

    def _finish(self, connection: ReceiverConnection, step: Callable[[], bool]) -> bool:
        """Take the end of the stream or of the time, and return whether the application began."""
        try:
            begun = step()
        except ProxyProtocolError as error:
            self._refuse(error)
            return False
        if begun:
            self._begin(connection)
        return begun

    def _refuse(self, error: ProxyProtocolError) -> None:
        log_refusal(_log, error, self._peer)
        self.abort()

    def _begin(self, connection: ReceiverConnection) -> None:
        """Begin the application, or the TLS handshake before it."""
        factory, transport = self._factory, self._transport
        self._connection = None
        factory._headers.discard(self)
        try:
            if factory._tls is None:
                protocol = factory._protocol_factory()
                overlay = ProxyProtocolTransport(transport, connection.result, connection.effective, self._peer)
                overlay.begin(protocol, connection.trailing)
            else:
                self._origin = Origin.of(connection, self._peer)
                factory._tls.begin(transport, self._handshake_done, self._handshake_lost, data=connection.trailing)
                factory._handshakes.add(self)
        except BaseException:
            # The application raised; the loop logs it, but drops the connection only in a read of its own.
            transport.abort()
            raise

    def _handshake_done(self, transport: asyncio.Transport) -> None:
        self._factory._handshakes.discard(self)
        try:
            protocol = self._factory._protocol_factory()
            ProxyProtocolTransport(transport, *self._origin).begin(protocol)
        except BaseException:
            transport.abort()
            raise

    def _handshake_lost(self, error: BaseException | None) -> None:
        if self in self._factory._handshakes and error is not None:
            log_no_handshake(_log, error, self._origin.client, self._peer)
        self._factory._handshakes.discard(self)

    def handshake_late(self) -> None:
        late = TimeoutError(describe_late_handshake(self._factory._tls_timeout))
        log_no_handshake(_log, late, self._origin.client, self._peer)
        self._transport.abort()
