"""The headers in a capture. Scapy reads the file and takes its packets apart; it is an extra, and slow to import."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

# the import of the layers registers the link types: Ethernet, loopback, Linux' cooked ones, bare IP
from scapy.config import conf
from scapy.error import Scapy_Exception
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapNgReader

from proxyprotocol._wire import spec
from proxyprotocol.cli._decode.description import Description, describe
from proxyprotocol.cli._decode.input import Input
from proxyprotocol.cli._decode.streams import Flow, Segment, StreamHeaders
from proxyprotocol.result import describe_address
from proxyprotocol.server._process.program import ProgramError

# A block of a capture names its own length, up to 4 GiB. No packet and no list of names comes near this limit.
_MAX_READ: Final = 16 * 1024 * 1024
_SYN, _ACK, _END = 0x02, 0x10, 0x01 | 0x04  # FIN or RST


class _Limited:
    """A file, without the *first* bytes that were read already, that refuses to read gigabytes at once."""

    def __init__(self, first: bytes, file: Input) -> None:
        self._first = first
        self._file = file

    def read(self, size: int) -> bytes:
        if size > _MAX_READ:
            raise ProgramError(f"the capture is damaged: one of its blocks claims {size} bytes")
        first, self._first = self._first[:size], self._first[size:]
        return first + self._file.read(size - len(first))


class Capture:
    """The headers in a capture, of which the *first* bytes were read already; with *spp*, also those of that protocol.

    Iterate once: *packets* counts the packets so far. A damaged file raises :class:`ProgramError`.
    """

    def __init__(self, first: bytes, file: Input, spp: bool = False) -> None:
        self._spp = spp
        self.packets = 0
        self._file: Any = _Limited(first, file)
        self._streams = StreamHeaders()
        self._datagrams_without = 0
        self._others = 0
        # Scapy's warnings about a file that is cut short would mix with our lines
        logging.getLogger("scapy").setLevel(logging.CRITICAL)

    @property
    def summary(self) -> str:
        """What the capture held besides headers."""
        return (
            f"{self._streams.without} TCP streams and {self._datagrams_without} datagrams without one, "
            f"{self._others} packets that are neither TCP nor UDP"
        )

    def __iter__(self) -> Iterator[tuple[Description, bytes]]:
        """Yield the description of each header, and the bytes that it describes."""
        for layers in _read_packets(self._file):
            self.packets += 1
            if layers is None:
                self._others += 1
                continue
            network, transport = layers
            flow = (network.src, transport.sport, network.dst, transport.dport)
            data = transport.payload.original if transport.payload else b""
            if isinstance(transport, TCP):
                flags = int(transport.flags)
                begins, ends = flags & (_SYN | _ACK) == _SYN, bool(flags & _END)
                stream = self._streams.add(Segment(self.packets, flow, transport.seq, begins, ends, data))
                if stream is not None:
                    yield _describe("TCP", stream.packet, stream.flow, stream.data), stream.data
            elif self._spp and data.startswith(spec.SPP_SIGNATURE):
                yield _describe("UDP", self.packets, flow, data, is_spp=True), data
            elif data.startswith((spec.V2_SIGNATURE, spec.V1_SIGNATURE)):
                yield _describe("UDP", self.packets, flow, data), data
            else:
                self._datagrams_without += 1
        for stream in self._streams.rest():
            yield _describe("TCP", stream.packet, stream.flow, stream.data), stream.data


def _describe(transport: str, packet: int, flow: Flow, data: bytes, is_spp: bool = False) -> Description:
    sender, receiver = describe_address(flow[:2]), describe_address(flow[2:])
    place = {"packet": packet, "transport": transport, "from": sender, "to": receiver}
    return place | describe(data, is_datagram=transport == "UDP", is_spp=is_spp)


def _read_packets(file: Any) -> Iterator[tuple[Any, Any] | None]:
    """Yield the IP and the TCP or UDP layer of each packet, or None for a packet without them."""
    try:
        reader: Any = RawPcapNgReader(file)  # it recognises the older format by itself
        for data, metadata in reader:
            # in the newer format each packet has its own link type
            yield _dissect(data, metadata.linktype if hasattr(metadata, "linktype") else reader.linktype)
    except Scapy_Exception as error:
        raise ProgramError(f"the capture cannot be read: {error}") from None


def _dissect(data: bytes, link_type: int) -> tuple[Any, Any] | None:
    kind = conf.l2types.num2layer.get(link_type)
    if kind is None:
        raise ProgramError(f"the capture is of an unknown kind of network (link type {link_type})")
    try:
        packet: Any = kind(data)
    except Exception:  # Scapy raises anything for a damaged packet
        return None
    transport = packet.getlayer(TCP if TCP in packet else UDP)
    network: Any = transport  # then the IP header around it, the innermost of a tunnel
    while network is not None and not isinstance(network, (IP, IPv6)):
        network = network.underlayer
    return None if network is None else (network, transport)
