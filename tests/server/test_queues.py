"""The deadlines of the relay's connections. tests/adapters/test_deadlines.py tests the queue itself."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from proxyprotocol.server._relay import link as link_module
from proxyprotocol.server._relay.deadlines import Queues, Timed
from proxyprotocol.server._relay.ends import Stream
from proxyprotocol.server._relay.link import Link
from proxyprotocol.server._relay.metrics import Counters


class Late(Timed):
    def __init__(self) -> None:
        self.queue = None
        self.times = 0

    def expired(self) -> None:
        self.times += 1


class Failing(Timed):
    def __init__(self) -> None:
        self.queue = None

    def expired(self) -> None:
        raise ZeroDivisionError


class Waiting:
    """Queues on a clock that the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.errors: list[dict[str, Any]] = []
        self.timers: list[list[Any]] = []
        loop: Any = SimpleNamespace(
            time=self.time, call_exception_handler=self.errors.append, add_reader=lambda *_: None
        )
        monkeypatch.setattr("proxyprotocol.server._relay.deadlines.LoopClock", lambda: self)
        self.loop, self.queues = loop, Queues(loop)

    def close(self) -> list[Timed]:
        """Close the queues, and return what still waits."""
        return [timed for queue in self.queues.values() for timed in queue.close()]

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, function: Any) -> Any:
        self.timers.append(timer := [self.now + seconds, function])
        return SimpleNamespace(cancel=timer.clear)

    def advance(self, seconds: float) -> None:
        """Let time pass, with each timer on time."""
        end = self.now + seconds
        while due := sorted((timer for timer in self.timers if timer and timer[0] <= end), key=lambda timer: timer[0]):
            self.timers.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = end


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(monkeypatch)


def test_a_deadline_is_met_once_and_never_early(waiting: Waiting) -> None:
    late = Late()
    late.wait(waiting.queues[1.0])
    waiting.advance(0.99)
    assert late.times == 0
    waiting.advance(0.02)
    assert late.times == 1
    waiting.advance(10)
    assert late.times == 1
    assert waiting.timers == []


@pytest.mark.parametrize(("before", "after"), [(60, 1), (1, 60)])
def test_a_new_deadline_takes_the_place_of_the_one_before(waiting: Waiting, before: int, after: int) -> None:
    late, other = Late(), Late()
    late.wait(waiting.queues[before])
    other.wait(waiting.queues[before])
    late.wait(waiting.queues[after])
    waiting.advance(2)
    assert (late.times, other.times) == (int(after == 1), int(before == 1))
    waiting.advance(60)
    assert (late.times, other.times) == (1, 1)


def test_a_connection_that_stopped_waiting_is_never_late_and_leaves_no_objects(waiting: Waiting) -> None:
    late = Late()
    late.wait(waiting.queues[1])
    late.wait(waiting.queues[None])
    late.wait(None)
    waiting.advance(5)
    assert late.times == 0
    assert waiting.timers == []
    assert waiting.close() == []


def test_one_timer_serves_a_thousand_connections(waiting: Waiting) -> None:
    many = [Late() for _ in range(1000)]
    for late in many:
        late.wait(waiting.queues[1])
        waiting.advance(0.0005)
    assert len(waiting.timers) == 1
    waiting.advance(1)
    assert {late.times for late in many} == {1}


def test_an_error_in_one_does_not_cost_the_others_their_deadlines(waiting: Waiting) -> None:
    late, later = [Late() for _ in range(5)], Late()
    for timed in (Failing(), *late, Failing()):
        timed.wait(waiting.queues[1.0])
    later.wait(waiting.queues[2.0])
    waiting.advance(1.25)
    assert [timed.times for timed in late] == [1] * 5
    assert [type(context["exception"]) for context in waiting.errors] == [ZeroDivisionError] * 2
    waiting.advance(1.25)
    assert later.times == 1


def test_closed_queues_have_no_timer_and_return_the_waiting_connections(waiting: Waiting) -> None:
    late = Late()
    late.wait(waiting.queues[1])
    late.wait(waiting.queues[2])
    assert waiting.close() == [late]
    assert not any(waiting.timers)


@pytest.mark.parametrize("idle", [0.5, 3600])
def test_a_busy_connection_is_never_late_and_an_idle_one_is_closed_soon(waiting: Waiting, idle: float) -> None:
    ends: list[str | None] = []
    near, far = socket.socketpair()
    with near, far:
        relay: Any = SimpleNamespace(
            loop=waiting.loop,
            queues=waiting.queues,
            buffer=memoryview(bytearray(10)),
            idle_timeout=idle,
        )
        link = Link(relay, Counters(1, ["a"]).of(0)["a"], Stream(near), Stream(far), ends.append)
        link.touch()
        for _ in range(1000):
            waiting.advance(idle / 100)
            link.touch()
        assert ends == []
        waiting.advance(idle * 0.999)
        assert ends == []
        waiting.advance(idle * 0.001 + min(link_module._GRAIN, idle / 16))
        assert ends == [f"nothing has moved for {idle:g} seconds"]


def test_a_busy_connection_moves_in_its_queue_only_now_and_then(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay: Any = SimpleNamespace(
        loop=waiting.loop, queues=waiting.queues, buffer=memoryview(b""), values=None, idle_timeout=3600
    )
    near, far = socket.socketpair()
    with near, far:
        link = Link(relay, Counters(1, ["a"]).of(0)["a"], Stream(near), Stream(far), lambda reason: None)
        moved: list[float] = []
        monkeypatch.setattr(Link, "wait", lambda link, queue: moved.append(waiting.now))
        for _ in range(10_000):
            link.touch()
            waiting.now += 0.001
        assert len(moved) <= 11


def test_on_a_real_loop() -> None:
    async def story() -> None:
        queues, late = Queues(asyncio.get_running_loop()), Late()
        late.wait(queues[0.01])
        while not late.times:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(story(), 10))
