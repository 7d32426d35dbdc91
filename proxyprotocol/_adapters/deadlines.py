"""Deadlines, of headers and of the TLS handshakes after them.

All connections of a queue have equally long, so the first to come is the first to be late: one timer serves them all,
at a tenth of the cost of one for each.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

__all__: list[str] = []

_T = TypeVar("_T")

# Seconds. A timer that fires later than this was held up: somebody stopped the process, or the application blocked the
# loop. What the peers sent meanwhile lies unread in their sockets.
_PUNCTUAL: Final = 0.01
# Seconds. A loop that was held up goes on for as long as it was, and for so long at most, before it refuses anybody.
# One turn is enough to read a header; a handshake also needs an answer from the client.
_MOST_RESPITE: Final = 1.0
# Seconds. The shortest timer for which every loop looks at its sockets first: uvloop does not for less than half of it.
_TURN: Final = 0.001


class Timer(Protocol):
    """What :meth:`Clock.call_later` gives."""

    def cancel(self) -> Any:
        """Stop the timer."""


class Clock(Protocol):
    """What tells the time."""

    @property
    def time(self) -> Callable[[], float]:
        """Returns seconds, by a clock that does not jump."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Start a timer."""


class LoopClock:
    """The clock of the running event loop."""

    @staticmethod
    def time() -> float:
        """Return the loop's time; uvloop's own stands still while a callback runs."""
        loop = asyncio.get_running_loop()
        return loop.time() if isinstance(loop, asyncio.BaseEventLoop) else time.monotonic()

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Start a timer."""
        return asyncio.get_running_loop().call_later(seconds, function)


def check_seconds(name: str, seconds: float | None) -> float:
    """Return the seconds that a keyword gives, where None means no limit.

    Raises:
        ValueError: They are not above 0.
    """
    if seconds is None:
        return math.inf
    if type(seconds) not in (int, float) or not seconds > 0:
        raise ValueError(f"{name} is a number of seconds above 0, not {seconds!r}")
    return seconds


class Deadlines(Generic[_T]):
    """An ordered queue of those who wait, and when each of them is late.

    Args:
        seconds: How long each of them may take; None for no limit.
        late: Called with each that is late, and waits no longer. It must not raise.
        clock: What tells the time.
    """

    def __init__(self, seconds: float | None, late: Callable[[_T], object], clock: Clock) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._late, self._clock = late, clock
        self._waiting: dict[_T, float] = {}
        self._timer: Timer | None = None

    def __contains__(self, waiting: _T) -> bool:
        return waiting in self._waiting

    def add(self, waiting: _T) -> None:
        """Begin to wait."""
        self._waiting[waiting] = deadline = self._clock.time() + self._seconds
        if self._timer is None and deadline < math.inf:
            self._start_timer(self._seconds, deadline)

    def discard(self, waiting: _T) -> None:
        """Wait no longer for somebody, who may have been late already."""
        self._waiting.pop(waiting, None)

    def close(self) -> list[_T]:
        """Stop the timer, and return those who still wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return list(self._waiting)

    def _start_timer(self, seconds: float, due: float, last: bool = False) -> None:
        self._timer = self._clock.call_later(max(seconds, _TURN), partial(self._expire, due, last))

    def _expire(self, due: float, last: bool) -> None:
        """Meet the deadlines up to now; *last*: after a respite."""
        self._timer, now = None, self._clock.time()
        if now - due > _PUNCTUAL and not last:
            respite = min(now - due, _MOST_RESPITE)
            self._start_timer(respite, now + respite, last=True)
            return
        late = []
        for waiting, deadline in self._waiting.items():
            if deadline > now:
                self._start_timer(deadline - now, deadline)
                break
            late.append(waiting)
        for waiting in late:
            # one of them may end others
            if self._waiting.pop(waiting, None) is not None:
                self._late(waiting)


async def in_time(awaitable: Awaitable[object], seconds: float | None) -> bool:
    """Wait for something for so many seconds, and return whether it came about; otherwise it is cancelled.

    Raises:
        Exception: What it raised.
    """
    task: Any = asyncio.current_task()
    deadlines: Deadlines[asyncio.Task[Any]] = Deadlines(seconds, asyncio.Task.cancel, LoopClock())
    deadlines.add(task)
    try:
        await awaitable
    except asyncio.CancelledError:
        # cancelled by somebody else, too
        if task in deadlines or (sys.version_info >= (3, 11) and task.uncancel()):
            raise
        return False
    finally:
        deadlines.close()
    return True
