"""Helpers for the tests of Twisted's datagrams: an application that records its events, and peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from proxyprotocol import ProxyResult
from proxyprotocol.twisted import ProxyProtocolDatagramWrapper
from tests.on_twisted.reactors import until
from tests.vectors import IPV4_BLOCK, PROXY, v2

CLIENT = ("192.0.2.1", 1000)
HEADER = v2(PROXY, 0x12, IPV4_BLOCK)


class App(DatagramProtocol):
    """An application that records its events, and echoes each datagram."""

    transport: Any = None

    def __init__(self, received: Callable[[App, bytes, Any], object] | None = None) -> None:
        self._received = received
        self.events: list[Any] = []
        self.datagrams: list[tuple[bytes, Any]] = []
        self.results: list[ProxyResult | None] = []

    def startProtocol(self) -> None:
        self.events.append(("start", self.transport is not None))

    def stopProtocol(self) -> None:
        self.events.append(("stop", self.transport is not None))

    def connectionRefused(self) -> None:
        self.events.append("refused")

    def datagramReceived(self, data: bytes, addr: Any) -> None:
        self.datagrams.append((data, addr))
        self.results.append(self.transport.getProxyResult(addr))
        if self._received is None:
            self.transport.write(b"re: " + data, addr)
        else:
            self._received(self, data, addr)


class Peer(DatagramProtocol):
    """A proxy, or a client that connects directly."""

    transport: Any = None
    noisy = False

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def datagramReceived(self, data: bytes, addr: Any) -> None:
        self.received.append(data)


def keep_quiet(app: App, data: bytes, addr: Any) -> None:
    """Send no answer."""


def listen(reactor: Any, app: Any, interface: str = "127.0.0.1", **keywords: Any) -> Any:
    app.noisy = False
    return reactor.listenUDP(0, ProxyProtocolDatagramWrapper(app, **keywords), interface=interface)


def peer_of(reactor: Any, port: Any) -> Peer:
    """Return a socket that sends to the port."""
    peer, here = Peer(), port.getHost()
    reactor.listenUDP(0, peer, interface=here.host)
    peer.transport.connect(here.host, here.port)
    return peer


async def ask(reactor: Any, peer: Peer, *datagrams: bytes) -> list[bytes]:
    """Send each datagram after the answer to the one before, and return the answers."""
    for count, datagram in enumerate(datagrams, len(peer.received) + 1):
        peer.transport.write(datagram)
        await until(reactor, lambda count=count: len(peer.received) == count)  # type: ignore[misc]
    return peer.received[-len(datagrams) :]
