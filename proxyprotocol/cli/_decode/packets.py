"""What is asked of Scapy, in one place: the payloads of a capture's packets. It is slow to import, and an extra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

# importing the layers is what registers the link types: Ethernet, loopback, Linux' cooked ones, bare IP
from scapy.config import conf
from scapy.error import Scapy_Exception
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapNgReader

from proxyprotocol.cli._decode.streams import Flow
from proxyprotocol.server._process.program import ProgramError

__all__: list[str] = []


class Payload(NamedTuple):
    """What a packet carries.

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
    """Read a capture, packet by packet.

    Args:
        file: What it is read from.

    Yields:
        What each packet carries; None where it is neither TCP nor UDP.

    Raises:
        ProgramError: It is damaged, or of a kind of network that is not known.
    """
    try:
        reader: Any = RawPcapNgReader(file)  # turns to the other format by itself
        for data, metadata in reader:
            # in the newer format each packet has its own
            yield _payload(data, metadata.linktype if hasattr(metadata, "linktype") else reader.linktype)
    except Scapy_Exception as error:
        raise ProgramError(f"the capture cannot be read: {error}") from None


def _payload(data: bytes, link_type: int) -> Payload | None:
    kind = conf.l2types.num2layer.get(link_type)
    if kind is None:
        raise ProgramError(f"the capture is of a kind of network that is not known here (link type {link_type})")
    try:
        packet: Any = kind(data)
    except Exception:  # whatever it stumbles over in a packet that is damaged
        return None
    segment = packet.getlayer(TCP if TCP in packet else UDP)
    network = _network(segment)
    if network is None:
        return None
    flow = (network.src, segment.sport, network.dst, segment.dport)
    content = segment.payload.original if segment.payload else b""
    if isinstance(segment, UDP):
        return Payload(flow, content, None, 0)
    return Payload(flow, content, int(segment.flags), segment.seq)


def _network(segment: Any) -> Any:
    """Give the IP header that this segment came in, the innermost of a tunnel."""
    layer = segment
    while layer is not None and not isinstance(layer, (IP, IPv6)):
        layer = layer.underlayer
    return layer
