"""The input of `decode`. SIGINT ends it like the end of a file, so that `decode` still prints what it has."""

from __future__ import annotations

import signal
import threading
from typing import IO, Any, Final

# Seconds to read on after SIGINT. Ctrl-C reaches tcpdump too, and without -U it writes its packets only then.
_GRACE: Final = 1.0
# Windows has no such signal, and does without the grace.
_ALARM: Final = (signal.SIGALRM,) if hasattr(signal, "SIGALRM") else ()


class Input:
    """A file that ends at the end of its bytes or, a moment after SIGINT, earlier; a second SIGINT ends it at once.

    Args:
        file: A buffered binary file, which the caller closes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        #: Whether SIGINT came.
        self.interrupted = False
        self._file: Any = file
        self._ended = self._reading = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Input:
        # a shell lets its background jobs ignore SIGINT, and only the main thread may handle signals
        heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if heeded and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *_ALARM):
                self._handlers[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if _ALARM and self.interrupted:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _interrupt(self, *_: object) -> None:
        if _ALARM and not self.interrupted:
            signal.setitimer(signal.ITIMER_REAL, _GRACE)
        else:
            self._ended = True
        self.interrupted = True
        if self._ended and self._reading:
            raise KeyboardInterrupt

    def read(self, size: int) -> bytes:
        """Read *size* bytes; fewer at the end only."""
        parts = []
        while size and (part := self._read_some(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _read_some(self, size: int) -> bytes:
        self._reading = not self._ended
        try:
            # read1(), because an interrupted read() loses the bytes that it already has
            return self._file.read1(size) if self._reading else b""
        except KeyboardInterrupt:
            return b""
        finally:
            self._reading = False
