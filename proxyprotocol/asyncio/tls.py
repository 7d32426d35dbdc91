"""TLS after the header, on the transports of asyncio and uvloop alike."""

from __future__ import annotations

import asyncio
import ssl
import sys

# Not public. We tried loop.start_tls instead, and lost answers and handshakes: its caller goes on after the first data,
# on asyncio even after a close_notify, and uvloop may read from the connection before TLS begins. This class takes over
# the transport in the very call that has read the header's last byte.
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any, Final

from proxyprotocol._adapters.deadlines import check_seconds

__all__ = ["TLS", "deliver", "is_tls", "take_unread"]

_RECORD: Final = 16 * 1024  # bytes; the most that a TLS record holds
_FIRST_BUFFER: Final = 4 * 1024  # bytes; most handshakes need less
# Bytes. asyncio's own 256 KiB is also what it allocates to decrypt each record: an upload took twice as long.
_LARGEST_BUFFER: Final = 64 * 1024


class TLS:
    """The TLS settings of one server or client.

    The two time-outs are seconds, or None for asyncio's 60 and 30; the second one needs Python 3.11. A client also says
    which name the server's certificate must have. A wrong argument raises TypeError or ValueError.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        server_hostname: str | None = None,
    ) -> None:
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(f"TLS takes an ssl.SSLContext, not {context!r}")
        times = {"ssl_handshake_timeout": ssl_handshake_timeout, "ssl_shutdown_timeout": ssl_shutdown_timeout}
        self._times: Any = {name: check_seconds(name, time) for name, time in times.items() if time is not None}
        if ssl_shutdown_timeout is not None and sys.version_info < (3, 11):
            raise TypeError("ssl_shutdown_timeout needs Python 3.11 or later")
        self._context, self._server_hostname = context, server_hostname

    def begin(
        self,
        transport: asyncio.Transport,
        done: Callable[[asyncio.Transport], object],
        lost: Callable[[BaseException | None], object] = lambda error: None,
        *,
        data: bytes = b"",
        server_side: bool = True,
        waiter: Any = None,
    ) -> _Handshake:
        """Begin a handshake with the peer's first *data*, if the caller has read some already.

        *done* is called with the TLS transport when the handshake is done, before any application data. *lost*
        is called if the connection ends before that: with the error, or None if this side has ended it. *waiter* is a
        future that is done after the handshake, with an exception if the handshake failed.
        """
        handshake = _Handshake(done, lost)
        loop, hostname = asyncio.get_running_loop(), self._server_hostname
        tls = _Protocol(loop, handshake, self._context, waiter, server_side, hostname, **self._times)
        tls.handshake = handshake
        transport.set_protocol(tls)
        tls.connection_made(transport)
        deliver(transport, data)
        return handshake

    async def shake_hands(self, transport: asyncio.Transport, *callbacks: Any, **keywords: Any) -> asyncio.Transport:
        """Do a handshake as :meth:`begin` does, and return the TLS transport, or abort the connection and raise.

        Here *done* must not raise: the loop would log its error.

        Raises:
            OSError: The handshake failed or took too long, the connection was lost, or the peer's certificate is wrong.
            ValueError: The context and the server's name do not go together.
        """
        if transport.is_closing():
            raise ConnectionAbortedError("The connection was lost before its TLS handshake")
        waiter = asyncio.get_running_loop().create_future()
        handshake: _Handshake | None = None
        try:
            # no await comes between these two lines, so the loop reads nothing meanwhile
            transport.resume_reading()
            handshake = self.begin(transport, *callbacks, waiter=waiter, **keywords)
            await waiter
            if handshake.transport is None:
                raise ConnectionAbortedError("The connection was lost in its TLS handshake")
            return handshake.transport
        except BaseException:
            # abort the TLS transport if there is one: on CPython 3.10 it does not notice that the lower one was aborted
            ((handshake and handshake.transport) or transport).abort()
            raise
        finally:
            del waiter  # its exception's traceback refers to this frame


class _Handshake(asyncio.Protocol):
    """The protocol above TLS until the handshake is done."""

    transport: asyncio.Transport | None = None
    done: Callable[[asyncio.Transport], object]
    lost: Any

    def __init__(self, done: Callable[[asyncio.Transport], object], lost: Any) -> None:
        self.done, self.lost = done, lost

    def connection_made(self, transport: Any) -> None:
        self.transport, done = transport, self.done
        del self.done, self.lost  # TLS keeps this object for as long as the connection lives, but not what they hold
        done(transport)


class _Protocol(SSLProtocol):
    handshake: _Handshake
    # the size of the buffer and of a decrypted piece; CPython 3.10 has no such buffer
    max_size = _FIRST_BUFFER if sys.version_info >= (3, 11) else _RECORD

    def buffer_updated(self, nbytes: int) -> None:
        # a larger buffer after each read that fills it
        if nbytes == self.max_size < _LARGEST_BUFFER:
            self.max_size *= 4
        super().buffer_updated(nbytes)  # type: ignore[misc]

    def connection_lost(self, exc: BaseException | None) -> None:
        # once the handshake is done, TLS itself tells the application
        if self.handshake.transport is None:
            self.handshake.lost(exc)
        del self.handshake  # it may refer to this object
        super().connection_lost(exc)


def is_tls(protocol: asyncio.BaseProtocol) -> bool:
    """Return whether a protocol is asyncio's TLS."""
    return isinstance(protocol, SSLProtocol)


def deliver(transport: asyncio.Transport, data: bytes) -> bytes:
    """Give bytes to a transport's protocol while it reads, and return those that are left when it pauses.

    The protocol may change on the way. Nothing is left once the transport is closing.
    """
    while data and transport.is_reading() and not transport.is_closing():
        protocol: Any = transport.get_protocol()
        # not isinstance: uvloop's protocols do not derive from asyncio's
        if hasattr(protocol, "data_received"):
            protocol.data_received(data)
            return b""
        buffer = memoryview(protocol.get_buffer(len(data))).cast("B")
        size = min(len(buffer), len(data))
        if not size:
            raise RuntimeError("get_buffer() has returned an empty buffer")
        buffer[:size] = data[:size]
        data = data[size:]
        protocol.buffer_updated(size)
    return b"" if transport.is_closing() else data


def take_unread(protocol: asyncio.BaseProtocol) -> bytes:
    """Take the bytes that a stream has received and nobody has read: the peer sent them in the clear, before TLS."""
    # Not public. A protocol offers no other way to its reader, and CPython 3.14 uses this attribute too (gh-142352).
    reader: Any = getattr(protocol, "_stream_reader", None)
    if reader is None:
        return b""
    # read() also ends the reader's own pause. It waits only if the reader is empty.
    reading = reader.read(sys.maxsize)
    try:
        reading.send(None)
    except StopIteration as read:
        unread: bytes = read.value
        return unread
    except RuntimeError:
        pass  # another task waits in read(), so the reader is empty
    reading.close()
    return b""
