"""waitress: headers at the start of the connections of a server that ``waitress.create_server()`` has made."""

from __future__ import annotations

import functools
import math
import socket
import time
from typing import TYPE_CHECKING, Any

from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, MultiSocketServer
from waitress.task import WSGITask

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol._adapters.listener import Listener
from proxyprotocol._adapters.settings import process_settings
from proxyprotocol._adapters.threads import cover
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["read_headers", "switch_on"]


class _Task(WSGITask):  # type: ignore[misc]
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        if self.channel.result is not None:
            environ["proxy_protocol"] = self.channel.result
        return environ


class _Channel(HTTPChannel):  # type: ignore[misc]
    """Reads the header in waitress' I/O thread, which never waits for one connection."""

    task_class = _Task
    _pending: ReceiverConnection | None = None  # until the header is complete
    _late = False

    def __init__(self, listener: Listener, server: Any, sock: socket.socket, addr: Any, adj: Any, map: Any) -> None:
        super().__init__(server, sock, addr, adj, map=map)
        self._listener, receiver, self.result = listener, listener.receiver, None
        self._peer = "" if sock.family == AF_UNIX else addr  # waitress says "localhost" for it
        self._deadline = math.inf if receiver.timeout is None else time.monotonic() + receiver.timeout
        try:
            local = sock.getsockname() if receiver.needs_addresses else None
            connection = receiver.connection(self._peer, local)
        except ProxyProtocolError as error:
            self._refuse(error)
        else:
            if not connection.begun:
                self._pending = connection

    def readable(self) -> Any:
        if self._pending is not None and time.monotonic() >= self._deadline:
            # only in the next turn: if this process was stopped, the header may be in the socket
            if self._late:
                self._step(self._pending.timed_out)
            self._late = True
        return self.connected and super().readable()

    def received(self, data: bytes) -> Any:
        if self._pending is not None:
            data = self._step(functools.partial(self._pending.feed, data))
        return super().received(data)

    def handle_close(self) -> None:
        if self._pending is not None:
            self._step(self._pending.eof)
        super().handle_close()

    def _step(self, take: Any) -> bytes:
        """Let the connection take something; return the application's bytes once it may begin."""
        connection: Any = self._pending
        try:
            if not take():
                return b""
        except ProxyProtocolError as error:
            self._refuse(error)
            return b""
        self._pending, self.result = None, connection.result
        if connection.effective is not None:
            client = connection.effective.peername
            self.addr = (client, None) if isinstance(client, str) else client
        if connection.repeated:
            self._listener.warn_of_second_header(self._peer)
        trailing: bytes = connection.trailing
        return trailing

    def _refuse(self, error: ProxyProtocolError) -> None:
        self._pending = None
        self._listener.refuse(error, self._peer)
        self.handle_close()


def read_headers(
    server: BaseWSGIServer | MultiSocketServer,
    *,
    receiver: Receiver | None = None,
    **keywords: Unpack[ReceiverKeywords],
) -> None:
    """Let a server read a header at the start of each connection.

    Call this before the server's ``run()``. The header is read in waitress' I/O thread, without waiting, and an
    application finds it as ``environ["proxy_protocol"]``.

    Args:
        server: What ``waitress.create_server()`` has returned.
        receiver: The rules for the header, in place of the keywords below.
        keywords: ``pp``, ``policy``, ``trusted``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver`
            takes them.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`.
    """
    receiver = Receiver.of(receiver, keywords, ["receiver"])
    several = server.map.values() if isinstance(server, MultiSocketServer) else [server]
    for one in several:
        if isinstance(one, BaseWSGIServer):
            _cover(one, receiver)


@functools.cache
def switch_on() -> None:
    """Make every server of waitress in this process read headers, by the variables ``PROXYPROTOCOL_*``."""
    settings, listen = process_settings(), BaseWSGIServer.accept_connections

    @functools.wraps(listen)
    def accept_connections(self: Any) -> None:
        if settings.covers(self.socket):
            _cover(self, settings.receiver)
        listen(self)

    BaseWSGIServer.accept_connections = accept_connections


def _cover(server: Any, receiver: Receiver) -> None:
    server.channel_class = functools.partial(_Channel, cover(server.socket, receiver))
