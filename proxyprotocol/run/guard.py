"""Refuses the connections of listening sockets on which nothing reads headers."""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
from typing import Any
from weakref import WeakSet

from proxyprotocol._adapters.settings import covered, process_settings, self_reading
from proxyprotocol.options import spell_variable
from proxyprotocol.result import describe_address

__all__ = ["watch"]

_log = logging.getLogger("proxyprotocol.run")

# These talk to their own processes through UNIX sockets.
_INTERNAL = ("multiprocessing", "multiprocess", "billiard")
_WHAT_TO_DO = (
    "If proxies connect there, put proxyprotocol-server before it, with ?transparent=yes on the destination; if not, "
    "name all ports that read headers with --ports=..., or serve every connection as it is with --uncovered=allow"
)

_allowed: WeakSet[Any] = WeakSet()
_told: WeakSet[Any] = WeakSet()


def watch(kind: Any) -> None:
    """Let ``accept()`` of a class of sockets return no connection of a listener on which nothing reads headers."""
    begin = kind.accept

    @functools.wraps(begin)
    def accept(sock: Any) -> Any:
        # before accept(), which may block: the log tells at once that connections will be refused
        allowed = sock in covered or sock in _allowed or _allows(sock, sys._getframe(1).f_globals.get("__name__", ""))
        while True:
            accepted = begin(sock)
            if allowed or sock in covered:
                return accepted
            accepted[0].close()

    kind.accept = accept


def _allows(sock: Any, caller: str) -> bool:
    internal = sock.family == socket.AF_UNIX and caller.partition(".")[0] in _INTERNAL
    if internal or sock in self_reading or not process_settings().covers(sock) or _is_duplicate(sock):
        _allowed.add(sock)
        return True
    allows = os.environ.get(spell_variable("uncovered")) == "allow"
    if sock not in _told:
        _told.add(sock)
        where = describe_address(sock.getsockname())
        if allows:
            _log.warning("Nothing reads headers on %s: connections are served as they are, by --uncovered=allow", where)
        else:
            _log.warning("Nothing reads headers on %s: refuses every connection. %s", where, _WHAT_TO_DO)
    return allows


def _is_duplicate(sock: Any) -> bool:
    """Return whether another object stands for the same socket, and is covered."""
    number = os.fstat(sock.fileno()).st_ino
    references: Any = covered
    others = [reference() for reference in references.data.copy()]  # a thread may add to the set meanwhile
    return any(
        other is not None and other.fileno() >= 0 and os.fstat(other.fileno()).st_ino == number for other in others
    )
