"""Several processes that serve the same ports."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from proxyprotocol.server._process.signals import ENDING

__all__: list[str] = []

_log = logging.getLogger("proxyprotocol.server")

_WATCHED: Final = ENDING | {signal.SIGHUP, signal.SIGCHLD}
_REST: Final = 1.0  # seconds between two starts of one worker: a worker that fails at once must not spin


class Workers:
    """Starts workers, passes signals on to them, and replaces each that dies.

    Args:
        count: How many.
        work: Does a worker's work, and returns its exit status. It gets the worker's number and a file descriptor,
            which has a byte for each SIGTERM or SIGINT of the parent, and the end of file when the parent is gone.
        stop_listening: Closes the parent's listening sockets.
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
        self._told = -1
        self._status = 0
        self._running: dict[int, int] = {}  # workers by process id
        self._due = dict.fromkeys(range(count), 0.0)  # when to start each worker that does not run
        self._pipes: dict[int, int] = {}  # the pipe to each worker, by process id

    def run(self) -> int:
        """Start the workers, and return the exit status when all have ended; in a worker, when its work is done."""
        # Blocked signals wait until sigwait() asks for them, so that none comes between two steps. The system does not
        # keep a signal that is ignored, as SIGCHLD is: hence these handlers, which never run.
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        while self._running or self._due:
            for worker in [worker for worker, due in self._due.items() if due <= time.monotonic()]:
                if not self._start(worker):
                    return self._become(worker)
            self._take_signal()
        return self._status

    def _start(self, worker: int) -> bool:
        """Start a worker, and return False in the new process."""
        self._told, tell = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(tell)
            return False
        os.close(self._told)
        self._running[pid], self._pipes[pid] = worker, tell
        del self._due[worker]
        return True

    def _become(self, worker: int) -> int:
        for tell in self._pipes.values():  # its siblings must see the end of file when the parent is gone
            os.close(tell)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Ctrl-C and systemd signal the whole group: the worker would get each signal twice, and take the second for
        # haste
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        # the other signals stay blocked until the work has handlers for them
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        return self._work(worker, self._told)

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
            for pid in self._running:
                os.kill(pid, signal.SIGHUP)  # the process exists until waitpid()
        elif number is not None:
            self._end()

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            self._stop_listening()
        self._due.clear()
        for tell in self._pipes.values():
            with contextlib.suppress(BrokenPipeError):  # the worker has ended already
                os.write(tell, b"T")

    def _reap(self) -> None:
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                os.close(self._pipes.pop(pid))
                self._take_end(self._running.pop(pid), os.waitstatus_to_exitcode(status))

    def _take_end(self, worker: int, status: int) -> None:
        if self._ending:
            self._status = self._status or abs(status)
            return
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        _log.error("Worker %s ended %s; a new one replaces it", worker, how)
        self._died(worker)
        self._due[worker] = time.monotonic() + _REST
