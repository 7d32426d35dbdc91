"""Headers on sockets that have no transport yet. We read up to the last byte of the header, and no further."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

from proxyprotocol._adapters.deadlines import in_time
from proxyprotocol._adapters.lookahead import REST, plan_reads
from proxyprotocol._adapters.refusals import log_refusal
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr

__all__ = ["covered", "receive_header"]

_log = logging.getLogger("proxyprotocol.asyncio")

_T = TypeVar("_T")

#: The sockets, listening or connected, on which another part of this package reads the headers. Our loops skip them.
covered: WeakSet[socket.socket] = WeakSet()


async def receive_header(
    sock: socket.socket, peer: SockAddr, receiver: Receiver, begin: Callable[[ReceiverConnection], _T]
) -> _T | None:
    """Read the header of a connection, and return what *begin* makes of it.

    Args:
        sock: The connection, which becomes non-blocking.
        peer: The address that connected.
        receiver: The rules for the header.
        begin: Called when the header is accepted.

    Returns:
        The result of *begin*. None if the connection was refused or lost: it is closed and logged then.
    """
    try:
        sock.setblocking(False)
        connection = receiver.connection(peer, sock.getsockname())
        if not await in_time(_read_on(sock, connection), receiver.timeout):
            connection.timed_out()
        return begin(connection)
    except BaseException as error:
        sock.close()
        if isinstance(error, ProxyProtocolError):
            log_refusal(_log, error, peer)
        elif isinstance(error, OSError):
            _log.debug("The connection from %s was lost: %s", describe_address(peer), error)
        else:
            raise  # the policy function raised, or this task was cancelled
    return None


async def _read_on(sock: socket.socket, connection: ReceiverConnection) -> None:
    reads = plan_reads(sock, connection)
    with contextlib.suppress(StopIteration):
        read = next(reads)
        while True:
            if read is None:
                await asyncio.sleep(REST)
                read = next(reads)
            else:
                read = reads.send(await _receive(sock, *read))


async def _receive(sock: socket.socket, size: int, flags: int) -> bytes:
    """Receive what is there, *size* bytes at most; nothing at the end of the stream."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return sock.recv(size, flags)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(sock, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(sock)
        except OSError:  # such as a reset, which is an end like another here
            return b""
