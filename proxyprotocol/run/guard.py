"""Refuses the connections of listening sockets on which nothing reads headers."""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
from os import close  # gevent replaces it in the module, by one that closes later
from typing import Any
from weakref import WeakSet

from proxyprotocol._adapters.settings import covered, is_for_metrics, process_settings, self_reading
from proxyprotocol.options import spell_variable
from proxyprotocol.result import describe_address

__all__ = ["watch"]

_log = logging.getLogger("proxyprotocol.run")

# These accept connections of their own worker processes on UNIX sockets.
_INTERNAL = {"multiprocessing", "multiprocess", "billiard"}
_WHAT_TO_DO = (
    "If proxies connect there, put the relay before it: proxyprotocol-server with ?transparent=yes on the destination. "
    "If not, name the ports that read headers with --ports=..., or say --uncovered=allow"
)

_allowed: WeakSet[Any] = WeakSet()
_told: WeakSet[Any] = WeakSet()


def watch(kind: Any) -> None:
    """Let a class of sockets accept no connection for a listening socket on which nothing reads headers."""
    begin = kind._accept  # not accept(): gevent's servers call this, of the socket inside gevent's

    @functools.wraps(begin)
    def _accept(sock: Any) -> Any:
        # before the system's accept(), which may block: the log tells at once that connections will be refused
        allowed = sock in covered or sock in _allowed or _allows(sock)
        while True:
            accepted = begin(sock)
            if allowed or sock in covered:
                return accepted
            close(accepted[0])

    kind._accept = _accept


def _allows(sock: Any) -> bool:
    if sock in self_reading or _is_our_own(sock) or _is_duplicate(sock):
        _allowed.add(sock)
        return True
    where = describe_address(sock.getsockname())
    if not process_settings().covers(sock):
        _allowed.add(sock)
        _log.info("Reads no PROXY protocol headers on %s, which --ports does not name", where)
        return True
    allows = os.environ.get(spell_variable("uncovered")) == "allow"
    if sock not in _told:
        _told.add(sock)
        if allows:
            _log.warning("Nothing reads headers on %s: serves every connection, as --uncovered=allow says", where)
        else:
            _log.warning("Nothing reads headers on %s: refuses every connection. %s", where, _WHAT_TO_DO)
    return allows


def _is_our_own(sock: Any) -> bool:
    """Return whether no proxy connects to a socket: it is for the metrics, or for worker processes."""
    if sock.family == socket.AF_UNIX:
        frame: Any = sys._getframe(4)  # the caller of accept(), which has called _accept()
        return frame.f_globals.get("__name__", "").partition(".")[0] in _INTERNAL
    return is_for_metrics(sock.getsockname())


def _is_duplicate(sock: Any) -> bool:
    """Return whether another object stands for the same socket, and is covered."""
    number = os.fstat(sock.fileno()).st_ino
    references: Any = covered
    others = [reference() for reference in references.data.copy()]  # a thread may add to the set meanwhile
    return any(
        other is not None and other.fileno() >= 0 and os.fstat(other.fileno()).st_ino == number for other in others
    )
