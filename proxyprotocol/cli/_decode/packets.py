"""All that Scapy does here: the payloads of a capture's packets. It is an extra, and slow to import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

# the import of the layers registers the link types: Ethernet, loopback, Linux' cooked ones, bare IP
from scapy.config import conf
from scapy.error import Scapy_Exception
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapNgReader

from proxyprotocol.cli._decode.streams import Flow
from proxyprotocol.server._process.program import ProgramError

__all__: list[str] = []


class Payload(NamedTuple):
    """The content of a packet.

    Attributes:
        flow: Sender and receiver, each with its port.
        data: The bytes.
        tcp_flags: The flags of TCP; None for UDP.
        sequence: The sequence number of TCP.
    """

    flow: Flow
    data: bytes
    tcp_flags: int | None
    sequence: int


def packets(file: Any) -> Iterator[Payload | None]:
    """Yield the payload of each packet of a capture, or None if it is neither TCP nor UDP.

    Raises:
        ProgramError: The capture is damaged, or of an unknown kind of network.
    """
    try:
        reader: Any = RawPcapNgReader(file)  # it recognises the other format by itself
        for data, metadata in reader:
            # in the newer format each packet has its own link type
            yield _payload(data, metadata.linktype if hasattr(metadata, "linktype") else reader.linktype)
    except Scapy_Exception as error:
        raise ProgramError(f"the capture cannot be read: {error}") from None


def _payload(data: bytes, link_type: int) -> Payload | None:
    kind = conf.l2types.num2layer.get(link_type)
    if kind is None:
        raise ProgramError(f"the capture is of an unknown kind of network (link type {link_type})")
    try:
        packet: Any = kind(data)
    except Exception:  # Scapy raises anything for a damaged packet
        return None
    segment = packet.getlayer(TCP if TCP in packet else UDP)
    network: Any = segment  # then the IP header around it, the innermost of a tunnel
    while network is not None and not isinstance(network, (IP, IPv6)):
        network = network.underlayer
    if network is None:
        return None
    flow = (network.src, segment.sport, network.dst, segment.dport)
    content = segment.payload.original if segment.payload else b""
    if isinstance(segment, UDP):
        return Payload(flow, content, None, 0)
    return Payload(flow, content, int(segment.flags), segment.seq)
