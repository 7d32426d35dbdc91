"""Floor 6: signals that come while a server begins."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Final

__all__: list[str] = []

#: What tells a server to end.
ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_HANDLED: Final = ENDING | {signal.SIGHUP}


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back what a server handles, from before it listens: by default each of them ends a process at once.

    Who sees that a server listens may connect, or signal it, while it is not yet ready for that. :func:`let_through`
    ends it; a process that ends before has its signals as they were.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Let come what was held back, now that there are handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
