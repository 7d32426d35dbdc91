"""What the tests of the Twisted adapter share: an application that writes down what happens to it, and what is below.

In memory that is a transport that keeps its protocol as Twisted's own do; for the rest, real reactors, a new one for
each test, and a client.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyprotocol.twisted import ProxyProtocolWrapperFactory

PATIENCE = 10.0  # seconds; what is waited for takes a fraction of one, unless the machine is very busy

HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
CLIENT = IPv4Address("TCP", "192.0.2.1", 1000)
DESTINATION = IPv4Address("TCP", "198.51.100.2", 2000)
# the two ends of the connection that the header comes on
PROXY = IPv4Address("TCP", "10.1.2.3", 50000)
HERE = IPv4Address("TCP", "10.9.8.7", 8080)


# those of this test, for its end: a reactor closes what it reads or writes, and forgets who has paused
_begun: list[App] = []


class App(Protocol):
    """An application that writes down what happens to it."""

    factory: AppFactory
    transport: Any = None

    def __init__(self) -> None:
        self.received = b""
        self.reads = 0
        self.lost: list[Failure] = []

    def connectionMade(self) -> None:
        self.peer, self.host = self.transport.getPeer(), self.transport.getHost()
        self.factory.apps.append(self)
        _begun.append(self)
        self.factory.begin(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.reads += 1
        self.factory.read(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.append(reason)


class AppFactory(Factory):
    """The application's factory.

    Args:
        begin: What the application does in ``connectionMade``.
        read: What it does in ``dataReceived``.
        kind: The class of its protocols.
    """

    noisy = False

    def __init__(
        self,
        begin: Callable[[Any], object] = lambda app: None,
        read: Callable[[Any], object] = lambda app: None,
        kind: type[App] = App,
    ) -> None:
        self.begin, self.read, self.kind = begin, read, kind
        self.built: list[IAddress | None] = []
        self.apps: list[Any] = []

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        self.built.append(addr)
        app = self.kind()
        app.factory = self
        return app

    @property
    def app(self) -> Any:
        """The one application that has begun."""
        (app,) = self.apps
        return app


class RefusingFactory(AppFactory):
    """A factory that takes no connections."""

    def buildProtocol(self, addr: IAddress | None) -> None:
        self.built.append(addr)


class BrokenFactory(AppFactory):
    """A factory with a mistake in it."""

    def buildProtocol(self, addr: IAddress | None) -> None:
        raise ZeroDivisionError("in buildProtocol")


class MemoryTransport(StringTransport):
    """A transport that keeps its protocol, and its log prefix, as those of Twisted's reactors do."""

    protocol: Any = None
    sessionno = 7

    def __init__(self, peer: IAddress = PROXY, host: IAddress = HERE) -> None:
        super().__init__(hostAddress=host, peerAddress=peer)  # type: ignore[no-untyped-call]
        self.logstr = "ProxyProtocolWrapper,7,10.1.2.3"
        self.aborts = 0

    def abortConnection(self) -> None:
        self.aborts += 1
        super().abortConnection()  # type: ignore[no-untyped-call]

    def receive(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.protocol.dataReceived(piece)

    def lose(self, reason: Exception | None = None) -> None:
        protocol, self.protocol = self.protocol, None
        protocol.connectionLost(Failure(reason or ConnectionDone()))


def accept(factory: Any, transport: Any = None) -> Any:
    """Connect a factory's protocol to a transport as a listening port does, and give the transport."""
    transport = MemoryTransport() if transport is None else transport
    protocol = factory.buildProtocol(transport.getPeer())
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return transport


def wrap(factory: Any, **keywords: Any) -> Any:
    """Wrap a factory; time is a Clock of its own unless another is given."""
    wrapping: Any = ProxyProtocolWrapperFactory(factory, **{"clock": Clock(), **keywords})
    wrapping.noisy = False
    return wrapping


def _failure(event: LogEvent) -> Failure | None:
    # the second name is that of the old log module, which Twisted itself still writes to
    failure: Failure | None = event.get("log_failure") or event.get("failure")
    return failure


@implementer(ILogObserver)
class Log:
    """What has been logged during a test."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines of the adapter: level and text."""
        ours = (event for event in self.events if event.get("log_namespace") == "proxyprotocol.twisted")
        return [(event["log_level"].name, formatEvent(event)) for event in ours]

    @property
    def failures(self) -> list[Failure]:
        """What was logged with a traceback."""
        return [failure for event in self.events if (failure := _failure(event))]

    def flush(self, kind: type[BaseException]) -> int:
        """Take out the failures of a kind, which the test has expected, and give their number."""
        expected = [event for event in self.events if (failure := _failure(event)) and failure.check(kind)]
        self.events = [event for event in self.events if event not in expected]
        return len(expected)


REACTORS = {
    "select": ("selectreactor", "SelectReactor"),
    "poll": ("pollreactor", "PollReactor"),
    "epoll": ("epollreactor", "EPollReactor"),
    "asyncio": ("asyncioreactor", "AsyncioSelectorReactor"),
}


def install(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a reactor the one that ``from twisted.internet import reactor`` gives."""
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setattr(sys.modules["twisted.internet"], "reactor", reactor, raising=False)


def run(reactor: Any, scenario: Coroutine[Deferred[Any], Any, None]) -> None:
    """Run a reactor until a scenario is over, and raise what it has raised."""
    outcomes: list[Any] = []
    ended = ensureDeferred(scenario)

    def end(outcome: Any) -> None:
        outcomes.append(outcome)
        reactor.callLater(0, reactor.stop)
        for app in _begun:
            if app.transport.connected:
                app.transport.abortConnection()

    _begun.clear()
    reactor.callWhenRunning(ended.addBoth, end)
    guard = reactor.callLater(PATIENCE, ended.cancel)
    reactor.run(installSignalHandlers=False)
    if guard.active():
        guard.cancel()
    (outcome,) = outcomes
    if isinstance(outcome, Failure):
        outcome.raiseException()


async def until(reactor: Any, condition: Callable[[], object]) -> None:
    """Let the reactor turn until a condition is met."""
    while not condition():
        await deferLater(reactor, 0)


async def turns(reactor: Any, count: int = 20) -> None:
    """Let the reactor turn, for what must not happen to have its chance."""
    for _ in range(count):
        await deferLater(reactor, 0)


class Client(Protocol):
    """The other end of a real connection."""

    transport: Any = None

    def __init__(self) -> None:
        self.received = b""
        self.lost: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.append(reason)


async def connect(reactor: Any, port: Any, client: Client | None = None) -> Client:
    """Connect to a listening port."""
    connected = Client() if client is None else client
    factory = ClientFactory()
    factory.noisy = False
    factory.buildProtocol = lambda addr: connected  # type: ignore[method-assign]
    address = port.getHost()
    if isinstance(address, UNIXAddress):
        reactor.connectUNIX(os.fsdecode(address.name or b""), factory)
    else:
        reactor.connectTCP(address.host, address.port, factory)
    await until(reactor, lambda: connected.connected)
    return connected


def listen(reactor: Any, factory: Any) -> Any:
    """Listen on a free port of this machine."""
    return reactor.listenTCP(0, factory, interface="127.0.0.1")


async def connected(reactor: Any, factory: Any, data: bytes = b"") -> Client:
    """A client of the factory, wrapped, that has sent its first bytes in one segment."""
    client = await connect(reactor, listen(reactor, wrap(factory, clock=reactor)))
    client.transport.write(data)
    return client


def watched(transport: Any) -> list[str]:
    """What of ours is left on a transport that should have none."""
    return [name for name in ("stopReading", "startReading") if name in vars(transport)]
