"""The first bytes of TCP streams, put together from their segments, with a limit on everything that is kept."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple, TypeAlias

from proxyprotocol._wire import spec
from proxyprotocol.codec import signature_begins
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.errors import ProxyProtocolError

__all__: list[str] = []

#: How many streams are followed at a time until their header is complete. Each holds two headers' worth of bytes at
#: most: 128 MiB for all, where a busy capture has some KiB.
MAX_STREAMS: Final = 1024
#: How many streams are remembered whose beginning has been seen, so that what is sent again is not taken for another.
_MAX_DONE: Final = 65_536
_MAX_HEADER: Final = spec.V2_MAX_LENGTH
#: How many segments of a stream are kept that came before their turn: a network swaps a few, and each is looked at
#: again whenever one comes in its turn.
MAX_EARLY: Final = 256

_SEQUENCE: Final = 1 << 32
_DETECT: Final = ProxyProtocolDetect()

Flow: TypeAlias = tuple[str, int, str, int]


class Segment(NamedTuple):
    """What a packet brought to a stream.

    Attributes:
        packet: The packet's number in its capture, from 1 on.
        flow: Sender and receiver, each with its port.
        sequence: Its sequence number.
        begins: Whether it is the first of the one that connects, a SYN without an ACK.
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
        packet: The number of the packet that they began in.
        flow: The stream.
        data: The header and what came with it; or what there is of it, where no more will come.
    """

    packet: int
    flow: Flow
    data: bytes


class _Stream:
    """What has come of a stream, in its order.

    Args:
        first: The sequence number of its first byte.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.packet = 0
        self.data = b""
        self._early: dict[int, bytes] = {}
        self._early_length = 0  # bytes

    def add(self, segment: Segment) -> None:
        """Take a segment; of what came again, the first counts."""
        if not segment.data:
            return
        if not self._append(segment.sequence, segment.data):
            self._keep(segment.sequence, segment.data)
            return
        if self.data:
            self.packet = self.packet or segment.packet
        while (sequence := self._find_following()) is not None:
            data = self._early.pop(sequence)
            self._early_length -= len(data)
            self._append(sequence, data)

    def _append(self, sequence: int, data: bytes) -> bool:
        """Append what is new of a segment; False for one that is ahead."""
        known = self._known(sequence)
        if known is None:
            return False
        self.data += data[known:]
        return True

    def _keep(self, sequence: int, data: bytes) -> None:
        if sequence in self._early:
            return
        self._early[sequence] = data
        self._early_length += len(data)
        if len(self._early) > MAX_EARLY or self._early_length > _MAX_HEADER:
            # it has gaps that nobody will fill
            self._early.clear()
            self._early_length = 0

    def _find_following(self) -> int | None:
        """Find an early segment whose turn has come."""
        return next((sequence for sequence in self._early if self._known(sequence) is not None), None)

    def _known(self, sequence: int) -> int | None:
        """Tell how many bytes from a place on are there already; None for a place that is ahead."""
        known = (self.first + len(self.data) - sequence) % _SEQUENCE
        # a place that is ahead looks like one that is far behind: the numbers are a circle
        return known if known < _SEQUENCE // 2 else None


class StreamHeaders:
    """Finds the beginnings of streams that may be headers.

    Attributes:
        without: How many streams began with something else.
    """

    def __init__(self) -> None:
        self.without = 0
        self._streams: OrderedDict[Flow, _Stream] = OrderedDict()
        # each with the number of its first byte, by which a new stream with the same ends is told from the old one
        self._done: OrderedDict[Flow, int] = OrderedDict()

    def add(self, segment: Segment) -> Begun | None:
        """Take a segment.

        Args:
            segment: The segment.

        Returns:
            The beginning that it completes, if it does.
        """
        if segment.begins:
            # the SYN itself takes a number, and may carry data (TCP Fast Open)
            segment = segment._replace(sequence=(segment.sequence + 1) % _SEQUENCE)
            self._begin(segment)
        stream = self._streams.get(segment.flow) or self._take_up(segment)
        if stream is None:
            return None
        stream.add(segment)
        return self._look(segment.flow, stream, segment.ends)

    def _begin(self, segment: Segment) -> None:
        flow, first = segment.flow, segment.sequence
        known = self._streams[flow].first if flow in self._streams else self._done.get(flow)
        if known == first:
            return  # sent again, or captured twice
        self._done.pop(flow, None)
        self._follow(flow, first)

    def _follow(self, flow: Flow, first: int) -> _Stream:
        stream = self._streams[flow] = _Stream(first)
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
        return stream

    def _take_up(self, segment: Segment) -> _Stream | None:
        """Take up a stream whose SYN is not in the capture, if its first bytes here are a header's."""
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
        """Give the beginnings of headers whose end is not in the capture."""
        streams = [(flow, stream) for flow, stream in self._streams.items() if stream.data]
        self._streams.clear()
        return [Begun(stream.packet, flow, stream.data) for flow, stream in streams]


def _is_whole(data: bytes) -> bool:
    try:
        return not isinstance(_DETECT.parse(data, _MAX_HEADER), int)
    except ProxyProtocolError:  # what is wrong with it will be told
        return True
