"""Floor 5: headers on sockets that have no transport yet. They are read to their last byte, and not a byte more."""

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

__all__ = ["accept", "covered"]

_log = logging.getLogger("proxyprotocol.asyncio")

_T = TypeVar("_T")

#: The sockets, listening or connected, on which a helper of this package reads the headers: our loops leave them alone.
covered: WeakSet[socket.socket] = WeakSet()


async def accept(
    sock: socket.socket, peer: SockAddr, receiver: Receiver, begin: Callable[[ReceiverConnection], _T]
) -> _T | None:
    """Read the header of a connection, and begin it.

    Args:
        sock: The connection, which becomes non-blocking.
        peer: Who has connected.
        receiver: How connections are received.
        begin: Called when the header is there and accepted.

    Returns:
        What *begin* returns. None where the connection was refused or lost: it is closed then, and logged.
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
            raise  # the policy function's, or we were cancelled
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
