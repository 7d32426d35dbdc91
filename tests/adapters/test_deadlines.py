"""The queue of deadlines, with a clock that the tests advance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from proxyprotocol._adapters.deadlines import Deadlines, check_seconds, in_time


class ManualClock(Clock):
    """Twisted's test clock, with the method names of an event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.time: Callable[[], float] = self.seconds

    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        return self.callLater(seconds, function)

    def stall(self, seconds: float) -> None:
        """Advance the time, and only then run the timers."""
        self.rightNow += seconds
        self.advance(0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def late() -> list[str]:
    return []


@pytest.fixture
def queue(clock: ManualClock, late: list[str]) -> Any:
    return Deadlines(2.0, late.append, clock)


def test_a_punctual_timer_refuses_at_once(queue: Any, clock: ManualClock, late: list[str]) -> None:
    queue.add("a")
    clock.advance(2)
    assert (late, "a" in queue, clock.getDelayedCalls()) == (["a"], False, [])


@pytest.mark.parametrize(("stall", "respite"), [(2.5, 0.5), (3, 1), (60, 1)])
def test_a_delayed_timer_grants_one_respite_as_long_as_the_delay_but_at_most_a_second(
    queue: Any, clock: ManualClock, late: list[str], stall: float, respite: float
) -> None:
    for name in ("a", "b"):
        queue.add(name)
    clock.stall(stall)
    assert late == []
    queue.discard("a")  # its header was in the socket
    clock.advance(respite - 0.01)
    assert late == []
    clock.stall(60)
    assert late == ["b"]


def test_a_connection_after_a_stall_has_the_whole_time(queue: Any, clock: ManualClock, late: list[str]) -> None:
    queue.add("a")
    clock.stall(60)
    queue.add("b")
    clock.advance(1.5)
    assert late == ["a"]
    clock.advance(0.5)
    assert late == ["a", "b"]


def test_a_timer_that_fires_early_refuses_no_connection(queue: Any, clock: ManualClock, late: list[str]) -> None:
    queue.add("a")
    clock.getDelayedCalls()[0].reset(1)
    clock.advance(1.5)
    assert late == []
    clock.advance(0.5)
    assert late == ["a"]


def test_close_returns_what_waits_and_stops_the_timer(queue: Any, clock: ManualClock, late: list[str]) -> None:
    queue.add("a")
    clock.stall(3)
    assert (queue.close(), clock.getDelayedCalls(), late) == (["a"], [], [])


@pytest.mark.parametrize("seconds", [0, -1, "1", True, float("nan")])
def test_seconds_must_be_above_0(seconds: Any) -> None:
    with pytest.raises(ValueError, match=f"tls_timeout must be a number of seconds above 0, not {seconds!r}"):
        check_seconds("tls_timeout", seconds)


def test_in_time_cancels_a_late_awaitable_and_waits_for_its_end() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    assert asyncio.run(in_time(wait(), 0.001)) is False
    assert ended == [True]


def test_in_time_raises_a_cancellation_from_elsewhere() -> None:
    async def story() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await in_time(asyncio.sleep(60), 60)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(story())


def test_in_time_raises_what_the_awaitable_raises() -> None:
    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(in_time(fail(), float("inf")))
