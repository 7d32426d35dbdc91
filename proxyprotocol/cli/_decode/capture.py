"""The headers in a capture. Scapy reads the file and takes the packets apart, and does nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from proxyprotocol._wire import spec
from proxyprotocol.cli._decode.description import Description, describe_error, read_header
from proxyprotocol.cli._decode.streams import Begun, Flow, Segment, StreamHeaders
from proxyprotocol.datagram import unpack_datagram
from proxyprotocol.errors import ProxyProtocolError, ProxyProtocolSyntaxError
from proxyprotocol.result import describe_address
from proxyprotocol.server._process.program import ProgramError

__all__: list[str] = []

_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
# both byte orders, with microseconds and with nanoseconds
_PCAP: Final = (b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1")
# A block of a capture names its own length, up to 4 GiB. No packet and no list of names comes near this limit.
_MAX_READ: Final = 16 * 1024 * 1024

_SYN, _ACK, _END = 0x02, 0x10, 0x01 | 0x04  # FIN or RST


class Found(NamedTuple):
    """A header in a capture, right or wrong.

    Attributes:
        packet: The number of the packet in which it begins, counted from 1.
        transport: ``"TCP"`` or ``"UDP"``.
        sender: The sender's address.
        receiver: The receiver's address.
        described: What it says.
        data: Its bytes, and those that came with it.
    """

    packet: int
    transport: str
    sender: str
    receiver: str
    described: Description
    data: bytes


def is_capture(first: bytes) -> bool:
    """Return whether a file with the *first* bytes, at least 4, is a capture."""
    return first.startswith((_PCAPNG, *_PCAP))


def read_capture(first: bytes, file: BinaryIO) -> Capture:
    """Open a capture, of which the *first* bytes are already read.

    Raises:
        ProgramError: Scapy is missing, or cannot read this.
    """
    try:
        from proxyprotocol.cli._decode import packets
    except ImportError as error:
        raise ProgramError(
            f"Scapy, which reads captures, is not installed ({error}): pip install 'proxyprotocol[pcap]'"
        ) from None
    # its warnings about a file that is cut short would mix with our lines
    logging.getLogger("scapy").setLevel(logging.CRITICAL)
    return Capture(packets.packets(_Limited(first, file)))


class _Limited:
    """A file of which the first bytes are already read, and which refuses to read gigabytes at once."""

    def __init__(self, first: bytes, file: BinaryIO) -> None:
        self._first = first
        self._file = file

    def read(self, size: int) -> bytes:
        if size > _MAX_READ:
            raise ProgramError(f"the capture is damaged: one of its blocks claims {size} bytes")
        first, self._first = self._first[:size], self._first[size:]
        return first + self._file.read(size - len(first))


class Capture:
    """The headers in a capture, in their order. Iterate once; *packets* counts the packets so far."""

    def __init__(self, found: Iterator[Any]) -> None:
        self.packets = 0
        self._payloads = found
        self._streams = StreamHeaders()
        self._datagrams_without = 0
        self._others = 0

    @property
    def summary(self) -> str:
        """What else the capture held."""
        return (
            f"{self._streams.without} TCP streams and {self._datagrams_without} datagrams without one, "
            f"{self._others} packets that are neither TCP nor UDP"
        )

    def __iter__(self) -> Iterator[Found]:
        for payload in self._payloads:
            self.packets += 1
            found = self._look(payload)
            if found is not None:
                yield found
        for begun in self._streams.rest():
            yield _found_in_stream(begun)

    def _look(self, payload: Any) -> Found | None:
        if payload is None:
            self._others += 1
            return None
        if payload.tcp_flags is None:
            if payload.data.startswith((spec.V2_SIGNATURE, spec.V1_SIGNATURE)):
                return _found(self.packets, "UDP", payload.flow, _read_datagram(payload.data), payload.data)
            self._datagrams_without += 1
            return None
        begins = payload.tcp_flags & (_SYN | _ACK) == _SYN
        ends = bool(payload.tcp_flags & _END)
        begun = self._streams.add(Segment(self.packets, payload.flow, payload.sequence, begins, ends, payload.data))
        return None if begun is None else _found_in_stream(begun)


def _read_datagram(data: bytes) -> Description:
    try:
        unpack_datagram(data)
    except ProxyProtocolSyntaxError as error:  # among them version 1, which UDP does not allow
        return describe_error(data, error)
    except ProxyProtocolError:
        pass  # a wrong checksum: read_header() says more about it
    return read_header(data)


def _found_in_stream(begun: Begun) -> Found:
    return _found(begun.packet, "TCP", begun.flow, read_header(begun.data), begun.data)


def _found(packet: int, transport: str, flow: Flow, described: Description, data: bytes) -> Found:
    sender, receiver = describe_address(flow[:2]), describe_address(flow[2:])
    where = {"packet": packet, "transport": transport, "from": sender, "to": receiver}
    return Found(packet, transport, sender, receiver, where | described, data)
