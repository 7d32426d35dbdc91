"""Several processes that serve the same ports."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

from proxyprotocol.server._process.signals import ENDING

_log = logging.getLogger("proxyprotocol.server")

_WATCHED: Final = ENDING | {signal.SIGHUP, signal.SIGCHLD}
_REST: Final = 1.0  # seconds until a dead worker is replaced: one that fails at once must not keep the processor busy
_LONG: Final = 3600.0  # seconds; a wait without a deadline
_TELL: Final = 5.0  # seconds; a worker that does not read its orders for so long hangs
_MOST_READ: Final = 65536  # bytes
_MOST_DESCRIPTORS: Final = 253  # that Linux passes at once

#: What a worker must do: a word, and what belongs to it.
Order: TypeAlias = "tuple[str, Any]"
#: The order to end: to drain at first, and to end at once the second time.
END: Final[Order] = ("end", None)


class Parent:
    """A worker's end of the connection to its parent, which passes orders and file descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._data = b""
        self._descriptors: list[int] = []

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> Iterator[tuple[Order, list[int]]]:
        """Yield the orders that have come, with their descriptors.

        Raises:
            EOFError: The parent is gone.
        """
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, _MOST_READ, _MOST_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            raise EOFError
        self._descriptors += descriptors
        *lines, self._data = (self._data + data).split(b"\n")
        for line in lines:
            word, what, count = json.loads(line)
            taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
            yield (word, what), taken


class Workers:
    """Starts *count* workers, passes signals on to them, and replaces each that dies.

    *work* does a worker's work, and returns its exit status. It gets the worker's number and its :class:`Parent`.
    *stop_listening* closes the parent's listening sockets. *died* is called with the number of a worker that has died.
    *reload* is called for SIGHUP, and returns what gives the orders for each worker.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[int, Parent], int],
        stop_listening: Callable[[], None],
        died: Callable[[int], None],
        reload: Callable[[], Callable[[int], Iterable[tuple[Order, list[int]]]]],
    ) -> None:
        self._work, self._stop_listening, self._died, self._reload = work, stop_listening, died, reload
        self._ending = False
        self._status = 0
        self._running: dict[int, int] = {}  # workers by process id
        self._due = dict.fromkeys(range(count), 0.0)  # when to start each worker that does not run
        self._pipes: dict[int, socket.socket] = {}  # the connection to each worker, by process id

    def run(self) -> int:
        """Start the workers, and return the exit status when all have ended; in a worker, when its work is done."""
        # Blocked signals wait until sigwait() asks for them, so that none comes between two steps. The system does not
        # keep a signal that is ignored, as SIGCHLD is: hence these handlers, which never run.
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        while self._running or self._due:
            for worker in [worker for worker, due in self._due.items() if due <= time.monotonic()]:
                told, tell = socket.socketpair()
                tell.settimeout(_TELL)
                pid = os.fork()
                if not pid:
                    tell.close()
                    return self._become(worker, told)
                told.close()
                self._running[pid], self._pipes[pid] = worker, tell
                del self._due[worker]
            wait = max(min(self._due.values()) - time.monotonic(), 0) if self._due else _LONG
            taken = signal.sigtimedwait(_WATCHED, wait)
            if taken is None:
                continue
            if taken.si_signo == signal.SIGCHLD:
                self._reap()
            elif taken.si_signo == signal.SIGHUP and self._ending:
                pass  # nothing new is opened any more
            elif taken.si_signo == signal.SIGHUP:
                orders = self._reload()
                for pid, worker in self._running.items():
                    for order, descriptors in orders(worker):
                        self._tell(pid, order, descriptors)
            else:
                self._end()
        return self._status

    def _tell(self, pid: int, order: Order, descriptors: Iterable[int] = ()) -> None:
        """Give an order to a worker."""
        descriptors, pipe = list(descriptors), self._pipes[pid]
        data = json.dumps([*order, len(descriptors)]).encode() + b"\n"
        try:
            pipe.sendall(data[socket.send_fds(pipe, [data], descriptors) :])
        except TimeoutError:
            _log.error("A worker does not answer its parent, and is killed")
            os.kill(pid, signal.SIGKILL)  # the process exists until waitpid()
        except OSError:
            pass  # the worker has ended already

    def _become(self, worker: int, told: socket.socket) -> int:
        """Do the work of a worker, in its new process."""
        for tell in self._pipes.values():  # its siblings must see the end of file when the parent is gone
            tell.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Ctrl-C and systemd signal the whole group: the worker would get each signal twice, and take the second for
        # an order to end at once
        for number in (*ENDING, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # the other signals stay blocked until the work has handlers for them
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        return self._work(worker, Parent(told))

    def _end(self) -> None:
        """Tell the workers to end, and to end at once if they were told before."""
        if not self._ending:
            self._ending = True
            self._stop_listening()
        self._due.clear()
        for pid in self._pipes:
            self._tell(pid, END)

    def _reap(self) -> None:
        """Replace the workers that have died."""
        for pid in list(self._running):
            ended, code = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            self._pipes.pop(pid).close()
            worker, status = self._running.pop(pid), os.waitstatus_to_exitcode(code)
            if self._ending:
                self._status = self._status or abs(status)
                continue
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            _log.error("Worker %s ended %s; a new one replaces it", worker, how)
            self._died(worker)
            self._due[worker] = time.monotonic() + _REST
