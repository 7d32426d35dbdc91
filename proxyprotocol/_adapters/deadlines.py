"""Deadlines: of headers, and of the TLS handshakes after them.

All connections in a queue may take equally long, so their deadlines expire in the order of their arrival. One timer for
the queue is enough; a timer for each connection costs ten times as much.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

_T = TypeVar("_T")

# Seconds. A timer that fires later than this was delayed: the process was stopped, or the application blocked the loop.
# What the peers sent meanwhile is unread in their sockets.
_PUNCTUAL: Final = 0.01
# Seconds. After a delay the loop runs for as long as it was delayed, but no longer than this, before anything is late.
# One turn is enough to read a header; a handshake also needs an answer from the client.
_MOST_RESPITE: Final = 1.0
# Seconds. The shortest timer before which every loop reads its sockets: uvloop does not for less than half of this.
_TURN: Final = 0.001


class LoopClock:
    """The clock of the running event loop."""

    @staticmethod
    def time() -> float:
        """Return the loop's time; uvloop's own stands still while a callback runs."""
        loop = asyncio.get_running_loop()
        return loop.time() if isinstance(loop, asyncio.BaseEventLoop) else time.monotonic()

    @staticmethod
    def call_later(seconds: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        """Start a timer."""
        return asyncio.get_running_loop().call_later(seconds, function)


def check_seconds(name: str, seconds: float | None) -> float:
    """Return a keyword's seconds, infinity for None; raise ValueError if they are not above 0."""
    if seconds is None:
        return math.inf
    if type(seconds) not in (int, float) or not seconds > 0:
        raise ValueError(f"{name} must be a number of seconds above 0, not {seconds!r}")
    return seconds


def respite_after(delay: float) -> float:
    """Return for how many seconds nothing is late yet after a timer that fired with this delay."""
    return min(delay, _MOST_RESPITE) if delay > _PUNCTUAL else 0.0


class Deadlines(Generic[_T]):
    """An ordered queue of waiting objects.

    Args:
        seconds: How long each object may wait; None for no limit.
        late: Called with each object that is late, and waits no longer. It must not raise.
        clock: An object with ``time()``, which returns seconds, and ``call_later(seconds, function)``, which returns a
            timer with ``cancel()``.
    """

    def __init__(self, seconds: float | None, late: Callable[[_T], object], clock: Any) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._late, self._clock = late, clock
        self._waiting: dict[_T, float] = {}
        self._timer: Any = None

    def __contains__(self, waiting: _T) -> bool:
        return waiting in self._waiting

    def add(self, waiting: _T) -> None:
        """Add an object, which waits from now on."""
        self._waiting[waiting] = deadline = self._clock.time() + self._seconds
        if self._timer is None and deadline < math.inf:
            self._start_timer(self._seconds, deadline)

    def discard(self, waiting: _T) -> None:
        """Remove an object, if it still waits."""
        self._waiting.pop(waiting, None)

    def close(self) -> list[_T]:
        """Stop the timer, and return the objects that still wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return list(self._waiting)

    def _start_timer(self, seconds: float, due: float, last: bool = False) -> None:
        self._timer = self._clock.call_later(max(seconds, _TURN), partial(self._expire, due, last))

    def _expire(self, due: float, last: bool) -> None:
        """Handle the deadlines up to now; *last*: this is after a respite."""
        self._timer, now = None, self._clock.time()
        if (respite := respite_after(now - due)) and not last:
            self._start_timer(respite, now + respite, last=True)
            return
        late = []
        for waiting, deadline in self._waiting.items():
            if deadline > now:
                self._start_timer(deadline - now, deadline)
                break
            late.append(waiting)
        for waiting in late:
            if self._waiting.pop(waiting, None) is not None:  # an earlier one may have ended it
                self._late(waiting)


async def in_time(awaitable: Awaitable[object], seconds: float | None) -> bool:
    """Wait for *awaitable*, and return whether it ended within *seconds*; otherwise it is cancelled."""
    task: Any = asyncio.current_task()
    deadlines: Deadlines[asyncio.Task[Any]] = Deadlines(seconds, asyncio.Task.cancel, LoopClock)
    deadlines.add(task)
    try:
        await awaitable
    except asyncio.CancelledError:
        # other code has cancelled the task, if it is still in the queue or was cancelled twice
        if task in deadlines or (sys.version_info >= (3, 11) and task.uncancel()):
            raise
        return False
    finally:
        deadlines.close()
    return True
