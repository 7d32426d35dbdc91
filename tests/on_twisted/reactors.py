"""Helpers for the tests of Twisted's adapter: an application that records its events, and what runs it.

Tests in memory use a transport that keeps its protocol as Twisted's own do. The others use a new reactor for each test,
and a client.
"""

from __future__ import annotations

import io
import json
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
from twisted.logger import ILogObserver, LogEvent, formatEvent, jsonFileLogObserver
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyprotocol.twisted import ProxyProtocolWrapperFactory

FIELDS = (
    *("listener", "reason", "refusals"),
    *("network_peer_address", "network_peer_port", "client_address", "client_port"),
)
PATIENCE = 10.0  # seconds; each wait takes a fraction of one, unless the machine is very busy

HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
CLIENT = IPv4Address("TCP", "192.0.2.1", 1000)
DESTINATION = IPv4Address("TCP", "198.51.100.2", 2000)
# the two ends of the real connection
PROXY = IPv4Address("TCP", "10.1.2.3", 50000)
HERE = IPv4Address("TCP", "10.9.8.7", 8080)


# the applications of this test: at its end the reactor closes what it reads or writes, but not paused connections
_begun: list[App] = []


class App(Protocol):
    """An application that records its events."""

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
        """The only application that has started."""
        (app,) = self.apps
        return app


class RefusingFactory(AppFactory):
    """A factory that rejects every connection."""

    def buildProtocol(self, addr: IAddress | None) -> None:
        self.built.append(addr)


class BrokenFactory(AppFactory):
    """A factory that raises an error."""

    def buildProtocol(self, addr: IAddress | None) -> None:
        raise ZeroDivisionError("in buildProtocol")


class MemoryTransport(StringTransport):
    """A transport that keeps its protocol and its log prefix as those of Twisted's reactors do."""

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
    """Connect a factory's protocol to a transport as a listening port does, and return the transport."""
    transport = MemoryTransport() if transport is None else transport
    protocol = factory.buildProtocol(transport.getPeer())
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return transport


def wrap(factory: Any, **keywords: Any) -> Any:
    """Wrap a factory, with its own Clock unless another is passed."""
    wrapping: Any = ProxyProtocolWrapperFactory(factory, **{"clock": Clock(), **keywords})
    wrapping.noisy = False
    return wrapping


def _failure(event: LogEvent) -> Failure | None:
    # the second name comes from the old log module, which Twisted itself still uses
    failure: Failure | None = event.get("log_failure") or event.get("failure")
    return failure


@implementer(ILogObserver)
class Log:
    """Everything that a test logs."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)

    @property
    def all_lines(self) -> list[tuple[str, str]]:
        """The lines of the adapter, as level and text."""
        ours = (event for event in self.events if event.get("log_namespace") == "proxyprotocol.twisted")
        return [(event["log_level"].name, formatEvent(event)) for event in ours]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines of the adapter, without those of listeners that start."""
        return [(level, text) for level, text in self.all_lines if not text.startswith("Reads ")]

    @property
    def starts(self) -> list[tuple[str, str]]:
        """The lines of listeners that start."""
        return [(level, text) for level, text in self.all_lines if text.startswith("Reads ")]

    @property
    def fields(self) -> dict[str, Any]:
        """The structured fields of the last event of a listener, as Twisted's own JSON has them."""
        file, ours = io.StringIO(), [event for event in self.events if "listener" in event]
        jsonFileLogObserver(file, recordSeparator="")(ours[-1])
        event = json.loads(file.getvalue())
        return {name: event[name] for name in FIELDS if name in event}

    @property
    def failures(self) -> list[Failure]:
        """Everything logged with a traceback."""
        return [failure for event in self.events if (failure := _failure(event))]

    def flush(self, kind: type[BaseException]) -> int:
        """Remove the expected failures of one kind, and return their number."""
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
    """Make a reactor the global one, which ``from twisted.internet import reactor`` imports."""
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setattr(sys.modules["twisted.internet"], "reactor", reactor, raising=False)


def run(reactor: Any, scenario: Coroutine[Deferred[Any], Any, None]) -> None:
    """Run a reactor until a scenario ends, and raise its error."""
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
    """Run the reactor until a condition is true."""
    while not condition():
        await deferLater(reactor, 0)


async def turns(reactor: Any, count: int = 20) -> None:
    """Run the reactor for some turns, in which a forbidden event would happen."""
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
    """Wrap and serve the factory, and return a client that has sent its first bytes in one segment."""
    client = await connect(reactor, listen(reactor, wrap(factory, clock=reactor)))
    client.transport.write(data)
    return client


def watched(transport: Any) -> list[str]:
    """Return the attributes that the package has left on a transport."""
    return [name for name in ("stopReading", "startReading") if name in vars(transport)]
