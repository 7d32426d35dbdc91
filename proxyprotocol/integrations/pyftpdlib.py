"""pyftpdlib: headers at the start of the control connections of an FTP server.

Data connections have no header. An active one goes to the client's address. A passive one may come from the client, or
through the same proxy as the control connection.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pyftpdlib.handlers import FTPHandler
from pyftpdlib.ioloop import Acceptor, AsyncChat
from pyftpdlib.servers import FTPServer

from proxyprotocol._adapters.listener import Listener
from proxyprotocol._adapters.lookahead import REST, plan_reads
from proxyprotocol._adapters.overlay import Overlay
from proxyprotocol._adapters.settings import covered, process_settings, self_reading
from proxyprotocol._adapters.threads import cover
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords
from proxyprotocol.result import ProxyResult
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["proxy_result", "read_headers", "switch_on"]


class _ControlSocket(Overlay):
    """Shows the client's address. The local one stays the real one: passive data connections come to it."""

    def __init__(self, sock: Any, result: ProxyResult | None, client: SockAddr, peer: Any) -> None:
        self._below, self.proxy_result, self.client, self.proxy = sock, result, client, peer[0]

    def getpeername(self) -> SockAddr:
        return self.client


class _Beginning(AsyncChat):  # type: ignore[misc]
    """Reads the header of a connection in the server's own loop, which never waits for one connection."""

    socket: Any
    _ended = False

    def __init__(self, server: Any, sock: Any, peer: Any, connection: ReceiverConnection, begin: Any) -> None:
        super().__init__(sock, ioloop=server.ioloop)
        self._peer, self._connection, self._begin = peer, connection, begin
        self._listener: Listener = server.header_listener
        self._reads = plan_reads(sock, connection)
        self._step(None)
        if (timeout := self._listener.receiver.timeout) is not None and not self._ended:
            self.call_later(timeout, self._expire)

    def handle_read(self) -> None:
        while self._next is not None and not self._ended:
            try:
                data = self.socket.recv(*self._next)
            except BlockingIOError:
                return
            except OSError:  # such as a reset, which ends the stream too
                data = b""
            self._step(data)

    def handle_close(self) -> None:
        if not self._ended:
            self._take(self._connection.eof)
            self.close()

    def close(self) -> None:
        self._ended = True
        super().close()

    def _step(self, data: bytes | None) -> None:
        """Go on to the next read."""
        try:
            self._next = self._reads.send(data)
        except StopIteration:
            self._hand_over()
        except ProxyProtocolError as error:
            self._refuse(error)
        else:
            if self._next is None:  # a socket that holds peeked bytes is always readable
                self.del_channel()
                self.call_later(REST, self._resume)

    def _resume(self) -> None:
        self.add_channel()
        self._step(b"")
        self.handle_read()

    def _expire(self) -> None:
        self.handle_read()  # if this process was stopped, the header may be in the socket
        if not self._ended:
            self._take(self._connection.timed_out)

    def _take(self, end: Any) -> None:
        try:
            if end():
                self._hand_over()
        except ProxyProtocolError as error:
            self._refuse(error)

    def _refuse(self, error: ProxyProtocolError) -> None:
        self._listener.refuse(error, self._peer)
        self.close()

    def _hand_over(self) -> None:
        """Leave the loop, and let the server begin with the connection."""
        sock, self.socket = self.socket, None  # close() must leave it open
        self.close()
        connection, client = self._connection, self._peer
        if connection.trailing and connection.repeated:
            self._listener.warn_of_second_header(self._peer)
        if connection.effective is not None and not isinstance(connection.effective.peername, str):
            client = connection.effective.peername
        self._begin(_ControlSocket(sock, connection.result, client, self._peer), client)


class _Passive(Acceptor):  # type: ignore[misc]
    """Becomes the first base of the class that waits for a passive data connection."""

    socket: Any

    def listen(self, backlog: int) -> None:
        self_reading.add(self.socket)  # a data connection has no header
        super().listen(backlog)

    def handle_accepted(self, sock: Any, addr: Any) -> None:
        # pyftpdlib refuses data connections from other hosts than the client
        if addr[0] == self.cmd_channel.socket.proxy:
            addr = (self.cmd_channel.remote_ip, *addr[1:])
        super().handle_accepted(sock, addr)


def _accept(begin: Any, server: Any, sock: Any, peer: Any) -> None:
    """Ask the policy about a new connection, and read its header before *begin* gets it."""
    receiver = server.header_listener.receiver
    try:
        connection = receiver.connection(peer, sock.getsockname() if receiver.needs_addresses else None)
    except ProxyProtocolError as error:
        server.header_listener.refuse(error, peer)
    else:
        _Beginning(server, sock, peer, connection, begin)
        return
    sock.close()


def read_headers(server: FTPServer, *, receiver: Receiver | None = None, **keywords: Unpack[ReceiverKeywords]) -> None:
    """Let an FTP server read a header at the start of each control connection, before its banner.

    Call this before ``serve_forever()``. The header is read in the server's loop, without waiting.

    Args:
        server: The server.
        receiver: The rules for the header, in place of the keywords below.
        keywords: ``pp``, ``policy``, ``trusted``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver`
            takes them.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`.
    """
    _cover(server, Receiver.of(receiver, keywords, ["receiver"]))


@functools.cache
def switch_on() -> None:
    """Make every FTP server in this process read headers, by the variables ``PROXYPROTOCOL_*``."""
    settings, initialise = process_settings(), FTPServer.__init__

    @functools.wraps(initialise)
    def cover(self: Any, *arguments: Any, **keywords: Any) -> None:
        initialise(self, *arguments, **keywords)
        if settings.covers(self.socket):
            _cover(self, settings.receiver)

    FTPServer.__init__ = cover


def proxy_result(handler: FTPHandler) -> ProxyResult | None:
    """Return what the header of a control connection said, with its TLVs; None if there was no header.

    Args:
        handler: The connection's handler.
    """
    result: ProxyResult | None = getattr(handler.socket, "proxy_result", None)
    return result


def _cover(server: Any, receiver: Receiver) -> None:
    again = server.socket in covered  # rules of the program's own replace those of switch_on()
    server.header_listener = cover(server.socket, receiver)
    if again:
        return
    server.handle_accepted = functools.partial(_accept, server.handle_accepted, server)
    passive = type("PassiveDTP", (_Passive, server.handler.passive_dtp), {})
    server.handler = type(server.handler.__name__, (server.handler,), {"passive_dtp": passive})
