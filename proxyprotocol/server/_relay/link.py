"""Floor 6: a connection that is being relayed: two ends, and two flows of bytes between them.

Memory is bounded by one chunk a flow: all flows read into the same buffer, what the other end does not take at once is
kept, and nothing more is read before it has gone. The kernel's own buffers do the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Final

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.errors import drop_tracebacks
from proxyprotocol.server._process.program import describe_error
from proxyprotocol.server._relay.ends import Stream, has_taken_all
from proxyprotocol.server._relay.metrics import BYTES_DOWN, BYTES_UP
from proxyprotocol.server._relay.timers import Timed, Wheel

__all__: list[str] = []

# The states of a flow, and of the link:
#
#   ended      nothing more is for the target: the source has said all, or the target is gone
#   broken     the target is gone: what the source still says is read, and thrown away
#   heard      nothing more is read: the source has said all, or is gone, or it is a server without a client
#   cut        the source is gone, as was learnt in sending to it: what it has said is relayed, and then a reset
#   lingering  both have ended, but the client still speaks, to a server that is gone: it is heard out, and then closed
#
# It is over when both have ended and all is sent, or at once by a reset, a time-out or the end of the relay.

_NOTHING: Final = memoryview(b"")
_RESET: Final = struct.pack("ii", 1, 0)
# Seconds that a client is listened to after it was told all: so long after the last that it sent, and again for as long
# as its system has not taken all; and so long in all. One that goes on for longer has had the time to read.
_LINGER: Final = 2.0
_MOST_LINGER: Final = 30.0
# What is said in sending to one that was gone before: EPIPE, which is also how Linux reports a reset behind the end of
# what the peer had to say, and ENOTCONN. What any other error says, no later call would say again.
_LONG_GONE: Final = (errno.EPIPE, errno.ENOTCONN)


class Flow:
    """The bytes from one end to the other.

    Args:
        link: The connection.
        source: Where they come from.
        target: Where they go.
        counter: Which of the counters counts them.
    """

    __slots__ = (
        "broken",
        "buffer",
        "counter",
        "cut",
        "ended",
        "heard",
        "link",
        "pending",
        "queued",
        "source",
        "target",
    )

    def __init__(self, link: Link, source: Stream, target: Stream, counter: int) -> None:
        self.link = link
        self.source, self.target = source, target
        self.counter = counter
        self.buffer = link.buffer[: target.most]
        #: What was read and has not been taken.
        self.pending = _NOTHING
        #: Whether the source has said all, or the target is gone.
        self.ended = False
        #: Whether it is the target. What the source still says is thrown away then.
        self.broken = False
        #: Whether the source has said all.
        self.heard = False
        #: How the source was lost, if that was met in sending to it: what it has said still comes, but not its end.
        self.cut: OSError | None = None
        #: Whether the loop is to call :meth:`readable` without the selector, which is asked of it once at a time.
        self.queued = False

    def read_soon(self) -> None:
        """Read when the others had their turn, where the selector cannot know that there is something."""
        if not self.queued:
            self.queued = True
            self.link.loop.call_soon(self._read_queued)

    def _read_queued(self) -> None:
        self.queued = False
        self.readable()

    def readable(self) -> None:
        """Move one chunk."""
        link = self.link
        # also called by itself where the selector cannot know, and the link may have changed meanwhile
        if self.heard or link.closed:
            return
        if self.broken:
            self.discard()
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
            link.values[self.counter] += size
            self.push(self.buffer[:size])
            if self.source.buffered or self.source.unsent:
                link.watch_both()
        elif self.cut is not None and not self.source.notified:
            link.fail(self, self.cut)
        else:
            self.end()

    def discard(self) -> None:
        """Throw away one chunk.

        A socket that is closed with something unread is reset by the system, and the peer loses the last of what it was
        told; and one that reads nothing before it has said all would never come to its end.
        """
        try:
            self.heard = not self.source.recv_into(self.buffer)
            self.link.linger()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.heard = True  # it is gone too
        self.link.settle()

    def push(self, data: memoryview) -> None:
        """Give bytes to the target, and keep those that it does not take.

        Args:
            data: The bytes, which may change when this has returned.
        """
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

    def flush(self) -> None:
        """Give the target what is pending, and read again when it has taken it all."""
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
        if not self.pending and not self.target.unsent:
            link.settle()

    def end(self) -> None:
        """Pass the end of the source on."""
        self.ended = self.heard = True
        try:
            self.target.end()
        except OSError as error:
            self.lose(error)
        else:
            self.link.settle()

    def lose(self, error: OSError) -> None:
        """Take that the target is gone: only what it has said before is still of use.

        Args:
            error: What has told.
        """
        if error.errno not in _LONG_GONE and not isinstance(error, ssl.SSLError):  # which TLS says again
            drop_tracebacks(error)
            self.link.opposite(self).cut = error
        self.ended = self.broken = True
        self.pending = _NOTHING
        self.link.settle()


class Link(Timed):
    """A connection that is being relayed.

    Args:
        loop: The loop.
        wheel: Keeps its deadline.
        buffer: What all connections read into.
        values: What counts the bytes, by the numbers of ``_metrics``.
        idle_timeout: How long nothing may move, in seconds; None for no limit.
        ended: Called once when it is over, with the reason where that is not that both ends have said all.
    """

    __slots__ = (
        "_down",
        "_ended",
        "_idle_timeout",
        "_lingers_until",
        "_up",
        "_wheel",
        "buffer",
        "closed",
        "loop",
        "values",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        buffer: memoryview,
        values: memoryview,
        idle_timeout: float | None,
        ended: Callable[[str | None], None],
    ) -> None:
        super().__init__()
        self.loop, self._wheel = loop, wheel
        self._idle_timeout = idle_timeout
        self._ended = ended
        self.buffer, self.values = buffer, values
        self.closed = False
        self._lingers_until: float | None = None

    def begin(self, client: Stream, server: Stream, header: bytes, first: bytes) -> None:
        """Begin to relay.

        Args:
            client: The end of who has connected.
            server: The end of who was connected to.
            header: What goes to the server before anything else.
            first: What the client has sent by now, which goes with it.
        """
        self._up = Flow(self, client, server, BYTES_UP)
        self._down = Flow(self, server, client, BYTES_DOWN)
        self._wheel.set(self, self._idle_timeout)
        self.values[BYTES_UP] += len(first)
        if header or first:
            self._up.push(memoryview(header + first))
        self.watch_both()

    def touch(self) -> None:
        """Take that something has moved. One that lingers has a deadline of its own."""
        if self._idle_timeout is not None and self._lingers_until is None:
            self.deadline = self.loop.time() + self._idle_timeout

    def opposite(self, flow: Flow) -> Flow:
        """Give the flow that goes the other way."""
        return self._down if flow is self._up else self._up

    def settle(self) -> None:
        """Take that one flow has ended; when both have, and everything is sent, the connection is over.

        A client that still speaks, to a server that is gone, is listened to for a while before it is closed. Not so a
        server whose client is gone: it would go on with what nobody wants.
        """
        up, down = self._up, self._down
        down.heard = down.heard or down.broken
        if not all(flow.ended and (flow.broken or not flow.target.unsent) for flow in (up, down)):
            self.watch_both()
        elif up.heard or down.broken:
            self.close(None)
        else:
            if self._lingers_until is None:
                self._begin_to_linger()
            self.watch_both()

    def linger(self) -> None:
        """Listen a little longer, if that is what is still done."""
        if self._lingers_until is not None:
            self.deadline = min(self.loop.time() + _LINGER, self._lingers_until)

    def watch_both(self) -> None:
        """Ask the selector for just what there is to do."""
        if self.closed:
            return
        self._watch(self._up.source, self._up, self._down)
        self._watch(self._up.target, self._down, self._up)

    def fail(self, flow: Flow, error: OSError) -> None:
        """Take that an end was lost in the midst of what it had to say, which the other end must not take for all.

        Args:
            flow: What comes from that end.
            error: How it was lost.
        """
        if flow.source.sock.family == AF_UNIX and isinstance(error, ConnectionResetError):
            # A UNIX socket that was closed before all was read says so behind its last byte: nothing is missing.
            self.opposite(flow).lose(error)
            flow.end()
        else:
            self.abort(describe_error(error))

    def expired(self) -> None:
        """Take that nothing has moved for too long."""
        if self._lingers_until is None:
            self.abort(f"nothing has moved for {self._idle_timeout:g} seconds")
            return
        left = self._lingers_until - self.loop.time()
        if left > 0 and not has_taken_all(self._up.source.sock):
            # a slow reader that is silent, and would lose the answer by the first that it says
            self._wheel.set(self, min(_LINGER, left))
        else:
            self.close(None)

    def abort(self, reason: str) -> None:
        """Reset both ends.

        Args:
            reason: Why.
        """
        if self.closed:
            return
        for stream in (self._up.source, self._up.target):
            with contextlib.suppress(OSError):  # a peer that is gone, or no TCP
                stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close(reason)

    def close(self, reason: str | None) -> None:
        """Close both ends.

        Args:
            reason: Why, if it is not that both have said all.
        """
        if self.closed:
            return
        self.closed = True
        self._wheel.discard(self)
        for stream in (self._up.source, self._up.target):
            if stream.reading:
                self.loop.remove_reader(stream.fd)
            if stream.writing:
                self.loop.remove_writer(stream.fd)
            stream.sock.close()
        del self._up, self._down  # each holds this link: a circle would wait for the garbage collector
        self._ended(reason)

    def _begin_to_linger(self) -> None:
        with contextlib.suppress(OSError):  # of one that is gone
            self._up.source.sock.shutdown(socket.SHUT_WR)  # the end of TLS alone is none to the system
        longest = min(_MOST_LINGER, self._idle_timeout or _MOST_LINGER)
        self._lingers_until = self.loop.time() + longest
        self._wheel.set(self, min(_LINGER, longest))

    def _watch(self, stream: Stream, inward: Flow, outward: Flow) -> None:
        """Do that for one end, where one flow comes from and the other goes to."""
        read = not (inward.heard or stream.choked) and (inward.broken or not (inward.pending or inward.target.unsent))
        write = not outward.broken and (bool(outward.pending) or stream.unsent)
        if read is not stream.reading:
            stream.reading = read
            if read:
                self.loop.add_reader(stream.fd, inward.readable)
            else:
                self.loop.remove_reader(stream.fd)
        if write is not stream.writing:
            stream.writing = write
            if write:
                self.loop.add_writer(stream.fd, self._writable, outward)
            else:
                self.loop.remove_writer(stream.fd)
        if read and stream.buffered:
            inward.read_soon()

    def _writable(self, outward: Flow) -> None:
        outward.flush()
        # who was choked may be read again
        self.watch_both()
