"""A connection that is being relayed: two ends, and two flows of bytes between them.

Each flow keeps at most one chunk in memory. All flows read into the same buffer; a flow copies what its target does not
take at once, and reads nothing more until the target has taken it. The kernel's socket buffers do the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import math
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.dnsbl import Dnsbl
from proxyprotocol.errors import drop_tracebacks
from proxyprotocol.server._process.program import describe_error
from proxyprotocol.server._relay.deadlines import Queues, Timed
from proxyprotocol.server._relay.ends import Stream, has_taken_all
from proxyprotocol.server._relay.metrics import BYTES_DOWN, BYTES_UP

__all__: list[str] = []

_NOTHING: Final = memoryview(b"")
_RESET: Final = struct.pack("ii", 1, 0)
# Seconds. After the whole answer is sent, the relay still reads from the client: for this long after each chunk, and
# again while the client's system has not taken the whole answer; and at most for so long. A client that still sends
# after that has had the time to read.
_LINGER: Final = 2.0
_MOST_LINGER: Final = 30.0
# An idle connection may be closed so many seconds late, or by this share of the idle time-out, whichever is less. A
# busy connection goes to the end of its queue only that often, not for each chunk.
_GRAIN: Final = 1.0
_GRAIN_SHARE: Final = 1 / 16
# Errors of a send to a peer that was gone before: EPIPE, by which Linux also reports a reset after the end of the
# peer's data, and ENOTCONN. The system reports any other error only once.
_LONG_GONE: Final = (errno.EPIPE, errno.ENOTCONN)


class State(enum.Enum):
    """What the relay still does for the two ends of a flow.

    A flow begins OPEN, becomes ENDED or BROKEN, and then perhaps OVER. The link closes when no flow is OPEN and all
    bytes are sent, or when the client has had enough time to read. A reset, a time-out or the end of the relay close it
    at once.

    Attributes:
        reads: Whether the relay reads from the source.
        sends: Whether the relay sends to the target.
    """

    #        reads, sends
    OPEN = (True, True)
    ENDED = (False, True)  # the source has sent its last byte; the target may still have to take some
    BROKEN = (True, False)  # the target is gone; what the source sends is read and dropped
    OVER = (False, False)  # the target is gone; the source has sent its last byte, or the rest does not matter

    def __init__(self, reads: bool, sends: bool) -> None:
        self.reads, self.sends = reads, sends


_OPEN, _ENDED, _BROKEN, _OVER = State


class Context(Protocol):
    """What all connections of a relay share: the relay itself. Its arguments are explained there."""

    loop: asyncio.AbstractEventLoop
    queues: Queues
    buffer: memoryview  # every flow reads into it
    connections: set[Any]
    dnsbl: Dnsbl | None
    connect_timeout: float
    idle_timeout: float | None

    def forget(self, connection: Any) -> None:
        """Handle that a connection is over."""


class Flow:
    """The bytes from one end to the other, counted by the number *counter* of the counters *values*."""

    __slots__ = ("buffer", "counter", "cut", "link", "pending", "queued", "source", "state", "target", "values")

    def __init__(self, link: Link, source: Stream, target: Stream, values: memoryview, counter: int) -> None:
        self.link, self.values, self.counter = link, values, counter
        self.source, self.target = source, target
        self.buffer = link.relay.buffer[: target.most]
        self.state = _OPEN
        #: What was read, and the target has not taken.
        self.pending = _NOTHING
        #: The error of a send to the source, if that was the news of its loss. What the source sent before is relayed;
        #: its end is then no clean end.
        self.cut: OSError | None = None
        #: Whether the loop is about to call :meth:`readable` by itself: the selector does not know of the bytes.
        self.queued = False

    @property
    def done(self) -> bool:
        """Whether the source has ended and the target has everything, or one of them is gone."""
        return self.state is not _OPEN and not (self.state.sends and self.target.unsent)

    def read_soon(self) -> None:
        """Read after the other connections had their turn."""
        if not self.queued:
            self.queued = True
            self.link.relay.loop.call_soon(self._read_queued)

    def _read_queued(self) -> None:
        self.queued = False
        self.readable()

    def readable(self) -> None:
        """Move one chunk."""
        link = self.link
        # read_soon() calls this as well, and the link may have changed meanwhile
        if self.state is not _OPEN or link.closed:
            if self.state is _BROKEN and not link.closed:
                self._discard()
            return
        if self.pending or self.target.unsent:
            return
        try:
            size = self.source.recv_into(self.buffer)
        except (BlockingIOError, InterruptedError):
            if self.source.unsent:
                link.watch_both()
            return
        except OSError as error:
            link.fail(self, error)
            return
        link.touch()
        if size:
            self.values[self.counter] += size
            self.push(self.buffer[:size])
            if self.source.buffered or self.source.unsent:
                link.watch_both()
        elif self.cut is not None and not self.source.notified:
            link.fail(self, self.cut)
        else:
            self.end()

    def _discard(self) -> None:
        """Read one chunk, and drop it. A peer that reads nothing before it has sent everything would never finish.

        And the system would reset a socket that is closed with unread bytes: the peer would lose the end of its answer.
        """
        try:
            if not self.source.recv_into(self.buffer):
                self.state = _OVER
            self.link.linger_on()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.state = _OVER  # the source is gone too
        self.link.settle()

    def push(self, data: memoryview) -> None:
        """Send bytes to the target, and keep a copy of those that it does not take."""
        try:
            sent = self.target.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.lose(error)
            return
        if sent < len(data):
            self.pending = memoryview(bytes(data[sent:]))
        if self.pending or self.target.unsent:
            self.link.watch_both()

    def writable(self) -> None:
        """Send what is pending, and read again once the target has taken all of it."""
        link = self.link
        try:
            self.target.flush()
            if self.pending:
                self.pending = self.pending[self.target.send(self.pending) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.lose(error)
            return
        link.touch()
        if self.pending or self.target.unsent:
            link.watch_both()  # the target may no longer be choked
        else:
            link.settle()

    def end(self) -> None:
        """Pass on that the source has sent its last byte."""
        self.state = _ENDED
        try:
            self.target.end()
        except OSError as error:
            self.lose(error)
        else:
            self.link.settle()

    def lose(self, error: OSError) -> None:
        """Handle that the target is gone. What it sent before is still relayed."""
        if error.errno not in _LONG_GONE and not isinstance(error, ssl.SSLError):  # TLS reports its errors again
            drop_tracebacks(error)
            self.link.opposite(self).cut = error
        self.state = _BROKEN if self.state.reads else _OVER
        self.pending = _NOTHING
        self.link.settle()


class Link(Timed):
    """A connection that is being relayed. It calls *ended* once, when it is closed, as it calls :meth:`close`.

    *values* are the counters of its service.
    """

    __slots__ = ("_ended", "_grain", "_idle", "_lingers_until", "_requeue_at", "_time", "closed", "down", "relay", "up")

    def __init__(
        self,
        relay: Context,
        values: memoryview,
        client: Stream,
        server: Stream,
        ended: Callable[[str | None], None],
    ) -> None:
        self.queue = None
        self.relay, self._ended = relay, ended
        self._time = relay.loop.time
        self.closed = False
        #: None until nothing is left to do but drop what the client sends. Then: until when that may be prolonged.
        self._lingers_until: float | None = None
        idle = math.inf if relay.idle_timeout is None else relay.idle_timeout
        self._grain = min(_GRAIN, idle * _GRAIN_SHARE)
        self._idle = relay.queues[idle + self._grain]
        self._requeue_at = self._time() + self._grain
        self.wait(self._idle)
        self.up = Flow(self, client, server, values, BYTES_UP)
        self.down = Flow(self, server, client, values, BYTES_DOWN)

    def begin(self, header: bytes, first: bytes) -> None:
        """Begin to relay: send *header*, and with it the *first* bytes of the client."""
        self.up.values[BYTES_UP] += len(first)
        if header or first:
            self.up.push(memoryview(header + first))
        self.watch_both()

    def touch(self) -> None:
        """Note that bytes have moved."""
        now = self._time()
        if now >= self._requeue_at:
            self._requeue_at = now + self._grain
            self.wait(self._idle)

    def opposite(self, flow: Flow) -> Flow:
        """Return the flow in the other direction."""
        return self.down if flow is self.up else self.up

    def settle(self) -> None:
        """Close the link if both flows are done; otherwise go on.

        If the server is gone and the client still sends, the relay reads from the client for a while, and then closes
        it. If the client is gone, the relay does not read from the server: it might send for ever.
        """
        up, down = self.up, self.down
        if down.state is _BROKEN:
            down.state = _OVER
        if up.done and down.done:
            if not up.state.reads or not down.state.sends:
                self.close(None)
                return
            if self._lingers_until is None:
                with contextlib.suppress(OSError):  # the client is gone
                    # the end of TLS alone does not end the connection for the system
                    up.source.sock.shutdown(socket.SHUT_WR)
                longest = min(_MOST_LINGER, self.relay.idle_timeout or _MOST_LINGER)
                linger = min(_LINGER, longest)
                self._idle, self._requeue_at = self.relay.queues[linger], math.inf
                self._lingers_until = self.relay.loop.time() + longest - linger
                self.wait(self._idle)
        self.watch_both()

    def linger_on(self) -> None:
        """Give a client whose bytes are dropped some more time, up to the limit."""
        if self._lingers_until is not None and self.relay.loop.time() < self._lingers_until:
            self.wait(self._idle)

    def watch_both(self) -> None:
        """Let the selector watch each end for what its flows wait for, and for nothing else."""
        if self.closed:
            return
        for inward, outward in ((self.up, self.down), (self.down, self.up)):
            stream, loop = inward.source, self.relay.loop
            read = (
                inward.state.reads
                and not stream.choked
                and (inward.state is _BROKEN or not (inward.pending or inward.target.unsent))
            )
            write = outward.state.sends and (bool(outward.pending) or stream.unsent)
            if read is not stream.reading:
                stream.reading = read
                if read:
                    loop.add_reader(stream.fd, inward.readable)
                else:
                    loop.remove_reader(stream.fd)
            if write is not stream.writing:
                stream.writing = write
                if write:
                    loop.add_writer(stream.fd, outward.writable)
                else:
                    loop.remove_writer(stream.fd)
            if read and stream.buffered:
                inward.read_soon()

    def fail(self, flow: Flow, error: OSError) -> None:
        """Handle that the source of a flow was lost before its end. For the target, the bytes must not look whole."""
        if flow.source.sock.family == AF_UNIX and isinstance(error, ConnectionResetError):
            # A UNIX socket that its peer closed with unread bytes says so after its last byte: nothing is missing.
            self.opposite(flow).lose(error)
            flow.end()
        else:
            self.abort(describe_error(error))

    def expired(self) -> None:
        """Handle that nothing has moved for too long."""
        if self._lingers_until is None:
            self.abort(f"nothing has moved for {self.relay.idle_timeout:g} seconds")
        elif self.relay.loop.time() < self._lingers_until and not has_taken_all(self.up.source.sock):
            # A slow and silent reader. If it sent a byte to a closed socket, it would lose the end of the answer.
            self.wait(self._idle)
        else:
            self.close(None)

    def abort(self, reason: str) -> None:
        """Reset both ends."""
        if self.closed:
            return
        for stream in (self.up.source, self.up.target):
            with contextlib.suppress(OSError):  # the peer is gone, or this is not TCP
                stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close(reason)

    def close(self, reason: str | None) -> None:
        """Close both ends; *reason* is None if both have sent everything."""
        if self.closed:
            return
        self.closed = True
        self.wait(None)
        for stream in (self.up.source, self.up.target):
            if stream.reading:
                self.relay.loop.remove_reader(stream.fd)
            if stream.writing:
                self.relay.loop.remove_writer(stream.fd)
            stream.sock.close()
        del self.up, self.down  # each refers to this link: the circle would wait for the garbage collector
        self._ended(reason)
