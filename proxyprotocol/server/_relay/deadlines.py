"""The deadlines of the relay's connections: one ordered queue for each length of wait."""

from __future__ import annotations

import asyncio

from proxyprotocol._adapters.deadlines import Deadlines, LoopClock

__all__: list[str] = []


class Timed:
    """Something that waits in one queue at a time."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: Deadlines[Timed] | None = None

    def wait(self, queue: Deadlines[Timed] | None) -> None:
        """Leave the present queue, and wait from now on in *queue*; None stops waiting."""
        if self._queue is not None:
            self._queue.discard(self)
        self._queue = queue
        if queue is not None:
            queue.add(self)

    def expired(self) -> None:
        """Handle that the deadline has passed. The queue has forgotten this object by then."""
        raise NotImplementedError


class Queues:
    """One queue for each length of wait, of which there are few: every time-out that an address or an option sets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues: dict[float, Deadlines[Timed]] = {}

    def of(self, seconds: float | None) -> Deadlines[Timed] | None:
        """Return the queue of those who may wait for so many seconds; None for no limit."""
        if seconds is None:
            return None
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = Deadlines(seconds, self._expire, LoopClock())
        return queue

    def close(self) -> list[Timed]:
        """Stop all timers, and return those who still wait."""
        return [timed for queue in self._queues.values() for timed in queue.close()]

    def _expire(self, timed: Timed) -> None:
        try:
            timed.expired()
        except Exception as error:  # an error in one connection must not cost the others their deadlines
            self._loop.call_exception_handler({"message": "Handling a missed deadline failed", "exception": error})
