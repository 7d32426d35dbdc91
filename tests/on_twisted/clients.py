"""Helpers for the tests of the Twisted client: a peer that records each segment it receives."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface import implementer

from proxyprotocol import ProxyProtocolV2, ProxyResult, ProxyResultIPv4, ProxyResultLocal
from proxyprotocol.twisted import ProxyProtocolClientEndpoint
from tests.on_twisted.reactors import App, AppFactory

LOCAL = ProxyProtocolV2().pack(ProxyResultLocal())
# the same client as in tests.on_twisted.reactors
NAMED = ProxyResultIPv4((IPv4Address("192.0.2.1"), 1000), (IPv4Address("198.51.100.2"), 2000))


class Peer(App):
    """A server that does not read headers and records each segment."""

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self.segments.append(data)
        super().dataReceived(data)


def peers(**what: Any) -> AppFactory:
    return AppFactory(kind=Peer, **what)


def endpoint_of(reactor: Any, port: Any, *arguments: Any, **keywords: Any) -> ProxyProtocolClientEndpoint:
    plain = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    return ProxyProtocolClientEndpoint(plain, *arguments, **keywords)


def saying(data: bytes) -> Callable[[Any], None]:
    return lambda app: app.transport.write(data)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(App):
    """An application that still writes after the other side has half-closed."""

    ended = 0

    def readConnectionLost(self) -> None:
        self.ended += 1
        self.transport.write(b"still here")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        self.ended += 10


def failing(transport: Any) -> ProxyResult:
    raise ZeroDivisionError("in the result function")
