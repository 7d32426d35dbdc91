"""Floor 6: several processes that serve the same ports."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

__all__: list[str] = []

_log = logging.getLogger("proxyprotocol.server")

_ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
_WATCHED = _ENDING | {signal.SIGHUP, signal.SIGCHLD}
_REST: Final = 1.0  # seconds between two starts of one worker, so that one that cannot live does not spin


class Workers:
    """Processes that are ended, and told to reload, when their parent is; one that dies is replaced.

    Args:
        count: How many.
        work: What each does, with its number and a file descriptor that becomes readable when the parent is gone. It
            gives the exit status.
        stop_listening: Closes what the parent holds of the listening sockets.
        died: Called with the number of a worker that has died.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[int, int], int],
        stop_listening: Callable[[], None],
        died: Callable[[int], None],
    ) -> None:
        self._work = work
        self._stop_listening = stop_listening
        self._died = died
        self._ending = False
        self._status = 0
        self._running: dict[int, int] = {}  # workers by their processes
        self._due = dict.fromkeys(range(count), 0.0)  # when those are to be started that do not run
        self._alive = os.pipe()

    def run(self) -> int:
        """Start them, and return when they have all ended; in each of them, when its work is done.

        Returns:
            The exit status.
        """
        # no handlers: signals wait until they are asked for, so that none comes between two steps
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # what is ignored is not kept
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        while self._running or self._due:
            for worker in [worker for worker, due in self._due.items() if due <= time.monotonic()]:
                if not self._start(worker):
                    return self._become(worker)
            self._take_signal()
        return self._status

    def _start(self, worker: int) -> bool:
        """Start a worker; false in the new process."""
        pid = os.fork()
        if pid:
            self._running[pid] = worker
            del self._due[worker]
        return bool(pid)

    def _become(self, worker: int) -> int:
        os.close(self._alive[1])
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        return self._work(worker, self._alive[0])

    def _take_signal(self) -> None:
        if self._due:
            wait = max(min(self._due.values()) - time.monotonic(), 0)
            taken = signal.sigtimedwait(_WATCHED, wait)
            number = None if taken is None else taken.si_signo
        else:
            number = signal.sigwait(_WATCHED)
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self._tell(signal.SIGHUP)
        elif number is not None:
            self._end()

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            self._stop_listening()
        self._due.clear()
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._running:
            os.kill(pid, number)  # it is there until it is waited for

    def _reap(self) -> None:
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._take_end(self._running.pop(pid), os.waitstatus_to_exitcode(status))

    def _take_end(self, worker: int, status: int) -> None:
        if self._ending:
            # a second SIGTERM may come when a worker is past the point where it would take it
            self._status = self._status or (0 if status == -signal.SIGTERM else abs(status))
            return
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        _log.error("Worker %s has ended %s, and is replaced", worker, how)
        self._died(worker)
        self._due[worker] = time.monotonic() + _REST
