"""Floor 5: the clock of the deadlines, which does not follow the system's.

Twisted's reactors do: when somebody sets the system's clock back by an hour, every timer fires an hour late. A thread
notices that; it runs only while a timer is set. Tried instead: to look at the clock for each new connection, which does
not help where nobody else connects. A reactor calls nothing else then.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import cached_property
from threading import Lock, Thread
from typing import Any, Final

from twisted.internet.interfaces import IReactorThreads, IReactorTime

__all__ = ["Clock"]

_EVERY: Final = 0.25  # seconds between two looks; a busy reactor may also be late by so many


class Clock:
    """Tells the time and starts timers.

    Args:
        reactor: What to ask for it, such as a ``twisted.internet.task.Clock`` in a test; None for the global reactor.
    """

    def __init__(self, reactor: IReactorTime | None) -> None:
        self._given = reactor
        self._lock = Lock()  # of the two below
        self._timers: set[_Timer] = set()
        self._watched = False

    @cached_property
    def _reactor(self) -> Any:
        if self._given is not None:
            return self._given
        from twisted.internet import reactor

        return reactor  # not before: whoever makes a factory may still want to install one

    @cached_property
    def time(self) -> Callable[[], float]:
        """Returns seconds, by a clock that does not jump."""
        # what has no threads is a test's
        seconds: Callable[[], float] = time.monotonic if self._is_real else self._reactor.seconds
        return seconds

    @cached_property
    def _is_real(self) -> bool:
        return bool(IReactorThreads.providedBy(self._reactor))

    def call_later(self, seconds: float, function: Callable[[], None]) -> _Timer:
        """Start a timer."""
        timer = _Timer(self, self.time() + seconds, function)
        timer.call = self._reactor.callLater(seconds, timer.fire)
        with self._lock:
            self._timers.add(timer)
            begin = self._is_real and not self._watched
            self._watched = self._watched or begin
        if begin:
            Thread(target=self._watch, name="proxyprotocol-deadlines", daemon=True).start()
        return timer

    def forget(self, timer: _Timer) -> None:
        """Take the end of a timer."""
        with self._lock:
            self._timers.discard(timer)

    def _watch(self) -> None:
        while self._watched:
            time.sleep(_EVERY)
            with self._lock:
                overdue = [timer for timer in self._timers if timer.due + _EVERY < time.monotonic()]
                self._timers.difference_update(overdue)
                self._watched = bool(self._timers)
            for timer in overdue:
                with contextlib.suppress(RuntimeError):  # asyncio's loop, once it is closed
                    self._reactor.callFromThread(timer.fire)


class _Timer:
    """A timer, fired by the reactor or, if that is late, by the thread."""

    __slots__ = ("_clock", "_function", "call", "due")

    def __init__(self, clock: Clock, due: float, function: Callable[[], None]) -> None:
        self._clock, self.due, self._function = clock, due, function
        self.call: Any = None

    def fire(self) -> None:
        """Call the function, unless that or cancel() has been done."""
        if self.call is not None:
            self.cancel()
            self._function()

    def cancel(self) -> None:
        """Stop it."""
        call, self.call = self.call, None
        if call.active():
            call.cancel()
        self._clock.forget(self)
