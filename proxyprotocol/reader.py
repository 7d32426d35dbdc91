"""The established front for asyncio streams.

``asyncio.start_server(ProxyProtocolReader(pp).get_callback(on_connection), host, port)`` is a server behind a proxy.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import sys
import uuid
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from proxyprotocol._adapters.deadlines import in_time
from proxyprotocol._adapters.facts import extra_info
from proxyprotocol._adapters.refusals import log_refusal
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.parser import HeaderParser
from proxyprotocol.receiver import LimitKeywords, Receiver, ReceiverConnection
from proxyprotocol.result import ProxyResult
from proxyprotocol.sock import SocketInfo
from proxyprotocol.typing import SockAddr, StreamReaderProtocol

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxyProtocolReader"]

_WrappedCallback: TypeAlias = Callable[[StreamReader, StreamWriter, SocketInfo], "Awaitable[Any] | None"]
_Callback: TypeAlias = Callable[[StreamReader, StreamWriter], Awaitable[None]]

_log = logging.getLogger(__name__)


class ProxyProtocolReader:
    """Reads headers from the front of asyncio streams.

    Args:
        pp: The codec; version 1 or 2, whichever comes, unless given.
        receiver: How connections are received, in place of all other arguments.
        keywords: ``policy``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver` takes them.
            :meth:`read` knows no addresses and no clock: it always requires a header, and waits for it.

    Raises:
        TypeError: There are a receiver and another argument, or a keyword is unknown.
        ValueError: A keyword's value is out of range.
    """

    __slots__ = ("_own_timeout", "_receiver")

    def __init__(
        self, pp: ProxyProtocol | None = None, *, receiver: Receiver | None = None, **keywords: Unpack[LimitKeywords]
    ) -> None:
        self._receiver = Receiver.of(receiver, keywords if pp is None else {"pp": pp, **keywords})
        self._own_timeout = receiver is not None or "timeout" in keywords

    @property
    def pp(self) -> ProxyProtocol:
        """The codec."""
        return self._receiver.codec

    async def read(self, reader: StreamReaderProtocol) -> ProxyResult:
        """Read a header, and not a byte of what follows it. Put a deadline around it: a peer may send nothing.

        Args:
            reader: The stream.

        Returns:
            What the header says.

        Raises:
            ProxyProtocolSyntaxError: There is no header; the stream is of no use any more.
            ProxyProtocolChecksumError: The CRC32C does not match; the stream is of no use any more either.
            asyncio.IncompleteReadError: The stream ended before the header did.
        """
        parser = HeaderParser(self._receiver.pp, max_header=self._receiver.max_header)
        result, received = None, b""
        while result is None:
            needed = parser.needed
            data = await _read_some(reader, needed) if needed else b""
            if needed and not data:
                raise asyncio.IncompleteReadError(received, len(received) + needed)
            received += data
            result = parser.feed(data)
        return result

    def get_callback(self, callback: _WrappedCallback, timeout: float | None = 3) -> _Callback:
        """Make the *client_connected_cb* for :func:`asyncio.start_server`.

        *callback* runs when a header has been read and accepted, and only then: any other connection is aborted, with
        one line in the log that says why.

        Args:
            callback: Called like a *client_connected_cb*, with the :class:`.SocketInfo` of the connection as a third
                argument; a function or a coroutine function.
            timeout: How long a whole header may take, in seconds; None for no limit. One that this object was made
                with counts instead.

        Raises:
            ValueError: The time-out is not above 0.
        """
        receiver = self._receiver if self._own_timeout else dataclasses.replace(self._receiver, timeout=timeout)

        async def connected(reader: StreamReader, writer: StreamWriter) -> None:
            connection = await _receive(receiver, reader, writer)
            if connection is not None:
                # under OPTIONAL what was read may have been the application's
                trailing = connection.trailing
                stream = _give_back(reader, trailing) if trailing else reader
                info = SocketInfo.get(
                    writer, connection.believed, unique_id=uuid.uuid4().bytes, header=connection.result
                )
                await _call(callback, reader, stream, writer, info)

        return connected


async def _call(
    callback: _WrappedCallback, reader: StreamReader, stream: StreamReader, writer: StreamWriter, info: SocketInfo
) -> None:
    try:
        outcome = callback(stream, writer, info)
        if inspect.isawaitable(outcome):
            await outcome
    except OSError as error:
        # A health check resets the connection right behind its header, and asyncio would log each one as an unhandled
        # exception of the callback. drain() raises that of the stream, or a ConnectionResetError of its own.
        lost = reader.exception()
        if lost is None or not (error is lost or isinstance(error, ConnectionResetError)):
            raise
        _log.debug("The connection was lost: %s", error)


async def _read_some(reader: StreamReaderProtocol, needed: int) -> bytes:
    # read() returns what is there, so that a wrong first byte is refused at once. Not readline(): at an end of stream
    # inside a line it gives what it has and is called again for ever.
    read: Callable[[int], Awaitable[bytes]] = getattr(reader, "read", reader.readexactly)
    return await read(needed)


async def _receive(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> ReceiverConnection | None:
    """Receive one connection: None where it was refused, which has been logged then."""
    peer: SockAddr = extra_info(writer, "peername")
    try:
        connection = receiver.connection(peer, extra_info(writer, "sockname"))
        if not await in_time(_read_header(connection, reader), receiver.timeout):
            connection.timed_out()
        return connection
    except ProxyProtocolError as error:
        log_refusal(_log, error, peer)
        writer.transport.abort()
        return None
    except asyncio.CancelledError:
        # The end of asyncio.run(), mostly. Not raised again: CPython 3.11 and 3.12 would log each half-open connection
        # with a traceback, and there is nothing left to cancel.
        writer.transport.abort()
        return None
    except BaseException:  # the policy function has raised
        writer.transport.abort()
        raise


async def _read_header(connection: ReceiverConnection, reader: StreamReader) -> None:
    while not connection.begun:
        try:
            data = await reader.read(connection.needed)
        except OSError:  # such as a reset, which is an end like another here
            data = b""
        if data:
            connection.feed(data)
        else:
            connection.eof()


def _give_back(reader: StreamReader, data: bytes) -> StreamReader:
    """Put bytes back in front of a stream, by public means: take out what is in it, and feed it all again."""
    if reader.exception() is not None:
        return reader  # lost in the meantime, which is what reading from it says, and not what came before
    rest = reader.read(sys.maxsize)
    try:
        rest.send(None)  # returns at once if anything is there; else it would wait, and is closed
    except StopIteration as done:
        data += done.value
    finally:
        rest.close()
    if reader.at_eof():  # takes no more
        reader = StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
    else:
        reader.feed_data(data)
    return reader
