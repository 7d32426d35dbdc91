"""The transport that an application gets: it shows the client's addresses in place of the proxy's."""

from __future__ import annotations

import asyncio
import ssl

# Not public. asyncio refuses sendfile over TLS to transports that do not derive from this very class.
from asyncio.transports import _FlowControlMixin
from typing import Any

from proxyprotocol._adapters.overlay import ClientSocket, Overlay
from proxyprotocol.asyncio.tls import TLS, deliver, is_tls, take_unread
from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.typing import SockAddr

__all__ = ["LoopOfStreams", "ProxyProtocolTransport"]


# This does not call asyncio.Transport's constructor, which sets attributes that would hide the real transport's.
class ProxyProtocolTransport(Overlay, _FlowControlMixin, asyncio.Transport):
    """A connection's transport with the client's addresses. Everything else is the real transport's own.

    :meth:`get_extra_info` answers ``"peername"`` and ``"sockname"`` from the header, and ``"socket"`` with a socket
    that agrees in ``getpeername()``, ``getsockname()`` and ``family``. If the header gives no address (LOCAL, UNKNOWN),
    all of them are the real connection's. ``"proxy_protocol"`` is the :class:`.ProxyResult`, or None without a header,
    and ``"proxy_peername"`` the address that really connected.

    It knows the addresses from the start, and takes the real transport in :meth:`begin`.
    """

    _held = b""  # bytes for the application, which does not read at the moment
    _release: asyncio.Handle | None = None  # the next turn of the loop gives them to it

    def __init__(self, connection: ReceiverConnection, peer: SockAddr) -> None:
        # not the connection itself, because that holds the received bytes
        self._result = connection.result
        self._effective = connection.effective
        self._peer = peer

    def begin(self, transport: asyncio.Transport, protocol: Any, data: bytes = b"") -> None:
        """Begin the application on the real transport, or on its TLS, with the bytes that came with the header."""
        self._below = transport
        transport.set_protocol(protocol)
        protocol.connection_made(self)
        if data and (rest := deliver(transport, data)):
            self._held = rest

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the connection, such as ``"peername"``, or *default* if it is not known."""
        effective = self._effective
        fact: Any = None
        if name == "peername":
            fact = self._peer if effective is None else effective.peername
        elif name == "proxy_protocol":
            fact = self._result
        elif name == "proxy_peername":
            fact = self._peer
        elif effective is None or name not in ("sockname", "socket"):
            return self._below.get_extra_info(name, default)
        elif name == "sockname":
            fact = effective.sockname
        elif (sock := self._below.get_extra_info(name)) is not None:
            fact = ClientSocket(sock, effective)
        return default if fact is None else fact

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
            self._held = deliver(self._below, held) or self._held
        except BaseException:
            # the application raised. The loop would drop the connection only in a read of its own.
            self._below.abort()
            raise


class LoopOfStreams(Overlay):
    """Another loop with a ``start_tls`` that takes our transports: ``StreamWriter.start_tls`` calls it."""

    def __init__(self, loop: Any) -> None:
        self._below = loop

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        **times: Any,
    ) -> Any:
        """Begin TLS on a connection that began without it, as the other loop's method does, also on our transports.

        The handshake begins with the bytes that a stream has received and nobody has read. A ClientHello among them
        begins it; a command that an attacker has inserted there makes it fail. If this raises or is cancelled, the
        connection is aborted.
        """
        tls = TLS(sslcontext, server_hostname=server_hostname, **times)
        unread = take_unread(protocol)
        if not unread and not isinstance(transport, ProxyProtocolTransport):
            names = {"server_side": server_side, "server_hostname": server_hostname}
            return await self._below.start_tls(transport, protocol, sslcontext, **names, **times)
        # uvloop's own method takes only uvloop's transports, and no loop gives TLS the bytes that the stream holds
        return await tls.shake_hands(
            transport,
            lambda upper: upper.set_protocol(protocol),
            # TLS calls connection_lost only after connection_made, and this protocol began before TLS
            lambda error: asyncio.get_running_loop().call_soon(protocol.connection_lost, error),
            data=unread,
            server_side=server_side,
        )
