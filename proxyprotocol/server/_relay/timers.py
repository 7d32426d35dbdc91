"""Floor 6: the deadlines of all connections, by one timer."""

from __future__ import annotations

import asyncio
from typing import Final

__all__: list[str] = []

# Seconds. A deadline is met up to so much late: none of ours is for anything that hurries.
_GRAIN: Final = 0.25


class Timed:
    """Something that has a deadline.

    Attributes:
        deadline: When, by the loop's clock, it is late. A later one may be assigned at any time; an earlier one must be
            set with :meth:`Wheel.set`.
    """

    __slots__ = ("_slot", "deadline")

    def __init__(self) -> None:
        self.deadline = 0.0
        self._slot = -1

    def expired(self) -> None:
        """Take the end of the time. The deadline is forgotten then."""
        raise NotImplementedError


class Wheel:
    """Keeps deadlines in slots of a quarter of a second.

    A connection that is busy only writes down a later deadline, and is moved when its slot's time has come: nothing is
    done at the wheel for bytes that pass. A timer of the loop's own for each connection cost a tenth of its whole life.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0

    def set(self, timed: Timed, seconds: float | None) -> None:
        """Give a deadline, in place of the one before.

        Args:
            timed: What it is for.
            seconds: From now; None for none.
        """
        if seconds is None:
            self.discard(timed)
            return
        timed.deadline = self._loop.time() + seconds
        slot = _slot_of(timed.deadline)
        if not 0 <= timed._slot <= slot:
            self._move(timed, slot)

    def discard(self, timed: Timed) -> None:
        """Forget a deadline.

        Args:
            timed: What it was for, which may have none.
        """
        if timed._slot >= 0:
            self._slots[timed._slot].discard(timed)
            timed._slot = -1

    def close(self) -> None:
        """Stop the timer."""
        self._slots.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _move(self, timed: Timed, slot: int) -> None:
        self.discard(timed)
        timed._slot = slot
        self._slots.setdefault(slot, set()).add(timed)
        if self._timer is None or slot < self._next:
            self._schedule(slot)

    def _schedule(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = slot
        self._timer = self._loop.call_at(slot * _GRAIN, self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._loop.time()
        due = [slot for slot in self._slots if slot * _GRAIN <= now]
        late = [timed for slot in due for timed in self._slots.pop(slot)]
        for timed in late:
            timed._slot = -1
        for timed in late:
            if timed.deadline > now:
                self._move(timed, _slot_of(timed.deadline))
            else:
                self._expire(timed)
        if self._slots and self._timer is None:
            self._schedule(min(self._slots))

    def _expire(self, timed: Timed) -> None:
        try:
            timed.expired()
        except Exception as error:  # a mistake in one is not to cost the others their deadlines
            self._loop.call_exception_handler({"message": "A deadline could not be met", "exception": error})


def _slot_of(deadline: float) -> int:
    return int(deadline / _GRAIN) + 1
