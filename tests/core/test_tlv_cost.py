"""The cost of TLVs grows only with their bytes, whatever a sender writes.

A step is a call, a line, a round of a loop or a return. Their count is the same on every machine.
"""

from __future__ import annotations

import copy
import pickle
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any, Final

import pytest

from proxyprotocol import ProxyProtocolV2, ProxyResultIPv4, ProxyResultUnknown, Receiver
from proxyprotocol.cli._decode.description import describe  # the public command only prints it
from proxyprotocol.server._relay.outgoing import Incoming, Outgoing  # the part of the relay that makes headers
from proxyprotocol.tlv import TLV, ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV
from tests.vectors import IPV4, tlv

V2 = ProxyProtocolV2()
MORE: Final = 4
# allows for a fixed cost, and for a set that grows
AT_MOST: Final = 1.25 * MORE


def steps(operation: Callable[[], object]) -> int:
    """Count the steps of an operation."""
    operation()  # the first call pays for imports and caches
    counted = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal counted
        counted += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        operation()
    finally:
        sys.settrace(before)
    return counted


def many_types(size: int) -> bytes:
    # types without rules of their own
    return b"".join(tlv(kind, b"v") for kind in range(0x30, 0x30 + size // 4))


def many_of_one_type(size: int) -> bytes:
    return tlv(0xE2) * (size // 3)


def many_in_turn(size: int) -> bytes:
    return b"".join(tlv(0xE0 + number % 16) for number in range(size // 3))


def much_padding(size: int) -> bytes:
    return tlv(4) * (size // 3)


def one_ssl(size: int) -> bytes:
    return tlv(0x20, bytes(5) + tlv(0x21) * (size // 3))


WIRES: Final = [many_types, many_of_one_type, many_in_turn, much_padding, one_ssl]
PROPERTIES: Final = [name for name, kind in vars(ProxyProtocolTLV).items() if isinstance(kind, property)]


def result_of(wire: bytes) -> ProxyResultIPv4:
    return ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(wire))


def unpacking(header: bytes) -> Callable[[], object]:
    return lambda: V2.unpack(header)


def asking(name: str, wire: bytes) -> Callable[[], object]:
    made = ProxyProtocolTLV(wire)
    return lambda: getattr(made, name)


def describing(wire: bytes) -> Callable[[], object]:
    header = V2.pack(result_of(wire))
    return lambda: describe(header)


def relaying(wire: bytes) -> Callable[[], object]:
    """Make the relay's header from a received one, with ``tlv=unique-id``."""
    header = ProxyProtocolV2(checksum=False).pack(result_of(wire))
    receiver = Receiver(max_header=len(header))
    sock: Any = SimpleNamespace(family=socket.AF_INET, type=socket.SOCK_STREAM)
    outgoing = Outgoing(V2, frozenset({"unique-id"}))

    def relay() -> bytes:
        received = receiver.connection(None, None)
        received.feed(header)
        incoming = Incoming(socket=sock, peername=("192.0.2.8", 1), sockname=("192.0.2.9", 80), ssl_object=None)
        sent = outgoing.header(incoming, received.believed, header, None, None, sock, None)
        assert len(sent) == len(header) + 3 + 16
        return sent

    return relay


# each prepares an operation on the bytes, and returns it
OPERATIONS: Final[dict[str, Callable[[bytes], Callable[[], object]]]] = {
    "TLV(data)": lambda wire: lambda: TLV(wire),
    "TLV(init)": lambda wire: lambda: TLV(init=TLV(wire)),
    "TLV(data, init)": lambda wire: lambda: TLV(wire, TLV(wire)),
    "TLV(data, a mapping)": lambda wire: lambda: TLV(wire, dict(TLV(wire))),
    "TLV(data, other types)": lambda wire: lambda: TLV(wire, {kind ^ 0x30: b"" for kind in TLV(wire)}),
    "ProxyProtocolTLV(data, keywords)": lambda wire: lambda: ProxyProtocolTLV(wire, alpn=b"h2", netns="n", crc32c=1),
    "ProxyProtocolSSLTLV": lambda wire: lambda: ProxyProtocolSSLTLV(bytes(5) + wire, cn="x"),
    "ProxyProtocolExtTLV": lambda wire: lambda: ProxyProtocolExtTLV(ProxyProtocolExtTLV.MAGIC_PREFIX + wire, dnsbl="x"),
    "bytes": lambda wire: lambda: bytes(TLV(wire)),
    "==": lambda wire: lambda: TLV(wire) == TLV(wire),
    "== a mapping": lambda wire: lambda: TLV(wire) == dict(TLV(wire)),
    "hash": lambda wire: lambda: hash(TLV(wire)),
    "repr": lambda wire: lambda: repr(TLV(wire)),
    "copy": lambda wire: lambda: copy.copy(TLV(wire)),
    "pickle": lambda wire: lambda: pickle.loads(pickle.dumps(TLV(wire))),
    "items": lambda wire: lambda: list(TLV(wire).items()),
    "getall": lambda wire: lambda: [values(kind) for values in [TLV(wire).getall] for kind in TLV(wire)],
    "verify_checksum": lambda wire: lambda: ProxyProtocolTLV(wire, crc32c=1).verify_checksum(),
    "with_checksum": lambda wire: lambda: ProxyProtocolTLV(wire, auto_crc32c=True).with_checksum(),
    "pack": lambda wire: lambda: V2.pack(result_of(wire)),
    "unpack": lambda wire: unpacking(V2.pack(result_of(wire))),
    "unpack LOCAL": lambda wire: unpacking(V2.pack(ProxyResultUnknown(tlv=ProxyProtocolTLV(wire)))),
    "decode": describing,
    "relay": relaying,
    **{name: partial(asking, name) for name in PROPERTIES},
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("wire", WIRES)
def test_the_cost_of_an_operation_is_proportional_to_the_bytes(
    wire: Callable[[int], bytes], operation: Callable[[bytes], Callable[[], object]]
) -> None:
    few, many = wire(200), wire(200 * MORE)
    assert steps(operation(many)) <= AT_MOST * steps(operation(few))


def test_the_cost_of_relaying_64_kib_with_a_unique_id_is_proportional_to_the_bytes() -> None:
    few, many = tlv(0xE2) * 100, tlv(0xE2) * 21_000
    assert steps(relaying(many)) <= 210 * steps(relaying(few))
