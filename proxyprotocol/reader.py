"""Headers on asyncio streams, with the names of `proxy-protocol`.

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

from proxyprotocol._adapters.deadlines import LoopClock, in_time
from proxyprotocol._adapters.facts import extra_info
from proxyprotocol._adapters.listener import Listener, logging_to
from proxyprotocol._wire import spec
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

# bytes: asyncio's default for the longest line. A stream does not show the limit that its server has set.
_LEAST_LIMIT = 2**16
_SIGNATURES = (spec.V1_SIGNATURE, spec.V2_SIGNATURE)


class ProxyProtocolReader:
    """Reads the headers of asyncio streams.

    Args:
        pp: The codec; by default one that reads version 1 and version 2.
        receiver: The rules for the header, in place of all other arguments.
        keywords: ``trusted``, ``timeout`` (seconds), ``max_header`` (bytes), and all others that :class:`.Receiver`
            takes. :meth:`read` uses only ``max_header``: it knows no addresses, so it always requires a header.

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
        """Read a header, and not a byte more. Put a deadline around this call: a peer may send nothing.

        Args:
            reader: The stream.

        Returns:
            What the header says.

        Raises:
            ProxyProtocolSyntaxError: There is no valid header; the stream is useless now.
            ProxyProtocolChecksumError: The header's CRC32C is wrong; the stream is useless now.
            asyncio.IncompleteReadError: The stream ended before the header did.
        """
        parser = HeaderParser(self._receiver.pp, max_header=self._receiver.max_header)
        # read() returns what is there, so that a wrong first byte is refused at once. readline() would be wrong: at the
        # end of the stream it returns a part of a line, again and again.
        read: Callable[[int], Awaitable[bytes]] = getattr(reader, "read", reader.readexactly)
        result, received = None, b""
        while result is None:
            data = await read(parser.needed) if parser.needed else b""
            if parser.needed and not data:
                raise asyncio.IncompleteReadError(received, len(received) + parser.needed)
            received += data
            result = parser.feed(data)
        return result

    def get_callback(self, callback: _WrappedCallback, timeout: float | None = 3) -> _Callback:
        """Make the *client_connected_cb* for :func:`asyncio.start_server`.

        *callback* runs when a header was read and accepted. Any other connection is aborted, and the log says why.

        Args:
            callback: A function or a coroutine function. It gets the arguments of a *client_connected_cb*, and the
                connection's :class:`.SocketInfo` as the third.
            timeout: Seconds until the header must be complete; None for no limit. A time-out or a receiver that was
                given to this object wins.

        Raises:
            ValueError: The time-out is not above 0.
        """
        receiver = self._receiver if self._own_timeout else dataclasses.replace(self._receiver, timeout=timeout)
        listener = Listener(receiver, logging_to(_log), LoopClock())
        listener.start()

        async def connected(reader: StreamReader, writer: StreamWriter) -> None:
            peer: SockAddr = extra_info(writer, "peername")
            local: SockAddr = extra_info(writer, "sockname")
            try:
                connection = (listener.at(local) if listener.asks else listener.receiver).connection(peer, local)
                if not await in_time(_read_header(connection, reader), receiver.timeout):
                    connection.timed_out()
            except BaseException as error:
                writer.transport.abort()
                if isinstance(error, ProxyProtocolError):
                    listener.refuse(error, peer, local)
                # Mostly asyncio.run() ends and cancels us. CPython 3.11 and 3.12 would log a traceback for each
                # half-open connection if we raised again.
                elif not isinstance(error, asyncio.CancelledError):
                    raise
                return
            stream = _give_back(reader, connection.trailing) if connection.trailing else reader
            # Not public: the stream has no other way to look at bytes without taking them.
            if connection.result is not None and getattr(stream, "_buffer", b"").startswith(_SIGNATURES):
                listener.warn_of_second_header(peer, local)
            info = SocketInfo.get(writer, connection.believed, unique_id=uuid.uuid4().bytes, header=connection.result)
            try:
                outcome = callback(stream, writer, info)
                if inspect.isawaitable(outcome):
                    await outcome
            except OSError as error:
                # A health check resets the connection right after its header. asyncio would log each one as an
                # unhandled exception. drain() raises the stream's exception, or its own ConnectionResetError.
                lost = reader.exception()
                if lost is None or not (error is lost or isinstance(error, ConnectionResetError)):
                    raise
                _log.debug("The connection was lost: %s", error)

        return connected


async def _read_header(connection: ReceiverConnection, reader: StreamReader) -> None:
    # Only "PROXY UNKNOWN" is shorter than this, by one byte. If the application's first byte comes with it, we give it
    # back.
    first = spec.V2_FIXED_LENGTH
    while not connection.begun:
        try:
            data = await reader.read(first or connection.needed)
        except OSError:  # such as a reset, which ends the stream too
            data = b""
        first = 0
        if data:
            connection.feed(data)
        else:
            connection.eof()


def _give_back(reader: StreamReader, data: bytes) -> StreamReader:
    """Put bytes back at the start of a stream, with public methods: take out its contents, and feed it everything."""
    if reader.exception() is not None:
        return reader  # the connection was lost meanwhile, and reading says so
    rest = reader.read(sys.maxsize)
    try:
        rest.send(None)  # ends at once if the stream holds bytes; otherwise it would wait, so we close it
    except StopIteration as done:
        data += done.value
    finally:
        rest.close()
    if reader.at_eof():  # then it accepts no more bytes
        reader = StreamReader(limit=max(len(data), _LEAST_LIMIT))
        reader.feed_data(data)
        reader.feed_eof()
    else:
        reader.feed_data(data)
    return reader
