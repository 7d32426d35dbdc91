"""The deadlines of the relay's connections: one ordered queue for each length of wait."""

from __future__ import annotations

import asyncio
from typing import Any

from proxyprotocol._adapters.deadlines import Deadlines, LoopClock


class Timed:
    """Something that waits in one queue at a time. Its constructor must set :attr:`queue` to None."""

    __slots__ = ("queue",)

    queue: Deadlines[Timed] | None

    def wait(self, queue: Deadlines[Timed] | None) -> None:
        """Leave the present queue, and wait from now on in *queue*; None stops waiting."""
        if self.queue is not None:
            self.queue.discard(self)
        self.queue = queue
        if queue is not None:
            queue.add(self)

    def expired(self) -> None:
        """Handle that the deadline has passed. The queue has forgotten this object by then."""
        raise NotImplementedError


class Queues(dict["float | None", Deadlines[Timed]]):
    """The queues by their length of wait in seconds. There are few: one for each time-out that an option sets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        # one call less for each deadline than LoopClock, which uvloop needs
        self._clock: Any = loop if isinstance(loop, asyncio.BaseEventLoop) else LoopClock()

    def __missing__(self, seconds: float | None) -> Deadlines[Timed]:
        queue = self[seconds] = Deadlines(seconds, self._expire, self._clock)
        return queue

    def _expire(self, timed: Timed) -> None:
        try:
            timed.expired()
        except Exception as error:  # an error in one connection must not cost the others their deadlines
            self._loop.call_exception_handler({"message": "Handling a missed deadline failed", "exception": error})
