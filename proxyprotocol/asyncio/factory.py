"""Floor 5: the protocols that read the header, and the factory that a listening socket makes them with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from proxyprotocol._adapters.deadlines import Deadlines, LoopClock
from proxyprotocol._adapters.facts import extra_info
from proxyprotocol._adapters.refusals import (
    describe_late_handshake,
    describe_second_header,
    log_no_handshake,
    log_refusal,
)
from proxyprotocol.asyncio.tls import TLS
from proxyprotocol.asyncio.transport import ProxyProtocolTransport
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection
from proxyprotocol.result import ProxyResult
from proxyprotocol.typing import SockAddr

__all__ = ["ProxyProtocolFactory", "Told"]

# the result, the result whose addresses count, and who really connected
Told: TypeAlias = "tuple[ProxyResult | None, ProxyResult | None, SockAddr]"

_log = logging.getLogger("proxyprotocol.asyncio")


class ProxyProtocolFactory:
    """Makes the protocols that read a header, then hand the connection over to the application and are gone.

    It is the *protocol_factory* of a listening socket without ``ssl``; :func:`.wrap_protocol_factory` makes it.

    Args:
        protocol_factory: Makes the application's protocols, when their headers are there.
        receiver: How connections are received.
        tls: How TLS is done behind the header, if it is.
        tls_timeout: How long its handshake may take, in seconds.
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
        self._headers: Deadlines[_Header] = Deadlines(receiver.timeout, _time_out, LoopClock())
        self._handshakes: Deadlines[_Handshake] = Deadlines(tls_timeout, _time_out, LoopClock())
        self._closed = False

    def __call__(self) -> asyncio.BaseProtocol:
        """Make the protocol of a connection."""
        return _Header(self)

    def close(self) -> None:
        """Drop the connections that have not begun, and every one that still comes.

        For whoever listens by the loop's own means: call it when that server closes, whose ``wait_closed()`` would
        wait for them on Python 3.12 or later. Those that are in their header or their TLS handshake are aborted; those
        that have begun are left alone.
        """
        self._closed = True
        pending: list[_Header | _Handshake] = [*self._headers.close(), *self._handshakes.close()]
        for connection in pending:
            connection.abort()


def _time_out(connection: _Header | _Handshake) -> None:
    try:
        connection.time_out()
    except Exception as error:
        # the application's: a server that speaks first begins here
        context = {"message": "An application has raised as it began", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)


class _Header(asyncio.Protocol):
    """Reads the header of one connection.

    It reads whatever comes, in front of TLS too, which is then given the rest. Tried: to read just the header, with a
    buffer of just the bytes that are needed. It takes three reads for version 2 and up to eight for version 1.

    Args:
        factory: The factory that made it.
    """

    # what is still to decide; None when it has been
    _connection: ReceiverConnection | None = None
    _transport: asyncio.Transport
    _peer: SockAddr = None

    def __init__(self, factory: ProxyProtocolFactory) -> None:
        self._factory = factory

    def connection_made(self, transport: Any) -> None:
        factory = self._factory
        self._transport = transport
        if factory._closed:
            transport.abort()
            return
        # now, because uvloop asks the socket, which forgets it when the peer is gone
        self._peer = extra_info(transport, "peername")
        local = extra_info(transport, "sockname") if factory._receiver.needs_addresses else None
        try:
            connection = factory._receiver.connection(self._peer, local)
        except ProxyProtocolError as error:
            self._refuse(error)
        except BaseException:  # the policy function's, which the loop logs
            transport.abort()
            raise
        else:
            if connection.begun:
                self._begin(connection)
            else:
                self._connection = connection
                factory._headers.add(self)

    def data_received(self, data: bytes) -> None:
        # what comes after a refusal is ignored
        if self._connection is not None:
            self._decide(self._connection, self._connection.feed, data)

    def eof_received(self) -> bool | None:
        if self._connection is None or not self._decide(self._connection, self._connection.eof):
            return None
        if self._transport.is_closing():
            return None  # the application has had enough as it began
        # no header had to come, and an application that speaks first may have something to say even so
        protocol: Any = self._transport.get_protocol()
        keep_open: bool | None = protocol.eof_received()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            try:
                self._connection.eof()
            except ProxyProtocolError as error:
                self._log_refusal(error)
            self._forget()

    def time_out(self) -> None:
        """Take the end of the time that the header had."""
        connection: Any = self._connection  # which is there: whoever is late still waits
        self._decide(connection, connection.timed_out)

    def abort(self) -> None:
        """Drop the connection without a word, because the server has closed."""
        self._forget()
        self._transport.abort()

    def _decide(self, connection: ReceiverConnection, step: Callable[..., bool], *arguments: bytes) -> bool:
        try:
            begun = step(*arguments)
        except ProxyProtocolError as error:
            self._refuse(error)
            return False
        if begun:
            self._begin(connection)
        return begun

    def _forget(self) -> None:
        self._connection = None
        self._factory._headers.discard(self)

    def _refuse(self, error: ProxyProtocolError) -> None:
        self._log_refusal(error)
        self.abort()

    def _log_refusal(self, error: ProxyProtocolError) -> None:
        log_refusal(_log, error, self._peer)

    def _begin(self, connection: ReceiverConnection) -> None:
        """Begin the application, or TLS in front of it."""
        self._forget()
        factory, transport = self._factory, self._transport
        told = connection.result, connection.addresses, self._peer
        try:
            if factory._tls is None:
                protocol = factory._protocol_factory()
                ProxyProtocolTransport(transport, *told).begin(protocol, connection.trailing)
            else:
                handshake = _Handshake(factory, transport, told)
                factory._tls.begin(transport, handshake, lost=handshake.lost, data=connection.trailing)
                factory._handshakes.add(handshake)
        except BaseException:
            # the application's, which the loop logs; outside of its reads nobody else would drop the connection
            transport.abort()
            raise


class _Handshake(asyncio.Protocol):
    """Stands above TLS until the handshake is done.

    Args:
        factory: The factory.
        transport: The connection's transport.
        told: What the application's transport will tell. Not the connection, which holds all bytes that have come.
    """

    def __init__(self, factory: ProxyProtocolFactory, transport: asyncio.Transport, told: Told) -> None:
        self._factory, self._transport, self._told = factory, transport, told

    def connection_made(self, transport: Any) -> None:
        self._forget()
        try:
            protocol = self._factory._protocol_factory()
            ProxyProtocolTransport(transport, *self._told).begin(protocol)
        except BaseException:
            transport.abort()
            raise

    def lost(self, error: BaseException | None) -> None:
        """Take the end of the connection, which the application may know of already.

        Args:
            error: Why; None where somebody has ended it.
        """
        if self in self._factory._handshakes and error is not None:
            self._log_refusal(error)
        self._forget()

    def time_out(self) -> None:
        """Take the end of the time that the handshake had."""
        self._log_refusal(TimeoutError(describe_late_handshake(self._factory._tls_timeout)))
        self._transport.abort()

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        self._factory._handshakes.discard(self)

    def _log_refusal(self, error: BaseException) -> None:
        _, addresses, peer = self._told
        log_no_handshake(_log, error, peer if addresses is None else addresses.peername, peer)
