"""One timer for the deadlines of all connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxyprotocol.server._relay.timers import Timed, Wheel


class Clock:
    """A loop that has nothing but a clock, which the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.when <= self.now]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            if not timer.cancelled:
                timer.callback()

    @property
    def waiting(self) -> int:
        return sum(not timer.cancelled for timer in self.timers)


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when, self.callback, self.cancelled = when, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Late(Timed):
    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def expired(self) -> None:
        self.times += 1


@pytest.fixture
def clock() -> Any:
    return Clock()


def test_a_deadline_is_met_once_and_never_early(clock: Any) -> None:
    wheel, late = Wheel(clock), Late()
    wheel.set(late, 1.0)
    clock.advance(0.99)
    assert late.times == 0
    clock.advance(0.27)
    assert late.times == 1
    clock.advance(10)
    assert late.times == 1
    assert clock.waiting == 0


@pytest.mark.parametrize("later", [1.5, 3])
def test_whoever_writes_down_a_later_deadline_is_given_it(clock: Any, later: float) -> None:
    wheel, late = Wheel(clock), Late()
    wheel.set(late, 1.0)
    late.deadline = clock.time() + later
    clock.advance(1.3)
    assert late.times == 0
    clock.advance(later - 1)
    assert late.times == 1


def test_an_earlier_deadline_takes_the_place_of_a_later_one(clock: Any) -> None:
    wheel, late, other = Wheel(clock), Late(), Late()
    wheel.set(late, 60)
    wheel.set(other, 60)
    wheel.set(late, 1)
    assert clock.waiting == 1
    clock.advance(1.3)
    assert (late.times, other.times) == (1, 0)
    clock.advance(60)
    assert (late.times, other.times) == (1, 1)


def test_what_is_discarded_is_never_late_and_nothing_of_it_stays(clock: Any) -> None:
    wheel, late = Wheel(clock), Late()
    wheel.set(late, 1)
    wheel.set(late, None)
    wheel.discard(late)
    assert not any(wheel._slots.values())
    clock.advance(5)
    assert late.times == 0
    assert clock.waiting == 0


def test_one_timer_serves_them_all(clock: Any) -> None:
    wheel = Wheel(clock)
    many = [Late() for _ in range(1000)]
    for number, late in enumerate(many):
        wheel.set(late, 1 + number / 100)
    assert clock.waiting == 1
    for _ in range(50):
        clock.advance(0.25)
    assert {late.times for late in many} == {1}
    wheel.close()


class Failing(Timed):
    def expired(self) -> None:
        raise ZeroDivisionError


def test_a_mistake_in_one_does_not_cost_the_others_their_deadlines(clock: Any) -> None:
    told: list[dict[str, Any]] = []
    clock.call_exception_handler = told.append
    wheel, late, later = Wheel(clock), [Late() for _ in range(5)], Late()
    for timed in (Failing(), *late, Failing()):
        wheel.set(timed, 1.0)
    wheel.set(later, 2.0)
    clock.advance(1.25)
    assert [timed.times for timed in late] == [1] * 5
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError] * 2
    clock.advance(1.25)
    assert later.times == 1


def test_a_closed_wheel_has_no_timer(clock: Any) -> None:
    wheel = Wheel(clock)
    wheel.close()
    wheel.set(Late(), 1)
    wheel.close()
    assert clock.waiting == 0


def test_on_a_real_loop() -> None:
    async def story() -> None:
        wheel, late = Wheel(asyncio.get_running_loop()), Late()
        wheel.set(late, 0.01)
        while not late.times:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(story(), 10))
