r"""The PROXY protocol: tells any Python server who its client is, if a load balancer relays the connection.

The rules for the header are a :class:`Receiver`; every adapter takes one, or its keywords::

    >>> receiver = Receiver(trusted=["10.0.0.0/8"])
    >>> connection = receiver.connection(("10.0.0.1", 40000), ("10.0.0.9", 8080))
    >>> connection.feed(b"PROXY TCP4 203.0.113.7 198.51.100.9 5678 443\r\nHello")
    True
    >>> print(connection.result)
    203.0.113.7:5678 -> 198.51.100.9:443
    >>> connection.trailing
    b'Hello'

This module re-exports the public names of the core. The adapters are modules and packages of their own, such as
:mod:`proxyprotocol.twisted` and :mod:`proxyprotocol.asyncio`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.datagram import Datagram, DatagramReceiver, pack_datagram, unpack_datagram
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.errors import (
    ProxyProtocolChecksumError,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolMissingError,
    ProxyProtocolSyntaxError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
    ProxyProtocolWantRead,
)
from proxyprotocol.noop import ProxyProtocolNoop
from proxyprotocol.parser import HeaderParser
from proxyprotocol.policy import HeaderPolicy, PolicyCallable, TrustedProxies
from proxyprotocol.receiver import Receiver, ReceiverConnection
from proxyprotocol.result import (
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultType,
    ProxyResultUnix,
    ProxyResultUnknown,
    is_ipv4,
    is_ipv6,
    is_local,
    is_unix,
    is_unknown,
)
from proxyprotocol.spp import ProxyProtocolSPP
from proxyprotocol.tlv import ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2
from proxyprotocol.version import ProxyProtocolVersion

if TYPE_CHECKING:
    __version__: str
else:
    # type checkers must not see it, since it would hide every misspelt name from them
    from proxyprotocol.release import get_attribute as __getattr__  # noqa: F401

__all__ = [
    "Datagram",
    "DatagramReceiver",
    "HeaderParser",
    "HeaderPolicy",
    "PolicyCallable",
    "ProxyProtocol",
    "ProxyProtocolChecksumError",
    "ProxyProtocolDetect",
    "ProxyProtocolError",
    "ProxyProtocolExtTLV",
    "ProxyProtocolIncompleteError",
    "ProxyProtocolLimitError",
    "ProxyProtocolMissingError",
    "ProxyProtocolNoop",
    "ProxyProtocolSPP",
    "ProxyProtocolSSLTLV",
    "ProxyProtocolSyntaxError",
    "ProxyProtocolTLV",
    "ProxyProtocolTimeoutError",
    "ProxyProtocolUntrustedError",
    "ProxyProtocolV1",
    "ProxyProtocolV2",
    "ProxyProtocolVersion",
    "ProxyProtocolWantRead",
    "ProxyResult",
    "ProxyResultIPv4",
    "ProxyResultIPv6",
    "ProxyResultLocal",
    "ProxyResultType",
    "ProxyResultUnix",
    "ProxyResultUnknown",
    "Receiver",
    "ReceiverConnection",
    "TrustedProxies",
    "is_ipv4",
    "is_ipv6",
    "is_local",
    "is_unix",
    "is_unknown",
    "pack_datagram",
    "unpack_datagram",
]
