"""The threads that look up names, and a way to end the process without waiting for them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__: list[str] = []


class LookUps(ThreadPoolExecutor):
    """The loop's default executor, which shuts down without waiting.

    Nobody can cancel the system's look-up of a name, and it lasts until the name server answers.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="look-up")
        self._open: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function in a thread."""
        future = super().submit(fn, *args, **kwargs)
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Accept no more work, and cancel what has not begun; both arguments are ignored."""
        super().shutdown(wait=False, cancel_futures=True)

    def leave_the_rest(self) -> None:
        """End the process with status 0 if a look-up still runs, because Python would wait for it at exit."""
        if any(future.running() for future in list(self._open)):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
