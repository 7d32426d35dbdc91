"""The relay: it accepts connections, and opens one to the destination for each, with a header in front."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from proxyprotocol._adapters.listener import Listener, logging_to
from proxyprotocol.asyncio.sockets import Acceptor
from proxyprotocol.dnsbl import Dnsbl
from proxyprotocol.result import describe_address
from proxyprotocol.server._relay import metrics
from proxyprotocol.server._relay.connection import Connection, Route
from proxyprotocol.server._relay.deadlines import Queues
from proxyprotocol.server._relay.options import Destination, Listening, parse_destination, parse_source
from proxyprotocol.server._relay.places import Places

__all__ = ["BUFFER_LENGTH", "Relay", "Service", "parse_service"]

_log = logging.getLogger("proxyprotocol.server")

#: How many bytes the relay moves at once by default. With it, a connection with a stalled reader costs less than 256
#: KiB, TLS on both sides included. More is faster, and 64 KiB are slower than HAProxy.
BUFFER_LENGTH = 196608
# Files that a process has open beside its connections: standard streams, listeners, the selector, a resolver.
_OTHER_FILES: Final = 32


@dataclass(frozen=True)
class Service:
    """Where the relay listens, and where it connects to.

    Args:
        source: The address to listen on.
        destination: The address to connect to.
    """

    source: Listening
    destination: Destination


def parse_service(source: str, destination: str) -> Service:
    """Parse a service from its two addresses, in the form of the command line.

    Args:
        source: The address to listen on.
        destination: The address to connect to.

    Raises:
        ValueError: An address is wrong. The text is a sentence.
    """
    to = parse_destination(destination)
    return Service(parse_source(source, keep_names="authority" in (to.outgoing.additions or ())), to)


class Relay:
    """Relays connections on the running loop until :meth:`close`.

    Every connection takes two file descriptors. The relay accepts as many connections as it has descriptors for; the
    others wait in the system's queue.

    Args:
        buffer_length: How many bytes to move at once, and the most that the relay keeps for a slow target.
        connect_timeout: How long the look-up of a destination's name may take, and after it each address to accept the
            connection and do its TLS, in seconds.
        idle_timeout: How long nothing may move on a connection, in seconds; None for no limit. The relay closes an idle
            connection up to a second later, and never earlier.
        dnsbl: The block list to ask about each client; None for no list.
        counters: The counters of each service, one worker's of ``metrics.Counters``; new ones by default.
    """

    def __init__(
        self,
        *,
        buffer_length: int = BUFFER_LENGTH,
        connect_timeout: float = 10.0,
        idle_timeout: float | None = 3600.0,
        dnsbl: Dnsbl | None = None,
        counters: dict[str, memoryview] | None = None,
    ) -> None:
        import resource  # here, so that systems without it can still use Address

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = math.inf if limit == resource.RLIM_INFINITY else max((limit - _OTHER_FILES) // 2, 1)
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.queues: Queues = Queues(self.loop)
        self.buffer: memoryview = memoryview(bytearray(buffer_length))
        self.connect_timeout: float = connect_timeout
        self.idle_timeout: float | None = idle_timeout
        self.dnsbl = dnsbl
        self._counters = {} if counters is None else counters
        self._acceptor = Acceptor(self.loop, _log, self._full)
        self._services: dict[socket.socket, Service] = {}
        self._listeners: dict[socket.socket, Listener] = {}
        self.connections: set[Connection] = set()
        self._empty = asyncio.Event()

    def serve(self, services: Iterable[tuple[Service, Sequence[socket.socket]]]) -> None:
        """Serve exactly these services from now on. Connections that are open continue as they began.

        A service that is served already changes nothing. A socket that belonged to another service changes without a
        gap. The relay stops accepting on the sockets of no service, after the clients that wait there already; then the
        caller closes them.

        Args:
            services: Each service, with its listening sockets.
        """
        wanted = {sock: service for service, sockets in services for sock in sockets}
        for sock in self._services.keys() - wanted.keys():
            self._acceptor.stop_one(sock)
            del self._services[sock]
            self._listeners.pop(sock).stop()
            _log.info("Stopped listening on %s", describe_address(sock.getsockname()))
        for sock, service in wanted.items():
            if self._services.get(sock) is not service:
                self.listen(service, [sock])

    def listen(self, service: Service, sockets: Sequence[socket.socket]) -> None:
        """Accept the connections of a service.

        Args:
            service: The service.
            sockets: Its listening sockets, non-blocking. The caller closes them.
        """
        source, destination = service.source, service.destination
        places, name = Places(destination.address, both=destination.transparent), source.address.given
        values = (self._counters or metrics.Counters(1, [name]).of(0))[name]
        receiver = replace(source.receiver, metrics=metrics.ServiceMetrics(values))
        for sock in sockets:
            listener = Listener(receiver, logging_to(_log), self.loop)
            if sock in self._listeners:
                self._listeners[sock].stop()
            self._services[sock], self._listeners[sock] = service, listener
            route = Route(source, destination, places, listener, values)
            self._acceptor.listen(sock, source.backlog, partial(Connection, self, route))
            _log.info("Listening on %s for %s", describe_address(sock.getsockname()), destination.address.name)
            listener.start(sock.getsockname())

    def stop_listening(self) -> None:
        """Stop accepting, after the clients that wait in the system's queue already."""
        self._acceptor.stop()
        self._services.clear()

    async def drain(self) -> None:
        """Wait until no connection is open."""
        while self.connections:
            self._empty.clear()
            await self._empty.wait()

    def close(self, reason: str = "the relay ends") -> None:
        """Close all connections at once.

        Args:
            reason: The reason for the log.
        """
        self.stop_listening()
        for connection in list(self.connections):
            connection.abort(reason)
        for listener in self._listeners.values():
            listener.stop()
        for queue in self.queues.values():
            queue.close()

    def reload(self) -> None:
        """Read the files of TLS again. If one cannot be used, the relay logs that, and the old ones stay in use."""
        for service in dict.fromkeys(self._services.values()):
            for end in (service.source, service.destination):
                try:
                    end.reload()
                except ValueError as error:
                    _log.error("%s keeps its old certificates: %s", end.address.name, error)

    def forget(self, connection: Connection) -> None:
        """Handle that a connection is over."""
        self.connections.discard(connection)
        connection.route.values[metrics.OPEN] -= 1
        if not self.connections:
            self._empty.set()
        if self._acceptor.paused:
            self._acceptor.go_on()

    def _full(self) -> str | None:
        if len(self.connections) < self._most:
            return None
        return f"{self._most} connections are open, and there are no file descriptors for more"
