"""The deadline of a header, with a clock that the tests advance."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from proxyprotocol import HeaderPolicy
from proxyprotocol.twisted import ProxyProtocolWrapperFactory
from proxyprotocol.twisted.clock import Clock as TwistedClock
from proxyprotocol.typing import SockAddr
from tests.on_twisted import reactors
from tests.on_twisted.reactors import (
    HEADER,
    PATIENCE,
    PROXY,
    App,
    AppFactory,
    BrokenFactory,
    Log,
    MemoryTransport,
    RefusingFactory,
    accept,
    connect,
    listen,
    run,
    turns,
    until,
    wrap,
)
from tests.vectors import single_bytes


def test_a_late_header_is_refused(clock: Clock, log: Log) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, clock=clock, timeout=3))
    clock.advance(2.99)
    assert transport.aborts == 0

    clock.advance(0.01)
    assert (transport.aborts, factory.built) == (1, [])
    refusal = (
        "No complete PROXY protocol header came within 3 seconds, only 0 bytes; if 10.1.2.3 is your proxy, make it "
        "send the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on); see policy"
    )
    assert log.lines == [("warn", f"Refused a connection from 10.1.2.3:50000 on 10.9.8.7:8080: {refusal}")]


def test_a_header_has_five_seconds_by_default(clock: Clock) -> None:
    transport = accept(wrap(AppFactory(), clock=clock))
    clock.advance(4.9)
    assert transport.aborts == 0
    clock.advance(0.1)
    assert transport.aborts == 1


def test_single_bytes_do_not_extend_the_deadline(clock: Clock, log: Log) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, clock=clock, timeout=3))
    for byte in single_bytes(HEADER[:-1]):
        transport.receive(byte)
        clock.advance(3 / (len(HEADER) - 1))

    assert (transport.aborts, factory.built) == (1, [])
    ((level, line),) = log.lines
    assert (level, f"only {len(HEADER) - 1} bytes" in line) == ("warn", True)


def test_the_deadline_ends_with_the_header(clock: Clock) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, clock=clock))
    clock.advance(4.9)
    transport.receive(HEADER)
    clock.advance(3600)

    assert (transport.aborts, len(factory.apps)) == (0, 1)


def test_data_after_the_deadline_is_ignored(clock: Clock, log: Log) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, clock=clock))
    clock.advance(5)
    transport.receive(HEADER)
    transport.lose()

    assert (transport.aborts, factory.built, len(log.lines)) == (1, [], 1)


def test_a_closed_connection_is_never_late(clock: Clock, log: Log) -> None:
    transport = accept(wrap(AppFactory(), clock=clock))
    transport.lose()
    log.events.clear()
    clock.advance(60)

    assert (transport.aborts, log.lines) == (0, [])


def test_without_a_limit_a_header_can_come_at_any_time(clock: Clock) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, clock=clock, timeout=None))
    assert clock.getDelayedCalls() == []
    clock.advance(1e6)
    transport.receive(HEADER)

    assert (transport.aborts, len(factory.apps)) == (0, 1)


def test_a_factory_has_one_timer_for_all_connections(clock: Clock) -> None:
    wrapping = wrap(AppFactory(), clock=clock)
    for _ in range(100):
        accept(wrapping)
        clock.advance(0.01)

    assert len(clock.getDelayedCalls()) == 1


def test_each_connection_has_its_own_deadline(clock: Clock, log: Log) -> None:
    wrapping = wrap(AppFactory(), clock=clock, timeout=5)
    transports = []
    for _ in range(3):
        transports.append(accept(wrapping))
        clock.advance(1)
    transports[1].receive(HEADER)

    for late in ([0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1]):
        assert [transport.aborts for transport in transports] == late
        clock.advance(1)
    assert (len(log.lines), clock.getDelayedCalls()) == (2, [])


def test_simultaneous_connections_are_late_together(clock: Clock) -> None:
    wrapping = wrap(AppFactory(), clock=clock)
    transports = [accept(wrapping) for _ in range(3)]
    clock.advance(5)

    assert [transport.aborts for transport in transports] == [1, 1, 1]


def test_the_next_connection_starts_a_new_timer(clock: Clock) -> None:
    wrapping = wrap(AppFactory(), clock=clock)
    accept(wrapping).receive(HEADER)
    clock.advance(60)
    transport = accept(wrapping)
    clock.advance(5)

    assert transport.aborts == 1


def set_clock(reactor: Any, seconds: float) -> None:
    """Set the system clock, as a reactor sees it, forward or back."""
    reactor.seconds = lambda: time.time() + seconds
    reactor.wakeUp()  # as any new connection does


@pytest.mark.parametrize("shift", [-3600, PATIENCE / 2], ids=["back", "forward"])
def test_changes_of_the_system_clock_do_not_move_a_deadline(reactor: Any, shift: float) -> None:
    """Twisted's reactors use the system clock. No new connection wakes the reactor."""
    # otherwise a failing test would end an hour late too
    rescue = threading.Timer(PATIENCE / 2, reactor.callFromThread, [set_clock, reactor, 0])

    async def scenario() -> None:
        client = await connect(reactor, listen(reactor, wrap(AppFactory(), clock=reactor, timeout=0.3)))
        await until(reactor, lambda: reactor.getReaders())
        began = time.monotonic()
        set_clock(reactor, shift)
        rescue.start()
        ended: Deferred[None] = Deferred()
        client.connectionLost = lambda reason: ended.callback(None)  # type: ignore[method-assign]
        await ended
        assert 0.2 < time.monotonic() - began < PATIENCE / 2

    try:
        run(reactor, scenario())
    finally:
        rescue.cancel()


def test_the_thread_cannot_fire_a_timer_that_was_stopped_meanwhile(clock: Clock) -> None:
    """Private names, because no test can stop the thread between its check and its call."""
    fired: list[None] = []
    timer = TwistedClock(clock).call_later(1, lambda: fired.append(None))
    late = timer._call
    timer.cancel()
    timer._fire(late)
    timer.call_later(1, lambda: fired.append(None))
    timer._fire(late)
    timer.cancel()
    clock.advance(60)
    assert (fired, clock.getDelayedCalls()) == ([], [])


def test_a_header_that_came_during_a_stall_is_not_late(clock: Clock, log: Log) -> None:
    factory = AppFactory()
    transport, silent = (accept(wrap(factory, clock=clock, timeout=3)) for _ in range(2))
    for late in (transport, silent):
        late.receive(HEADER[:9])
    clock.advance(7)
    assert (transport.aborts, silent.aborts) == (0, 0)
    transport.receive(HEADER[9:])
    clock.advance(1)

    assert (transport.aborts, silent.aborts, len(factory.apps)) == (0, 1, 1)
    ((_, line),) = log.lines
    assert line.endswith("within 3 seconds, only 9 bytes; see timeout")


def test_an_application_that_blocks_the_reactor_makes_no_header_late(reactor: Any, log: Log) -> None:
    """It blocks in dataReceived: the reactor has not yet seen what the others sent meanwhile."""
    sockets: list[socket.socket] = []

    def block(app: App) -> None:
        if sockets:
            for sock in sockets:
                sock.sendall(HEADER)
            time.sleep(0.4)

    factory = AppFactory(read=block)

    async def scenario() -> None:
        port = listen(reactor, wrap(factory, clock=reactor, timeout=0.2))
        first = await connect(reactor, port)
        first.transport.write(HEADER)
        await until(reactor, lambda: factory.apps)
        with contextlib.ExitStack() as stack:
            address = "127.0.0.1", port.getHost().port
            sockets.extend(stack.enter_context(socket.create_connection(address)) for _ in range(5))
            await turns(reactor)
            first.transport.write(b"block")
            await until(reactor, lambda: len(factory.apps) == 6 or log.lines)
        first.transport.loseConnection()

    run(reactor, scenario())
    assert (len(factory.apps), log.lines) == (6, [])


def test_optional_starts_the_application_if_no_byte_comes_in_time(clock: Clock, log: Log) -> None:
    """The server speaks first in such a protocol."""
    factory = AppFactory(begin=lambda app: app.transport.write(b"220 ready\r\n"))
    transport = accept(wrap(factory, clock=clock, policy=HeaderPolicy.OPTIONAL))
    assert (factory.built, transport.value()) == ([], b"")
    clock.advance(5)

    assert (factory.app.peer, transport.value()) == (PROXY, b"220 ready\r\n")
    transport.receive(HEADER)
    assert (factory.app.received, transport.aborts, log.lines) == (HEADER, 0, [])


@pytest.mark.parametrize("data", [b"P", b"PROXY", b"\r\n\r\n", HEADER[:-1]])
def test_optional_refuses_half_a_header_at_the_deadline(data: bytes, clock: Clock, log: Log) -> None:
    factory = AppFactory()
    transport = accept(wrap(factory, clock=clock, policy=HeaderPolicy.OPTIONAL))
    transport.receive(data)
    clock.advance(5)

    assert (transport.aborts, factory.built, len(log.lines)) == (1, [], 1)


def raise_error(app: App) -> None:
    raise ZeroDivisionError("in connectionMade")


@pytest.mark.parametrize("make", [BrokenFactory, lambda: AppFactory(begin=raise_error)], ids=["build", "made"])
def test_an_error_of_the_application_at_the_deadline_does_not_affect_the_others(
    make: Callable[[], AppFactory], clock: Clock, log: Log
) -> None:
    wrapping = wrap(make(), clock=clock, policy=HeaderPolicy.OPTIONAL)
    transports = [accept(wrapping) for _ in range(3)]
    transports[1].receive(b"P")
    clock.advance(5)

    assert [transport.aborts for transport in transports] == [1, 1, 1]
    text = "The application raised an exception when its connection started"
    assert [line for level, line in log.all_lines if level == "critical"] == [text] * 2
    assert log.flush(ZeroDivisionError) == 2
    assert [level for level, line in log.lines] == ["warn"]


def test_an_application_can_end_another_connection_that_is_late(clock: Clock) -> None:
    transports: list[MemoryTransport] = []
    factory = AppFactory(begin=lambda app: transports[1].lose())
    wrapping = wrap(factory, clock=clock, policy=HeaderPolicy.OPTIONAL)
    transports += [accept(wrapping), accept(wrapping)]
    clock.advance(5)

    assert len(factory.apps) == 1


def test_a_factory_that_returns_none_closes_the_connection_at_the_deadline(clock: Clock) -> None:
    transport = accept(wrap(RefusingFactory(), clock=clock, policy=HeaderPolicy.OPTIONAL))
    clock.advance(5)

    assert transport.disconnecting


@pytest.fixture
def wrapping(clock: Clock) -> Any:
    return wrap(AppFactory(), clock=clock)


def test_stopping_a_port_drops_connections_that_wait(wrapping: Any, clock: Clock, log: Log) -> None:
    wrapping.doStart()
    started, half, waiting = (accept(wrapping) for _ in range(3))
    started.receive(HEADER)
    half.receive(HEADER[:9])
    wrapping.doStop()

    assert [started.aborts, half.aborts, waiting.aborts] == [0, 1, 1]
    assert (clock.getDelayedCalls(), log.lines) == ([], [])
    half.lose()
    assert log.lines == []


def test_connections_wait_until_the_last_port_of_a_factory_stops(wrapping: Any, clock: Clock) -> None:
    wrapping.doStart()
    wrapping.doStart()
    transport = accept(wrapping)
    wrapping.doStop()
    assert (transport.aborts, len(clock.getDelayedCalls())) == (0, 1)
    wrapping.doStop()
    assert (transport.aborts, clock.getDelayedCalls()) == (1, [])


def test_stopping_an_unused_port_leaves_no_timer(wrapping: Any, clock: Clock) -> None:
    wrapping.doStart()
    wrapping.doStop()

    assert clock.getDelayedCalls() == []


def test_a_factory_can_start_again(wrapping: Any, clock: Clock) -> None:
    for _ in range(2):
        wrapping.doStart()
        transport = accept(wrapping)
        clock.advance(1)
        wrapping.doStop()
        assert transport.aborts == 1
    wrapping.doStart()
    transport = accept(wrapping)
    clock.advance(5)

    assert transport.aborts == 1


def test_stopping_a_port_drops_connections_that_wait_without_a_limit(clock: Clock) -> None:
    wrapping = wrap(AppFactory(), clock=clock, timeout=None)
    wrapping.doStart()
    transport = accept(wrapping)
    wrapping.doStop()

    assert transport.aborts == 1


def test_the_default_clock_is_the_reactor_at_the_first_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrapping = ProxyProtocolWrapperFactory(AppFactory())
    clock = Clock()
    reactors.install(clock, monkeypatch)
    transport = accept(wrapping)
    clock.advance(5)

    assert transport.aborts == 1


def test_waiting_connections_survive_until_the_second_port_stops(reactor: Any, log: Log) -> None:
    factory, accepted = AppFactory(), []

    def policy(peer: SockAddr, local: SockAddr) -> HeaderPolicy:
        accepted.append(peer)
        return HeaderPolicy.REQUIRE

    async def scenario() -> None:
        wrapping = wrap(factory, clock=reactor, policy=policy)
        ports = [listen(reactor, wrapping) for _ in range(2)]
        waiting, good = [await connect(reactor, port) for port in ports]
        await until(reactor, lambda: len(accepted) == 2)
        await ports[0].stopListening()
        good.transport.write(HEADER)
        await until(reactor, lambda: factory.apps)
        assert not waiting.lost
        await ports[1].stopListening()
        await until(reactor, lambda: waiting.lost)
        assert not good.lost

    run(reactor, scenario())
    assert log.lines == []
