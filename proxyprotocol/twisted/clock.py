"""The clock for deadlines, which ignores changes of the system clock.

Twisted's reactors follow the system clock: if somebody sets it back by an hour, every timer fires an hour late. A
thread detects this; it runs only while a timer is set. Checking the clock on each new connection would not be enough:
without new connections the reactor calls nothing, and the late timers stay late.
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

_EVERY: Final = 0.25  # seconds between two checks; a busy reactor may be late by as much


class Clock:
    """Returns the time and starts timers.

    Args:
        reactor: The source of time, such as a ``twisted.internet.task.Clock`` in a test; None for the global reactor.
    """

    def __init__(self, reactor: IReactorTime | None) -> None:
        self._given = reactor
        self._lock = Lock()  # guards _timers and _watched
        self._timers: set[_Timer] = set()
        self._watched = False

    @cached_property
    def _reactor(self) -> Any:
        if self._given is not None:
            return self._given
        from twisted.internet import reactor

        return reactor  # imported late: the application may install a reactor after it has made a factory

    @cached_property
    def time(self) -> Callable[[], float]:
        """A function that returns seconds, from a clock that does not jump."""
        # a reactor without threads is a test clock
        seconds: Callable[[], float] = time.monotonic if self._is_real else self._reactor.seconds
        return seconds

    @cached_property
    def _is_real(self) -> bool:
        return bool(IReactorThreads.providedBy(self._reactor))

    def call_later(self, seconds: float, function: Callable[[], None]) -> _Timer:
        """Start a timer.

        Args:
            seconds: The delay.
            function: Called when the time is over, unless the timer is cancelled first.
        """
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
        """Stop watching a timer that has fired or was cancelled."""
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
                with contextlib.suppress(RuntimeError):  # from asyncio's loop after it was closed
                    self._reactor.callFromThread(timer.fire)


class _Timer:
    """A timer that the reactor fires or, if the reactor is late, the thread."""

    __slots__ = ("_clock", "_function", "call", "due")

    def __init__(self, clock: Clock, due: float, function: Callable[[], None]) -> None:
        self._clock, self.due, self._function = clock, due, function
        self.call: Any = None

    def fire(self) -> None:
        """Call the function, unless the timer has fired or was cancelled."""
        if self.call is not None:
            self.cancel()
            self._function()

    def cancel(self) -> None:
        """Stop the timer."""
        call, self.call = self.call, None
        if call.active():
            call.cancel()
        self._clock.forget(self)
