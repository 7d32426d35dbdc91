"""Signals that arrive while a server starts."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Final

#: The signals that end a server.
ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_HANDLED: Final = ENDING | {signal.SIGHUP}


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block the signals that a server handles, from before it listens until :func:`let_through`.

    A signal may come as soon as a server listens. Without a handler, it would end the process at once.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Unblock the signals, once there are handlers for them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
