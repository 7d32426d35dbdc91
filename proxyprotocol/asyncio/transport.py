"""The transport that an application gets: it shows the client's addresses in place of the proxy's."""

from __future__ import annotations

import asyncio
import socket

# Not public. asyncio refuses sendfile over TLS to transports that do not derive from this very class.
from asyncio.transports import _FlowControlMixin
from typing import Any, NamedTuple

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.asyncio.tls import deliver, is_tls, take_unread
from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.typing import SockAddr

__all__ = ["Below", "ClientSocket", "Origin", "ProxyProtocolTransport"]


class Origin(NamedTuple):
    """Where a connection comes from: these are also the last three arguments of :class:`ProxyProtocolTransport`."""

    result: ProxyResult | None
    effective: ProxyResult | None
    proxy_peername: SockAddr

    @classmethod
    def of(cls, connection: ReceiverConnection, peer: SockAddr) -> Origin:
        """Return the origin of a connection that has begun. Unlike the connection it holds no received bytes."""
        return cls(connection.result, connection.effective, peer)

    @property
    def client(self) -> SockAddr:
        """The client's address: from the header if it gives one, else the real peer's."""
        return self.proxy_peername if self.effective is None else self.effective.peername


class Below:
    """A method of the real object below an overlay. The first look-up stores it: later calls cost nothing more."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, overlay: Any, owner: type | None = None) -> Any:
        if overlay is None:
            return self
        method = overlay.__dict__[self._name] = getattr(overlay._below, self._name)
        return method


# This does not call asyncio.Transport's constructor, which sets attributes that would hide the real transport's.
class ProxyProtocolTransport(_FlowControlMixin, asyncio.Transport):
    """A connection's transport with the client's addresses. Everything else is the real transport's own.

    :meth:`get_extra_info` answers ``"peername"`` and ``"sockname"`` from the header, and ``"socket"`` with a socket
    whose ``getpeername()``, ``getsockname()`` and ``family`` agree. If the header gives no address (LOCAL, UNKNOWN),
    all of them are the real connection's. ``"proxy_protocol"`` is the :class:`.ProxyResult`, or None without a header,
    and ``"proxy_peername"`` the address that really connected.

    Args:
        transport: The real transport.
        result: What the header said; None without a header.
        effective: The same result if the application sees its addresses; None if it sees the real connection's.
        proxy_peername: The address that connected, as the socket module gives it.
    """

    abort: Any = Below()
    can_write_eof: Any = Below()
    close: Any = Below()
    get_protocol: Any = Below()
    get_write_buffer_limits: Any = Below()
    get_write_buffer_size: Any = Below()
    is_closing: Any = Below()
    set_write_buffer_limits: Any = Below()
    write: Any = Below()
    write_eof: Any = Below()
    writelines: Any = Below()

    _held = b""  # bytes for the application, which does not read at the moment
    _release: asyncio.Handle | None = None  # the next turn of the loop gives them to it

    def __init__(
        self,
        transport: asyncio.Transport,
        result: ProxyResult | None,
        effective: ProxyResult | None,
        proxy_peername: SockAddr,
    ) -> None:
        self._below = transport
        self._result = result
        self._effective = effective
        self._proxy_peername = proxy_peername

    def __getattr__(self, name: str) -> Any:
        # asyncio uses private attributes of its transports too: in start_tls, in sendfile, and when TLS fails
        return getattr(self._below, name)

    def __repr__(self) -> str:
        client = "" if self._effective is None else f" for {describe_address(self._effective.peername)}"
        return f"<{type(self).__name__}{client} over {self._below!r}>"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the connection, such as ``"peername"``, or *default* if it is not known."""
        effective = self._effective
        if name == "proxy_protocol":
            return default if self._result is None else self._result
        if name == "proxy_peername" or (name == "peername" and effective is None):
            return default if self._proxy_peername is None else self._proxy_peername
        if effective is not None:
            if name == "peername":
                return effective.peername
            if name == "sockname":
                return effective.sockname
            if name == "socket":
                sock = self._below.get_extra_info(name)
                return default if sock is None else ClientSocket(sock, effective)
        return self._below.get_extra_info(name, default)

    def is_reading(self) -> bool:
        """Return whether the application gets what comes."""
        return self._release is not None or self._below.is_reading()

    def pause_reading(self) -> None:
        """Stop reading. This also holds back the bytes that came with the header."""
        if self._release is not None:
            self._release.cancel()
            self._release = None
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Read again. The application first gets the bytes that came with the header."""
        if not self._held:
            self._below.resume_reading()
        elif self._release is None:
            self._resume_soon()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change the protocol. If it is TLS, it also gets the bytes that a stream has received and nobody has read."""
        unread = take_unread(self._below.get_protocol()) if is_tls(protocol) else b""
        self._below.set_protocol(protocol)
        if unread and not self._below.is_closing():
            reading = self.is_reading()
            self.pause_reading()
            self._held = unread + self._held
            if reading:
                # asyncio's start_tls begins TLS in the next turn of the loop, and TLS needs these bytes after that
                self._release = asyncio.get_running_loop().call_soon(self._resume_soon)

    def _resume_soon(self) -> None:
        # not now: this is a call of the application, which does not expect data inside it
        self._release = asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        self._release = None
        self._below.resume_reading()
        held, self._held = self._held, b""
        try:
            if rest := deliver(self._below, held):
                self._held = rest
        except BaseException:
            # the application raised. The loop would drop the connection only in a read of its own.
            self._below.abort()
            raise

    def begin(self, protocol: Any, data: bytes = b"") -> None:
        """Begin the application: its protocol becomes the real transport's.

        Args:
            protocol: The application's protocol.
            data: The bytes that came with the header.
        """
        self._below.set_protocol(protocol)
        protocol.connection_made(self)
        if data and (rest := deliver(self._below, data)):
            self._held = rest


class ClientSocket:
    """A connection's socket with the client's addresses, for servers that ask the socket rather than the transport."""

    __slots__ = ("_effective", "_socket")

    def __init__(self, sock: Any, effective: ProxyResult) -> None:
        self._socket = sock
        self._effective = effective

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {describe_address(self._effective.peername)} over {self._socket!r}>"

    @property
    def family(self) -> int:
        """The family of the client's address."""
        return self._effective.family

    def getpeername(self) -> SockAddr:
        """Return the client's address."""
        return self._effective.peername

    def getsockname(self) -> SockAddr:
        """Return the address that the client connected to."""
        return self._effective.sockname

    def setsockopt(self, level: int, *arguments: Any) -> None:
        """Set an option of the real socket. TCP options are ignored if the proxy connected over a UNIX socket."""
        if level != socket.IPPROTO_TCP or self._socket.family != AF_UNIX:
            self._socket.setsockopt(level, *arguments)
