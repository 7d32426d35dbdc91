"""Floor 6: the threads that names are looked up in, and an end that does not wait for them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__: list[str] = []


class LookUps(ThreadPoolExecutor):
    """The loop's default executor, which is shut down without a wait.

    The system's look-up of a name cannot be cancelled, and takes as long as the name server does not answer.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="look-up")
        self._open: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do something in a thread.

        Args:
            fn: What.
            args: What it is called with.
            kwargs: Likewise.
        """
        future = super().submit(fn, *args, **kwargs)
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Take no more work, and let go what there is.

        Args:
            wait: Is not done.
            cancel_futures: Is always done.
        """
        super().shutdown(wait=False, cancel_futures=True)

    def leave_the_rest(self) -> None:
        """End the process with status 0 if a look-up still goes on, for which Python would wait at its end."""
        if any(future.running() for future in list(self._open)):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
