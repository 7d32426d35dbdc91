"""What a PROXY header costs a Twisted server: our wrapper against the one that Twisted brings along (``haproxy:``).

Run ``python -m benchmarks.wrapper`` or ``python benchmarks/wrapper.py``; ``--help`` names the options.

**What is timed** is one connection in memory, from the listening port's ``buildProtocol`` to ``connectionLost``:
accept, one read that brings the header and the first byte behind it, end. Three factories take turns: the application's
own (which is sent no header), the same one in Twisted's wrapper, and in ours. What a wrapper *adds* is its time less
that of the bare factory, and the table divides what Twisted's adds by what ours adds: ``median`` is the median over the
rounds of three samples, ``minima`` takes each subject's fastest sample. (With Twisted's wrapper as the third subject
too, both came out between 0.99 and 1.01.) The lines "a later read" are apart: one more read on a connection whose
header is behind it.

**Included**: all that both wrappers and the application do, the application's question for ``getPeer()`` in its
``connectionMade`` among it. (Twisted's wrapper answers the balancer's address there, because it begins before the
header has come; ours has the client's.) Ours is used as it comes: with detection of the version and the time-out of
five seconds, on the reactor's own clock. Twisted's has no time-out.

**Not included**: sockets, the reactor's loop, and the garbage collector, which is off while a sample runs. The
transport is a stand-in, one class for all three, that declares what Twisted's TCP server transport declares: Twisted's
wrapper copies that declaration for each connection, and a barer one would flatter it.
"""

# ruff: noqa: N802, N815 (Twisted's interfaces prescribe these names)

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice, permutations
from pathlib import Path
from typing import NamedTuple, cast

import twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.base import ReactorBase
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Server
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.python.failure import Failure
from zope.interface import classImplements, implementedBy

# Run by its path, this file would else measure whatever is installed instead of the checkout it is in.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import proxyprotocol
from proxyprotocol.twisted import ProxyProtocolWrapperFactory

__all__ = ["main"]

V2_PROXY = b"\r\n\r\n\x00\r\nQUIT\n\x21"
HEADERS = {
    "v1": b"PROXY TCP4 203.0.113.7 198.51.100.9 56324 443\r\n",
    "v1 IPv6": b"PROXY TCP6 2001:db8::c0:ffee 2001:db8:1::443 56324 443\r\n",
    "v2": V2_PROXY + b"\x11\x00\x0c\xcb\x00\x71\x07\xc6\x33\x64\x09\xdc\x04\x01\xbb",
    "v2 IPv6": V2_PROXY + b"\x21\x00\x24" + b"\x20\x01\x0d\xb8" + b"\x07" * 12 + b"\x20\x01\x0d\xb8" + b"\x09" * 16,
}
TARGETS = {"v1": "2.2 (3)", "v2": "4.2 (5)"}
PAYLOAD = b"x"
WARM_UP = 5  # rounds: CPython 3.11 and newer specialise a loop only after it has run for a while


class MemoryTransport:
    """The part of Twisted's TCP server transport that a connection without a socket needs.

    Args:
        protocol: What the factory built.
    """

    TLS = False
    disconnecting = False
    disconnected = False

    def __init__(self, protocol: IProtocol) -> None:
        self.protocol = protocol
        self.connected = 1
        self.reading = True
        self.client = ("192.0.2.1", 40000)
        self.server = ("192.0.2.2", 443)
        self.hostname = "192.0.2.1"
        self.sessionno = 0
        self.logstr = "Server,0,192.0.2.1"
        self.repstr = "<Server #0 on 443>"

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", *self.client)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self.server)

    def startReading(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.startReading()

    def pauseProducing(self) -> None:
        self.stopReading()

    def loseConnection(self) -> None:
        """Refuse to: a header that is not accepted would make a wrapper look fast."""
        raise RuntimeError("the connection was dropped: the header was refused")

    abortConnection = loseConnection

    def logPrefix(self) -> str:
        return self.logstr

    def dataReceived(self, data: bytes) -> None:
        """Deliver bytes as a read from the socket does."""
        self.protocol.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        """End the connection as the reactor does."""
        self.connected = 0
        protocol = self.protocol
        del self.protocol
        protocol.connectionLost(reason)


# Called by another name, because mypy's plugin would ask for all the methods that nothing here calls.
declare: Callable[..., None] = classImplements
declare(MemoryTransport, *implementedBy(Server))  # type: ignore[no-untyped-call]


class Application(Protocol):
    """The server behind the wrappers: it asks who is there, and counts what it is sent."""

    factory: ApplicationFactory

    def connectionMade(self) -> None:
        self.peer = cast(ITransport, self.transport).getPeer()

    def dataReceived(self, data: bytes) -> None:
        self.factory.received += len(data)


class ApplicationFactory(Factory):
    """Builds the application, and holds its count.

    Attributes:
        received: The bytes that reached the application, in all its connections.
    """

    protocol: Callable[..., Protocol] = Application
    noisy = False
    received = 0


BALANCER = IPv4Address("TCP", "192.0.2.1", 40000)
CLOSED = Failure(ConnectionDone())


def connect(factory: IProtocolFactory, first_read: bytes) -> MemoryTransport:
    """Accept a connection and let its first bytes come."""
    protocol = factory.buildProtocol(BALANCER)
    assert protocol is not None
    transport = MemoryTransport(protocol)
    protocol.makeConnection(cast(ITransport, transport))
    transport.dataReceived(first_read)
    return transport


def time_connections(factory: IProtocolFactory, header: bytes, count: int) -> float:
    """Time whole connections.

    Returns:
        Nanoseconds a connection.
    """
    first_read = header + PAYLOAD
    begin = time.perf_counter_ns()
    for _ in range(count):
        connect(factory, first_read).connectionLost(CLOSED)
    return (time.perf_counter_ns() - begin) / count


def time_later_reads(factory: IProtocolFactory, header: bytes, count: int) -> float:
    """Time reads on a connection whose header is behind it.

    Returns:
        Nanoseconds a read.
    """
    transport = connect(factory, header)
    begin = time.perf_counter_ns()
    for _ in range(count):
        transport.dataReceived(PAYLOAD)
    took = (time.perf_counter_ns() - begin) / count
    transport.connectionLost(CLOSED)
    return took


class Subject(NamedTuple):
    """One of the three that take turns.

    Attributes:
        application: What counts the bytes.
        factory: What the connections are accepted with.
        wrapped: Whether connections begin with a header.
    """

    application: ApplicationFactory
    factory: IProtocolFactory
    wrapped: bool


def subjects() -> list[Subject]:
    """The bare factory, Twisted's wrapper and ours, each around an application of its own."""
    bare, theirs, ours = ApplicationFactory(), ApplicationFactory(), ApplicationFactory()
    three = [
        Subject(bare, bare, False),
        Subject(theirs, HAProxyWrappingFactory(theirs), True),
        Subject(ours, ProxyProtocolWrapperFactory(ours), True),
    ]
    for subject in three:
        subject.factory.doStart()
    return three


def measure(
    how: Callable[[IProtocolFactory, bytes, int], float], header: bytes, samples: int, count: int
) -> list[tuple[float, ...]]:
    """Let the three take turns, in each of the six orders: who comes after the bare factory finds warmer caches.

    Returns:
        The rounds: nanoseconds of the bare factory, of Twisted's wrapper and of ours.
    """
    three = subjects()
    rounds = []
    for order in islice(cycle(permutations(range(3))), samples):
        times = [0.0, 0.0, 0.0]
        gc.disable()
        for which in order:
            subject = three[which]
            times[which] = how(subject.factory, header if subject.wrapped else b"", count)
        gc.enable()
        gc.collect()
        # Nobody runs the reactor, so that it has to be told to forget the timers that were cancelled.
        cast(ReactorBase, installed_reactor).runUntilCurrent()
        rounds.append(tuple(times))
    for subject in three:
        assert subject.application.received == samples * count * len(PAYLOAD), "a byte behind the header went astray"
    return rounds[WARM_UP:]


def connection_line(name: str, rounds: list[tuple[float, ...]]) -> str:
    """Write the row of one header."""
    ratio = statistics.median((theirs - bare) / (ours - bare) for bare, theirs, ours in rounds)
    lowest = [min(column) for column in zip(*rounds, strict=True)]
    lowest_ratio = (lowest[1] - lowest[0]) / (lowest[2] - lowest[0])
    return f"{name:24} {times(rounds)} {ratio:7.2f} {lowest_ratio:7.2f}  {TARGETS.get(name, '-')}"


def times(rounds: list[tuple[float, ...]]) -> str:
    """Write the medians of the three."""
    return " ".join(f"{statistics.median(column):9.0f}" for column in zip(*rounds, strict=True))


def stay_on_one_processor() -> None:
    """Keep the scheduler from moving this process in the middle of a round."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main(arguments: list[str] | None = None) -> None:
    """Print the table.

    Args:
        arguments: The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description="Compare what our Twisted wrapper and Twisted's own add.")
    parser.add_argument("--samples", type=int, default=400, help="rounds a row (400)")
    parser.add_argument("--connections", type=int, default=60, help="connections, or reads, a sample (60)")
    parser.add_argument("--quick", action="store_true", help="40 rounds")
    options = parser.parse_args(arguments)
    samples = (40 if options.quick else options.samples) + WARM_UP

    stay_on_one_processor()
    # The collections between the rounds need not look at what is loaded by now.
    gc.collect()
    gc.freeze()
    print(f"CPython {platform.python_version()}, Twisted {twisted.__version__}, ", end="")
    print(f"{samples - WARM_UP} rounds of {options.connections}, medians in nanoseconds")
    print(f"ours: {proxyprotocol.__file__}\n")
    print(f"{'':24} {'':9} {'Twisted':>9} {'':9} {'(Twisted - bare) /'}")
    print(f"{'one connection':24} {'bare':>9} {'haproxy:':>9} {'ours':>9} {'(ours - bare)'}  target")
    print(f"{'':24} {'':9} {'':9} {'':9} {'median':>7} {'minima':>7}  (aim)")
    for name, header in HEADERS.items():
        print(connection_line(name, measure(time_connections, header, samples, options.connections)), flush=True)
    print("\na later read")
    for name in TARGETS:
        print(f"{name:24} {times(measure(time_later_reads, HEADERS[name], samples, options.connections))}", flush=True)


if __name__ == "__main__":
    main()
