"""The clock for deadlines and for the log, which ignores changes of the system clock.

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

from twisted.internet.interfaces import IReactorThreads

from proxyprotocol.twisted.typing import TimeSource

__all__ = ["Clock"]

_EVERY: Final = 0.25  # seconds between two checks; a busy reactor may be late by as much


class Clock:
    """Returns the time and keeps one timer, which is all that a queue of deadlines needs, or the log of a listener.

    The source of time is *reactor*, such as a ``twisted.internet.task.Clock`` in a test; None for the global reactor.
    """

    def __init__(self, reactor: TimeSource | None) -> None:
        self._given = reactor
        self._call: Any = None  # the reactor's timer
        self._lock = Lock()  # keeps a timer from starting while the thread decides to end
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
        real = IReactorThreads.providedBy(self._reactor)
        seconds: Callable[[], float] = time.monotonic if real else self._reactor.seconds
        return seconds

    def call_later(self, seconds: float, function: Callable[[], None]) -> Clock:
        """Start the timer, which must not be running; it calls *function* unless :meth:`cancel` comes first."""
        with self._lock:
            self._due, self._function = self.time() + seconds, function
            call: Any = self._reactor.callLater(seconds, lambda: self._fire(call))
            self._call = call
            start = self.time is time.monotonic and not self._watched
            self._watched = self._watched or start
        if start:
            Thread(target=self._watch, name="proxyprotocol-deadlines", daemon=True).start()
        return self

    def cancel(self) -> None:
        """Stop the timer, if it is running."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _fire(self, call: Any) -> None:
        # the thread may ask for this after the timer fired or was cancelled, and another one was started
        if call is self._call:
            self.cancel()
            self._function()

    def _watch(self) -> None:
        while self._watched:
            time.sleep(_EVERY)
            with self._lock:
                call, late = self._call, self._due + _EVERY < time.monotonic()
                self._watched = call is not None
            if call is not None and late:
                with contextlib.suppress(RuntimeError):  # from asyncio's loop after it was closed
                    self._reactor.callFromThread(self._fire, call)
