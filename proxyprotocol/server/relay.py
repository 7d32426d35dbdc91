"""Floor 6: the relay: it takes connections, and gives each of them a header and a connection of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from proxyprotocol.asyncio.acceptor import Acceptor
from proxyprotocol.dnsbl import Dnsbl
from proxyprotocol.result import describe_address
from proxyprotocol.server._relay import metrics
from proxyprotocol.server._relay.connection import Connection
from proxyprotocol.server._relay.names import Places
from proxyprotocol.server._relay.options import Destination, Listening, parse_destination, parse_source
from proxyprotocol.server._relay.timers import Wheel
from proxyprotocol.typing import SockAddr

__all__ = ["BUFFER_LENGTH", "Relay", "Service", "parse_service"]

_log = logging.getLogger("proxyprotocol.server")

#: How many bytes are moved in one go, unless told otherwise. What a connection may cost whose reader stalls is under
#: 256 KiB with it, with TLS on both sides too; more is faster, and 64 KiB are slower than HAProxy.
BUFFER_LENGTH = 196608
# What a process has open beside its connections: standard streams, listeners, the selector, a resolver.
_OTHER_FILES: Final = 32


@dataclass(frozen=True)
class Service:
    """Where connections come to, and where they go.

    Args:
        source: The address that is listened on.
        destination: The address that is connected to.
    """

    source: Listening
    destination: Destination

    def __post_init__(self) -> None:
        if "authority" in (self.destination.outgoing.additions or ()):
            self.source.keep_names()


def parse_service(source: str, destination: str) -> Service:
    """Read a service from its two addresses, as the command line has them.

    Args:
        source: The address to listen on.
        destination: The address to connect to.

    Raises:
        ValueError: What is wrong, as a sentence.
    """
    return Service(parse_source(source), parse_destination(destination))


class Relay:
    """Relays connections, on the running loop, until it is closed.

    Every connection costs two file descriptors; no more are accepted than there are descriptors for, the others wait
    in the system's queue.

    Args:
        buffer_length: How many bytes are moved in one go: that much, at most, is kept for a flow whose target is slow.
        connect_timeout: How long each address of a destination may take to accept a connection and do its TLS, and
            before that its name to be looked up, in seconds.
        idle_timeout: How long nothing may move on a connection, in seconds; None for no limit.
        dnsbl: Asked about each client; None for nobody.
        counters: What is counted, as ``_metrics`` numbers it; a new one unless given.
    """

    def __init__(
        self,
        *,
        buffer_length: int = BUFFER_LENGTH,
        connect_timeout: float = 10.0,
        idle_timeout: float | None = 3600.0,
        dnsbl: Dnsbl | None = None,
        counters: memoryview | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.wheel = Wheel(self.loop)
        self.buffer = memoryview(bytearray(buffer_length))
        self.connect_timeout, self.idle_timeout = connect_timeout, idle_timeout
        self.dnsbl = dnsbl
        self.values = metrics.Counters(1).of(0) if counters is None else counters
        self._acceptor = Acceptor(self.loop, _log, self._full)
        self._services: list[Service] = []
        self._connections: set[Connection] = set()
        self._most = _most_connections()
        self._empty = asyncio.Event()
        self._empty.set()

    def listen(self, service: Service, sockets: Sequence[socket.socket]) -> None:
        """Accept the connections of a service.

        Args:
            service: The service.
            sockets: Its listening sockets, non-blocking. They stay the caller's to close.
        """
        places = Places(service.destination.address)
        self._services.append(service)
        for sock in sockets:
            self._acceptor.listen(sock, service.source.backlog, partial(self._begin, service, places))
            _log.info("Listening on %s for %s", describe_address(sock.getsockname()), service.destination.address.name)

    def stop_listening(self) -> None:
        """Accept nobody any more, but those who are connected already and wait in the system's queue."""
        self._acceptor.stop()
        self._services.clear()

    async def drain(self) -> None:
        """Wait until no connection is open."""
        await self._empty.wait()

    def close(self, reason: str = "the relay ends") -> None:
        """End everything at once.

        Args:
            reason: What the log is told.
        """
        self.stop_listening()
        for connection in list(self._connections):
            connection.abort(reason)
        self.wheel.close()

    def reload(self) -> None:
        """Read the files of TLS again. Those that cannot be used are told to the log, and the old ones stay in use."""
        for service in dict.fromkeys(self._services):
            for end in (service.source, service.destination):
                try:
                    end.reload()
                except ValueError as error:
                    _log.error("%s keeps its certificates: %s", end.address.name, error)

    def forget(self, connection: Connection) -> None:
        """Take that a connection is over.

        Args:
            connection: The connection.
        """
        self._connections.discard(connection)
        self.values[metrics.OPEN] -= 1
        if not self._connections:
            self._empty.set()
        if self._acceptor.paused:
            self._acceptor.go_on()

    def _begin(self, service: Service, places: Places, sock: socket.socket, peer: SockAddr) -> None:
        connection = Connection(self, service.source, service.destination, places, sock, peer)
        self._connections.add(connection)
        self._empty.clear()
        self.values[metrics.CONNECTIONS] += 1
        self.values[metrics.OPEN] += 1
        connection.begin()

    def _full(self) -> str | None:
        if len(self._connections) < self._most:
            return None
        return f"{self._most} connections are open, for more there are no file descriptors"


def _most_connections() -> int:
    """Say for how many connections there are file descriptors."""
    # here, because not every system has it on which an Address is to be read
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else max((limit - _OTHER_FILES) // 2, 1)
