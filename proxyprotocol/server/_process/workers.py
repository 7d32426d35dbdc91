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

_log = logging.getLogger("proxyprotocol.server")

_WATCHED: Final = ENDING | {signal.SIGHUP, signal.SIGCHLD}
_REST: Final = 1.0  # seconds until a dead worker is replaced: one that fails at once must not keep the processor busy
_LONG: Final = 3600.0  # seconds; a wait without a deadline


class Workers:
    """Starts *count* workers, passes signals on to them, and replaces each that dies.

    *work* does a worker's work, and returns its exit status. It gets the worker's number and a file descriptor, which
    has a byte for each SIGTERM or SIGINT of the parent, and the end of file when the parent is gone. *stop_listening*
    closes the parent's listening sockets. *died* is called with the number of a worker that has died.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[int, int], int],
        stop_listening: Callable[[], None],
        died: Callable[[int], None],
    ) -> None:
        self._work, self._stop_listening, self._died = work, stop_listening, died
        self._ending = False
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
                told, tell = os.pipe()
                pid = os.fork()
                if not pid:
                    os.close(tell)
                    return self._become(worker, told)
                os.close(told)
                self._running[pid], self._pipes[pid] = worker, tell
                del self._due[worker]
            wait = max(min(self._due.values()) - time.monotonic(), 0) if self._due else _LONG
            taken = signal.sigtimedwait(_WATCHED, wait)
            if taken is None:
                continue
            if taken.si_signo == signal.SIGCHLD:
                self._reap()
            elif taken.si_signo == signal.SIGHUP:
                for pid in self._running:
                    os.kill(pid, signal.SIGHUP)  # the process exists until waitpid()
            else:
                self._end()
        return self._status

    def _become(self, worker: int, told: int) -> int:
        """Do the work of a worker, in its new process."""
        for tell in self._pipes.values():  # its siblings must see the end of file when the parent is gone
            os.close(tell)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Ctrl-C and systemd signal the whole group: the worker would get each signal twice, and take the second for
        # an order to end at once
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        # the other signals stay blocked until the work has handlers for them
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        return self._work(worker, told)

    def _end(self) -> None:
        """Tell the workers to end, and to end at once if they were told before."""
        if not self._ending:
            self._ending = True
            self._stop_listening()
        self._due.clear()
        for tell in self._pipes.values():
            with contextlib.suppress(BrokenPipeError):  # the worker has ended already
                os.write(tell, b"T")

    def _reap(self) -> None:
        """Replace the workers that have died."""
        for pid in list(self._running):
            ended, code = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            os.close(self._pipes.pop(pid))
            worker, status = self._running.pop(pid), os.waitstatus_to_exitcode(code)
            if self._ending:
                self._status = self._status or abs(status)
                continue
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            _log.error("Worker %s ended %s; a new one replaces it", worker, how)
            self._died(worker)
            self._due[worker] = time.monotonic() + _REST
