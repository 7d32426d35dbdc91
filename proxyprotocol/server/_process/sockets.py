"""Listening sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.result import describe_address
from proxyprotocol.server._process import systemd
from proxyprotocol.server._process.program import ProgramError, describe_error
from proxyprotocol.server._relay.options import Listening
from proxyprotocol.server.address import Address


def listen(listening: Listening, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listen on an address, or on every address of its host, and return non-blocking sockets.

    Raises:
        ProgramError: Listening there is impossible.
    """
    if listening.address.passed is not None:
        return [_prepare(sock) for sock in systemd.take(listening.address.passed)]
    if listening.address.path is not None:
        return [_listen_unix(listening.address.path, listening.backlog)]
    return listen_at(listening.address, listening.backlog, reuse_port or listening.reuse_port)


def listen_at(at: Address, backlog: int, reuse_port: bool) -> list[socket.socket]:
    """Do the same for a host and a port; *backlog* connections may wait to be accepted."""
    host = None if at.host in ("", "*") else at.host
    try:
        found = socket.getaddrinfo(host, at.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = describe_error(error) if isinstance(error, OSError) else str(error)
        raise ProgramError(f"The host of {at.name} has no address: {reason}") from None
    with contextlib.ExitStack() as stack:
        sockets = []
        for family, *_, address in dict.fromkeys(found):
            sock = _open(family, address, backlog, reuse_port)
            if sock is not None:
                sockets.append(stack.enter_context(sock))
        if not sockets:
            raise ProgramError(f"Cannot listen on {at.name}: this system supports none of its address families")
        stack.pop_all()
    return sockets


def share(sock: socket.socket, backlog: int) -> socket.socket:
    """Listen with another socket on the address of *sock*; return a UNIX socket itself, because it has one queue."""
    other = None if sock.family == AF_UNIX else _open(sock.family, sock.getsockname(), backlog, reuse_port=True)
    return other or sock


def _open(family: int, address: tuple[object, ...], backlog: int, reuse_port: bool) -> socket.socket | None:
    """Listen on an IP address; return None if the system lacks the family, such as IPv6."""
    try:
        # IPv4 and IPv6 get a socket each: IPv4 clients must not have mapped IPv6 addresses
        sock = socket.create_server(address, family=family, backlog=backlog, reuse_port=reuse_port)
    except ValueError:
        raise ProgramError("Several processes cannot listen on one port: this system has no SO_REUSEPORT") from None
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise ProgramError(f"Cannot listen on {describe_address(address)}: {os.strerror(error.errno or 0)}") from None
    return _prepare(sock)


def _prepare(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    if sock.family != AF_UNIX:
        # accepted sockets inherit this: the relay passes small pieces on at once
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _listen_unix(path: str, backlog: int) -> socket.socket:
    if AF_UNIX is None:
        raise ProgramError("This system has no UNIX sockets")
    if not path.startswith("\0"):
        # remove a socket that a killed process left there
        with contextlib.suppress(OSError), socket.socket(AF_UNIX) as probe:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                probe.setblocking(False)
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    Path(path).unlink()
    sock = socket.socket(AF_UNIX)
    sock.setblocking(False)
    try:
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ProgramError(f"Cannot listen on {describe_address(path)}: {describe_error(error)}") from None
    return sock


def unlink(sock: socket.socket) -> None:
    """Remove the path of a UNIX socket, which is still open; do nothing for another socket."""
    if sock.family == AF_UNIX and sock.fileno() >= 0:
        path = sock.getsockname()
        if isinstance(path, str) and path:
            with contextlib.suppress(OSError):
                Path(path).unlink()
