"""The first bytes of TCP streams, put together from their segments. Everything that is kept has a limit."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple, TypeAlias

from proxyprotocol._wire import spec
from proxyprotocol.codec import signature_begins
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.errors import ProxyProtocolError

#: How many streams may wait for the rest of their header at a time. Each holds at most two headers' worth of bytes: 128
#: MiB for all, while a busy capture needs a few KiB.
MAX_STREAMS: Final = 1024
#: How many finished streams are remembered, so that a segment that is sent again does not count as a new stream.
_MAX_DONE: Final = 65_536
#: How many segments of a stream may come before their turn. A network swaps a few, and the stream looks at each of them
#: whenever the next one in order comes.
MAX_EARLY: Final = 256

_NUMBERS: Final = 1 << 32  # sequence numbers; after the last one comes 0
_DETECT: Final = ProxyProtocolDetect()

Flow: TypeAlias = tuple[str, int, str, int]


class Segment(NamedTuple):
    """The part of a stream that one packet holds."""

    packet: int  # its number in the capture, counted from 1
    flow: Flow
    sequence: int
    begins: bool  # the client's first segment, a SYN without an ACK
    ends: bool  # the last one, a FIN or a RST
    data: bytes


class Stream:
    """The first bytes of a stream: *data* starts in packet number *packet*, at the sequence number *first*."""

    def __init__(self, flow: Flow, first: int) -> None:
        self.flow = flow
        self.first = first
        self.packet = 0
        self.data = b""
        self._early: dict[int, bytes] = {}

    def add(self, segment: Segment) -> None:
        """Add a segment. If bytes come twice, the first ones count."""
        if not segment.data:
            return
        # sequence numbers are a circle: of the two ways around, the shorter one counts
        at = (segment.sequence - self.first + _NUMBERS // 2) % _NUMBERS - _NUMBERS // 2
        self._early.setdefault(at, segment.data)
        if at > len(self.data):
            if len(self._early) > MAX_EARLY or sum(map(len, self._early.values())) > spec.V2_MAX_LENGTH:
                self._early.clear()  # nothing will fill these gaps any more
            return
        while ready := [at for at in self._early if at <= len(self.data)]:
            for at in ready:
                self.data += self._early.pop(at)[len(self.data) - at :]
        if self.data:
            self.packet = self.packet or segment.packet


class StreamHeaders:
    """Finds the streams that may begin with a header; *without* counts the streams that begin otherwise."""

    def __init__(self) -> None:
        self.without = 0
        self._streams: OrderedDict[Flow, Stream] = OrderedDict()
        # The sequence number of the first byte tells a SYN that is sent again from the SYN of a new stream.
        self._done: OrderedDict[Flow, int] = OrderedDict()

    def add(self, segment: Segment) -> Stream | None:
        """Add a segment. Return its stream once it holds a whole header, a wrong one, or all that will come of one."""
        flow = segment.flow
        stream = self._streams.get(flow)
        if segment.begins:
            # the SYN itself takes a number, and may carry data (TCP Fast Open)
            segment = segment._replace(sequence=(segment.sequence + 1) % _NUMBERS)
            known = self._done.get(flow) if stream is None else stream.first
            if known != segment.sequence:  # otherwise it was sent again, or captured twice
                self._done.pop(flow, None)
                stream = self._follow(segment)
        if stream is None:
            if not segment.data or flow in self._done:
                return None
            # The capture has no SYN of this stream. These may be its first bytes only if they begin a header.
            if not _has_signature(segment.data):
                self._finish(flow, segment.sequence)
                return None
            stream = self._follow(segment)
        stream.add(segment)
        try:
            incomplete = isinstance(_DETECT.parse(stream.data), int)
        except ProxyProtocolError:  # describe() says what is wrong
            incomplete = False
        if incomplete and not segment.ends:
            return None
        self._finish(flow, stream.first)
        if _has_signature(stream.data):
            return stream
        self.without += bool(stream.data)
        return None

    def _follow(self, segment: Segment) -> Stream:
        stream = self._streams[segment.flow] = Stream(segment.flow, segment.sequence)
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
        return stream

    def _finish(self, flow: Flow, first: int) -> None:
        self._streams.pop(flow, None)
        self._done[flow] = first
        if len(self._done) > _MAX_DONE:
            self._done.popitem(last=False)

    def rest(self) -> list[Stream]:
        """Return the streams that the capture cuts within their header."""
        return [stream for stream in self._streams.values() if stream.data]


def _has_signature(data: bytes) -> bool | None:
    return signature_begins(data, spec.V1_SIGNATURE, spec.V2_SIGNATURE)
