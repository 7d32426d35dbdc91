"""Floor 5: the transport that an application is given, which tells the client's addresses in place of the proxy's."""

from __future__ import annotations

import asyncio
import socket

# Not public. Without it sendfile over TLS is refused: asyncio asks for just this class.
from asyncio.transports import _FlowControlMixin
from typing import Any

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.asyncio.delivery import deliver, take_unread
from proxyprotocol.asyncio.tls import is_tls
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.typing import SockAddr

__all__ = ["Below", "ClientSocket", "ProxyProtocolTransport"]


class Below:
    """A method of the transport below.

    It becomes an attribute of the overlay when it is first asked for: most applications use three of them, and from
    then on a call costs what it costs without us.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, overlay: Any, owner: type | None = None) -> Any:
        if overlay is None:
            return self
        method = overlay.__dict__[self._name] = getattr(overlay._below, self._name)
        return method


# asyncio.Transport's constructor, which this does not call, would only hide the attributes of the transport below.
class ProxyProtocolTransport(_FlowControlMixin, asyncio.Transport):
    """A connection's transport with the client's addresses; everything else is the real transport's own.

    :meth:`get_extra_info` tells ``"peername"`` and ``"sockname"`` as the header says them, and ``"socket"`` is one
    whose ``getpeername()``, ``getsockname()`` and ``family`` agree. Where the header gives no address, as LOCAL and
    UNKNOWN do not, all of them are the real connection's. ``"proxy_protocol"`` is the :class:`.ProxyResult`, None
    where there was no header, and ``"proxy_peername"`` who really connected.

    Args:
        transport: The real transport.
        result: What the header said, if there was one.
        addresses: The result again, where its addresses are the connection's.
        proxy_peername: Who connected, as the socket module gives it.
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

    _held = b""
    _release: asyncio.Handle | None = None

    def __init__(
        self,
        transport: asyncio.Transport,
        result: ProxyResult | None,
        addresses: ProxyResult | None,
        proxy_peername: SockAddr,
    ) -> None:
        self._below = transport
        self._result = result
        self._addresses = addresses
        self._proxy_peername = proxy_peername

    def __getattr__(self, name: str) -> Any:
        # asyncio itself asks its transports for more than is public: for start_tls, for sendfile, when TLS fails
        return getattr(self._below, name)

    def __repr__(self) -> str:
        client = "" if self._addresses is None else f" for {describe_address(self._addresses.peername)}"
        return f"<{type(self).__name__}{client} over {self._below!r}>"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Tell a fact about the connection.

        Args:
            name: Which one, such as ``"peername"``.
            default: What to answer where it is not known.
        """
        addresses = self._addresses
        if name == "proxy_protocol":
            return default if self._result is None else self._result
        if name == "proxy_peername" or (name == "peername" and addresses is None):
            return default if self._proxy_peername is None else self._proxy_peername
        if addresses is not None:
            if name == "peername":
                return addresses.peername
            if name == "sockname":
                return addresses.sockname
            if name == "socket":
                sock = self._below.get_extra_info(name)
                return default if sock is None else ClientSocket(sock, addresses)
        return self._below.get_extra_info(name, default)

    def is_reading(self) -> bool:
        """Tell whether the application is given what comes."""
        return self._release is not None or self._below.is_reading()

    def pause_reading(self) -> None:
        """Give the application nothing until :meth:`resume_reading`, nor what came with the header."""
        if self._release is not None:
            self._release.cancel()
            self._release = None
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Give the application what comes, and first what came with the header."""
        if not self._held:
            self._below.resume_reading()
        elif self._release is None:
            self._resume_soon()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to another protocol. TLS also gets what a stream has received and nobody has read."""
        unread = take_unread(self._below.get_protocol()) if is_tls(protocol) else b""
        self._below.set_protocol(protocol)
        if unread and not self._below.is_closing():
            reading = self.is_reading()
            self.pause_reading()
            self._held = unread + self._held
            if reading:
                # asyncio's start_tls begins TLS in the next turn of the loop, and the bytes must come after that
                self._release = asyncio.get_running_loop().call_soon(self._resume_soon)

    def _resume_soon(self) -> None:
        # not from inside of an application's call, which expects no data yet
        self._release = asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        self._release = None
        self._below.resume_reading()
        held, self._held = self._held, b""
        try:
            self._deliver(held)
        except BaseException:
            # the application's; this is not the transport's read, and nobody else would drop the connection
            self._below.abort()
            raise

    def begin(self, protocol: Any, data: bytes = b"") -> None:
        """Begin the application. From here on its protocol is the protocol of the real transport.

        Args:
            protocol: The application's protocol.
            data: The bytes that came with the header.
        """
        self._below.set_protocol(protocol)
        protocol.connection_made(self)
        if data:
            self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        """Give the application bytes that came with the header; while it has paused they are held."""
        rest = deliver(self._below, data)
        if rest and not self._below.is_closing():
            self._held = rest


class ClientSocket:
    """A connection's socket with the client's addresses: servers ask the socket rather than the transport."""

    __slots__ = ("_addresses", "_socket")

    def __init__(self, sock: Any, addresses: ProxyResult) -> None:
        self._socket = sock
        self._addresses = addresses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {describe_address(self._addresses.peername)} over {self._socket!r}>"

    @property
    def family(self) -> int:
        """The family of the client's address."""
        return self._addresses.family

    def getpeername(self) -> SockAddr:
        """Return the client's address."""
        return self._addresses.peername

    def getsockname(self) -> SockAddr:
        """Return the address that the client connected to."""
        return self._addresses.sockname

    def setsockopt(self, level: int, *arguments: Any) -> None:
        """Set an option of the real socket, except TCP's where the proxy came over a UNIX socket."""
        if level != socket.IPPROTO_TCP or self._socket.family != AF_UNIX:
            self._socket.setsockopt(level, *arguments)
