"""One side of the comparison in ``codecs.py``: runs statements on whatever ``proxyprotocol`` this interpreter imports.

Not for running by hand. Both sides run this same file, each in a process of its own: two packages of one name cannot
be imported side by side, and a loop in the parent process would meet other caches than one in a child.

Each line of standard input is a JSON list: ``["time", statement, calls]`` is answered with the nanoseconds that so many
calls took, ``["value", expression]`` with the ``repr`` of what the expression gives.
"""

from __future__ import annotations

import json
import platform
import struct
import sys
import timeit
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from socket import SOCK_STREAM
from typing import Any

__all__: list[str] = []

SOURCE = (IPv4Address("203.0.113.7"), 56324)
DEST = (IPv4Address("198.51.100.9"), 443)
SOURCE6 = (IPv6Address("2001:db8::c0:ffee"), 56324)
DEST6 = (IPv6Address("2001:db8:1::443"), 443)

# ALPN, authority, CRC32C, unique id, SSL with version, CN and cipher: 125 bytes of what a TLS frontend sends. In
# ascending order, because the established package sorts the TLVs before it computes the checksum and refuses others.
TLVS = (
    b"\x01\x00\x02h2"
    b"\x02\x00\x10shop.example.com"
    b"\x03\x00\x04\x42\xf3\x09\xe1"
    b"\x05\x00\x1b7F000001:DC04_7F000001:01BB"
    b" \x00=\x01\x00\x00\x00\x00"
    b'!\x00\x07TLSv1.3"\x00\x12client.example.com#\x00\x16TLS_AES_256_GCM_SHA384'
)


def v2_header(family: int, source: tuple[Any, int], dest: tuple[Any, int], tlvs: bytes = b"") -> bytes:
    """Write a version 2 header by hand, so that neither library makes the input."""
    block: bytes = source[0].packed + dest[0].packed + struct.pack("!HH", source[1], dest[1])
    return struct.pack("!12sBBH", b"\r\n\r\n\x00\r\nQUIT\n", 0x21, family, len(block + tlvs)) + block + tlvs


def namespace(checksum_switch: dict[str, bool]) -> dict[str, Any]:
    """Build the objects that the statements name.

    Args:
        checksum_switch: The arguments for the version 2 codec.
    """
    from proxyprotocol.detect import ProxyProtocolDetect
    from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6
    from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
    from proxyprotocol.v1 import ProxyProtocolV1
    from proxyprotocol.v2 import ProxyProtocolV2

    ssl = ProxyProtocolSSLTLV(
        has_ssl=True, verified=True, version="TLSv1.3", cn="client.example.com", cipher="TLS_AES_256_GCM_SHA384"
    )
    tlv = ProxyProtocolTLV(alpn=b"h2", authority="shop.example.com", unique_id=b"7F000001:DC04_7F000001:01BB", ssl=ssl)
    return {
        "v1": ProxyProtocolV1(),
        "v2": ProxyProtocolV2(**checksum_switch),
        "detect": ProxyProtocolDetect(),
        "V1_IPV4": b"PROXY TCP4 203.0.113.7 198.51.100.9 56324 443\r\n",
        "V1_IPV6": b"PROXY TCP6 2001:db8::c0:ffee 2001:db8:1::443 56324 443\r\n",
        "V2_IPV4": v2_header(0x11, SOURCE, DEST),
        "V2_IPV6": v2_header(0x21, SOURCE6, DEST6),
        "V2_TLVS": v2_header(0x11, SOURCE, DEST, TLVS),
        "IPv4": ProxyResultIPv4,
        "SOURCE": SOURCE,
        "DEST": DEST,
        "STREAM": SOCK_STREAM,
        "tlv": tlv,
        "ipv4": ProxyResultIPv4(SOURCE, DEST, protocol=SOCK_STREAM),
        "ipv6": ProxyResultIPv6(SOURCE6, DEST6, protocol=SOCK_STREAM),
        "tlvs": ProxyResultIPv4(SOURCE, DEST, protocol=SOCK_STREAM, tlv=tlv),
    }


def identity() -> dict[str, str]:
    """Tell the parent what is measured here."""
    import proxyprotocol

    return {"package": proxyprotocol.__file__ or "", "python": platform.python_version()}


def nanoseconds(timer: timeit.Timer, calls: int) -> float:
    """Time a loop; the garbage collector is off meanwhile, as :mod:`timeit` does it."""
    return timer.timeit(calls) * 1e9


def serve(names: dict[str, Any]) -> None:
    """Answer the parent's orders until it closes the pipe."""
    timers: dict[str, timeit.Timer] = {}
    answers: dict[str, Callable[..., Any]] = {
        "value": lambda expression: repr(eval(expression, names)),
        "time": lambda statement, calls: nanoseconds(
            timers.setdefault(statement, timeit.Timer(statement, globals=names)), calls
        ),
    }
    print(json.dumps(identity()), flush=True)
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        print(json.dumps(answers[order](*arguments)), flush=True)


def main(variant: str) -> None:
    """Run one side.

    Args:
        variant: ``checksum`` to pack with a CRC32C; ``argument`` and ``hide`` pack without one: by the codec's
            argument, which only this package has, or by hiding the crc32c library, which is the established
            package's only way.
    """
    if variant == "hide":
        sys.modules["crc32c"] = None  # type: ignore[assignment]
    serve(namespace({"checksum": False} if variant == "argument" else {}))


if __name__ == "__main__":
    main(sys.argv[1])
