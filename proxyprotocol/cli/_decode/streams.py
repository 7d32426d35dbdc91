"""The first bytes of TCP streams, put together from their segments. Everything that is kept has a limit."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple, TypeAlias

from proxyprotocol._wire import spec
from proxyprotocol.codec import signature_begins
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.errors import ProxyProtocolError

__all__: list[str] = []

#: How many streams may wait for the rest of their header at a time. Each holds at most two headers' worth of bytes: 128
#: MiB for all, while a busy capture needs a few KiB.
MAX_STREAMS: Final = 1024
#: How many finished streams are remembered, so that a segment that is sent again does not count as a new stream.
_MAX_DONE: Final = 65_536
_MAX_HEADER: Final = spec.V2_MAX_LENGTH
#: How many segments of a stream are kept that came too early. A network swaps a few, and each costs a look whenever the
#: next one in order comes.
MAX_EARLY: Final = 256

_SEQUENCE: Final = 1 << 32
_DETECT: Final = ProxyProtocolDetect()

Flow: TypeAlias = tuple[str, int, str, int]


class Segment(NamedTuple):
    """The part of a stream that one packet holds.

    Attributes:
        packet: The packet's number in its capture, counted from 1.
        flow: Sender and receiver, each with its port.
        sequence: Its sequence number.
        begins: Whether it is the client's first, a SYN without an ACK.
        ends: Whether it is the last, a FIN or a RST.
        data: The bytes.
    """

    packet: int
    flow: Flow
    sequence: int
    begins: bool
    ends: bool
    data: bytes


class Begun(NamedTuple):
    """The first bytes of a stream that may hold a header.

    Attributes:
        packet: The number of the packet in which they begin.
        flow: The stream.
        data: The header and the bytes that came with it, or as much of a header as ever came.
    """

    packet: int
    flow: Flow
    data: bytes


class _Stream:
    """The bytes of a stream so far, in order; *first* is the sequence number of the first byte."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.packet = 0
        self.data = b""
        self._early: dict[int, bytes] = {}
        self._early_length = 0  # bytes

    def add(self, segment: Segment) -> None:
        """Add a segment. If bytes come twice, the first ones count."""
        sequence: int | None = segment.sequence
        if not segment.data or segment.sequence in self._early:
            return
        self._early[segment.sequence] = segment.data
        self._early_length += len(segment.data)
        if self._known(segment.sequence) is None:
            if len(self._early) > MAX_EARLY or self._early_length > _MAX_HEADER:
                # nothing will fill these gaps any more
                self._early.clear()
                self._early_length = 0
            return
        while sequence is not None:
            data = self._early.pop(sequence)
            self._early_length -= len(data)
            self.data += data[self._known(sequence) :]
            sequence = next((early for early in self._early if self._known(early) is not None), None)
        if self.data:
            self.packet = self.packet or segment.packet

    def _known(self, sequence: int) -> int | None:
        """Return how many bytes from *sequence* on are already there, or None if bytes before it are missing."""
        known = (self.first + len(self.data) - sequence) % _SEQUENCE
        # the numbers are a circle: a place far ahead looks like one far back
        return known if known < _SEQUENCE // 2 else None


class StreamHeaders:
    """Finds the beginnings of streams that may be headers; *without* counts the streams that begin otherwise."""

    def __init__(self) -> None:
        self.without = 0
        self._streams: OrderedDict[Flow, _Stream] = OrderedDict()
        # with the number of the first byte, which shows whether a stream with the same ends is a new one
        self._done: OrderedDict[Flow, int] = OrderedDict()

    def add(self, segment: Segment) -> Begun | None:
        """Add a segment, and return the beginning that it completes, or None."""
        if segment.begins:
            # the SYN itself takes a number, and may carry data (TCP Fast Open)
            segment = segment._replace(sequence=(segment.sequence + 1) % _SEQUENCE)
            flow = segment.flow
            known = self._streams[flow].first if flow in self._streams else self._done.get(flow)
            if known != segment.sequence:  # otherwise it is sent again, or captured twice
                self._done.pop(flow, None)
                self._follow(flow, segment.sequence)
        stream = self._streams.get(segment.flow) or self._take_up(segment)
        if stream is None:
            return None
        stream.add(segment)
        return self._look(segment.flow, stream, segment.ends)

    def _follow(self, flow: Flow, first: int) -> _Stream:
        stream = self._streams[flow] = _Stream(first)
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
        return stream

    def _take_up(self, segment: Segment) -> _Stream | None:
        """Follow a stream without a SYN in the capture, if its first bytes here can be a header."""
        if not segment.data or segment.flow in self._done:
            return None
        if signature_begins(segment.data, spec.V1_SIGNATURE, spec.V2_SIGNATURE):
            return self._follow(segment.flow, segment.sequence)
        self._finish(segment.flow, segment.sequence)
        return None

    def _finish(self, flow: Flow, first: int) -> None:
        self._streams.pop(flow, None)
        self._done[flow] = first
        if len(self._done) > _MAX_DONE:
            self._done.popitem(last=False)

    def _look(self, flow: Flow, stream: _Stream, ends: bool) -> Begun | None:
        data = stream.data
        begins = signature_begins(data, spec.V1_SIGNATURE, spec.V2_SIGNATURE)
        if not ends and (begins is None or (begins and not _is_whole(data))):
            return None
        self._finish(flow, stream.first)
        if not begins:
            self.without += bool(data)
            return None
        return Begun(stream.packet, flow, data)

    def rest(self) -> list[Begun]:
        """Return the beginnings of headers that have no end in the capture."""
        streams = [(flow, stream) for flow, stream in self._streams.items() if stream.data]
        self._streams.clear()
        return [Begun(stream.packet, flow, stream.data) for flow, stream in streams]


def _is_whole(data: bytes) -> bool:
    try:
        return not isinstance(_DETECT.parse(data, _MAX_HEADER), int)
    except ProxyProtocolError:  # read_header() says what is wrong
        return True
