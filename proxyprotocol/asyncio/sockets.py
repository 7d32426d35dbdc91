"""Headers on sockets that have no transport yet. We read up to the last byte of the header, and no further."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
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

#: The sockets, listening or connected, on which another part of this package reads the headers. Our loops skip them.
covered: WeakSet[socket.socket] = WeakSet()


async def receive_header(sock: socket.socket, peer: SockAddr, receiver: Receiver) -> ReceiverConnection | None:
    """Read the header of a connection, and return what it said.

    Args:
        sock: The connection, which becomes non-blocking.
        peer: The address that connected.
        receiver: The rules for the header.

    Returns:
        The connection, which has begun. None if it was refused or lost: then it is closed, and the log says so.
    """
    try:
        sock.setblocking(False)
        connection = receiver.connection(peer, sock.getsockname())
        if not await in_time(_read(sock, connection), receiver.timeout):
            connection.timed_out()
        return connection
    except BaseException as error:
        sock.close()
        if isinstance(error, ProxyProtocolError):
            log_refusal(_log, error, peer)
        elif isinstance(error, OSError):
            _log.debug("The connection from %s was lost: %s", describe_address(peer), error)
        else:
            raise  # the policy function raised, or this task was cancelled
    return None


async def _read(sock: socket.socket, connection: ReceiverConnection) -> None:
    """Do the reads of plan_reads()."""
    loop = asyncio.get_running_loop()
    reads = plan_reads(sock, connection)
    with contextlib.suppress(StopIteration):
        read = next(reads)
        while True:
            if read is None:
                await asyncio.sleep(REST)
                read = next(reads)
                continue
            try:
                data = sock.recv(*read)
            except BlockingIOError:
                readable = asyncio.Event()
                loop.add_reader(sock, readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(sock)
                continue
            except OSError:  # such as a reset, which counts as the end
                data = b""
            read = reads.send(data)
