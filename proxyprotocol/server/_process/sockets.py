"""Floor 6: listening sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.result import describe_address
from proxyprotocol.server._process.program import ProgramError, describe_error
from proxyprotocol.server._relay.options import Listening
from proxyprotocol.server.address import Address

__all__: list[str] = []


def listen(listening: Listening, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listen on an address: on all that its host has, where it is a name.

    Args:
        listening: The address.
        reuse_port: Whether others are to listen there too.

    Returns:
        The sockets, which do not block.

    Raises:
        ProgramError: The address cannot be had.
    """
    if listening.address.path is not None:
        return [_listen_unix(listening.address.path, listening.backlog)]
    return listen_at(listening.address, listening.backlog, reuse_port or listening.reuse_port)


def listen_at(at: Address, backlog: int, reuse_port: bool) -> list[socket.socket]:
    """Listen on a host and a port.

    Args:
        at: The address, which is no UNIX socket's.
        backlog: How many connections may wait.
        reuse_port: Whether others are to listen there too.

    Returns:
        The sockets, which do not block.

    Raises:
        ProgramError: The address cannot be had.
    """
    host, port = at.host, at.port
    try:
        found = socket.getaddrinfo(
            None if host in ("", "*") else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = describe_error(error) if isinstance(error, OSError) else str(error)
        raise ProgramError(f"There is no address for the host of {at.name}: {reason}") from None
    with contextlib.ExitStack() as stack:
        sockets = []
        for family, *_, address in dict.fromkeys(found):
            sock = _open(family)
            if sock is None:
                continue
            stack.callback(sock.close)
            _bind(sock, address, reuse_port)
            sock.listen(backlog)
            sockets.append(sock)
        if not sockets:
            raise ProgramError(f"This system has no sockets for {at.name}")
        stack.pop_all()
    return sockets


def share(sock: socket.socket, backlog: int) -> socket.socket:
    """Listen once more where a socket does that was made for several.

    Args:
        sock: The socket. One of UNIX is given back itself: it has one queue for all.
        backlog: How many connections may wait.

    Raises:
        ProgramError: The address cannot be had.
    """
    if sock.family == AF_UNIX:
        return sock
    other = _open(sock.family)
    assert other is not None
    _bind(other, sock.getsockname(), True)
    other.listen(backlog)
    return other


def _open(family: int) -> socket.socket | None:
    """Make a socket; None where the system has no such family, as many have no IPv6 in spite of the name's address."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return None
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # what is accepted inherits it: small pieces are passed on as they come
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == socket.AF_INET6:
        # IPv4 has a socket of its own, and its addresses are not to look like those of IPv6
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _bind(sock: socket.socket, address: tuple[object, ...], reuse_port: bool) -> None:
    if reuse_port:
        if not hasattr(socket, "SO_REUSEPORT"):
            raise ProgramError("Several processes cannot listen on one port here: this system has no SO_REUSEPORT")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(address)
    except OSError as error:
        raise ProgramError(f"Cannot listen on {describe_address(address)}: {describe_error(error)}") from None


def _listen_unix(path: str, backlog: int) -> socket.socket:
    if AF_UNIX is None:
        raise ProgramError("This system has no UNIX sockets")
    if not path.startswith("\0"):
        _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ProgramError(f"Cannot listen on {describe_address(path)}: {describe_error(error)}") from None
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more, left behind by a process that was killed."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()


def unlink(sock: socket.socket) -> None:
    """Remove the path of a UNIX socket, before it is closed.

    Args:
        sock: The socket, of any kind.
    """
    if sock.family == AF_UNIX and sock.fileno() >= 0:
        path = sock.getsockname()
        if isinstance(path, str) and path:
            with contextlib.suppress(OSError):
                Path(path).unlink()
