"""Listening sockets that systemd has opened: socket activation."""

from __future__ import annotations

import os
import socket
from functools import cache

from proxyprotocol.messages import describe_unknown
from proxyprotocol.server._process.program import ProgramError, describe_error

_FIRST = 3  # the descriptor of the first socket; the others follow


@cache
def _passed() -> list[tuple[str, int]]:
    """Return name and descriptor of each socket that systemd passed to this process, and forget the variables."""
    count, process, names = (os.environ.pop(f"LISTEN_{name}", "") for name in ("FDS", "PID", "FDNAMES"))
    if process != str(os.getpid()) or not count.isdecimal():
        return []
    descriptors = range(_FIRST, _FIRST + int(count))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    # before version 227, systemd did not name its sockets
    listed = names.split(":") if names else [""] * len(descriptors)
    return list(zip(listed, descriptors, strict=True))


def take(name: str) -> list[socket.socket]:
    """Return the sockets that systemd passed by this name, or the one at this place in their order, from 0.

    Raises:
        ProgramError: There is none, or it does not listen.
    """
    try:
        passed = _passed()
    except (OSError, ValueError) as error:
        raise ProgramError(f"systemd:{name}: LISTEN_FDS, LISTEN_FDNAMES and the open files differ: {error}") from None
    if not passed:
        raise ProgramError(
            f"systemd:{name} needs a socket from systemd, which has passed none: start the relay by its .socket unit"
        )
    found = [descriptor for known, descriptor in passed if known == name]
    if not found and name.isdecimal() and int(name) < len(passed):
        found = [passed[int(name)][1]]
    if not found:
        known = list(dict.fromkeys(known or str(place) for place, (known, _) in enumerate(passed)))
        raise ProgramError(f"systemd:{name}: {describe_unknown('socket', name, known)}")
    return [_listening(name, descriptor) for descriptor in found]


def _listening(name: str, descriptor: int) -> socket.socket:
    try:
        # a copy: the service may leave the configuration, and come back
        sock = socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise ProgramError(f"systemd:{name} is not a socket: {describe_error(error)}") from None
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ProgramError(f"systemd:{name} does not listen: its unit needs ListenStream= and Accept=no")
    sock.setblocking(False)
    return sock
