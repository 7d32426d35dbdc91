"""Floor 5: datagrams: each has a header of its own, and its answer goes to the proxy."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Any

from proxyprotocol._adapters.facts import AF_UNIX, extra_info, is_foreign
from proxyprotocol.asyncio.transport import Below
from proxyprotocol.datagram import DEFAULT_CLIENT_TIMEOUT, DEFAULT_MAX_CLIENTS, DatagramReceiver
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.typing import SockAddr

__all__ = ["ProxyProtocolDatagramTransport", "create_datagram_endpoint"]

_log = logging.getLogger("proxyprotocol.asyncio")


async def create_datagram_endpoint(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    local_addr: Any = None,
    remote_addr: Any = None,
    *,
    max_clients: int = DEFAULT_MAX_CLIENTS,
    client_timeout: float = DEFAULT_CLIENT_TIMEOUT,
    receiver: Receiver | None = None,
    **keywords: Any,
) -> tuple[ProxyProtocolDatagramTransport, Any]:
    """Open a socket for datagrams, as ``loop.create_datagram_endpoint`` does, and read a header at the front of each.

    The application's ``datagram_received`` is given what the client sent and the client's address, and its
    ``transport.sendto(data, addr)`` sends to the proxy that spoke for that address last, without a header. Where none
    did, it sends there directly if the policy lets anybody come without a header, and else the answer is lost. A
    refused datagram is dropped and told in the log.

    Args:
        protocol_factory: Makes the application's protocol.
        local_addr: Where to receive, as ``loop.create_datagram_endpoint`` takes it.
        remote_addr: The proxy to connect to, likewise, if it is only one.
        max_clients: For how many clients the way back is remembered at most, see :class:`.DatagramReceiver`.
        client_timeout: For how long it is, from the last datagram from the client, in seconds.
        receiver: How datagrams are received, in place of the keywords of :class:`.Receiver`.
        keywords: ``pp``, ``policy``, ``max_header`` (bytes), as :class:`.Receiver` takes them, and all others of
            ``loop.create_datagram_endpoint``. The receiver's ``timeout`` is taken too and means nothing here: a
            datagram is whole when it comes.

    Returns:
        The application's transport and its protocol.

    Raises:
        TypeError: There are a receiver and its keywords, or a keyword is none.
        ValueError: A keyword's value is out of range, or *pp* is of version 1, which datagrams have not.
        OSError: The address cannot be received at.
    """
    own = {name: keywords.pop(name) for name in ReceiverKeywords.__optional_keys__ & keywords.keys()}
    datagrams = DatagramReceiver(Receiver.of(receiver, own), max_clients=max_clients, client_timeout=client_timeout)
    loop = asyncio.get_running_loop()
    _, endpoint = await loop.create_datagram_endpoint(
        lambda: _Endpoint(protocol_factory(), datagrams, loop.time), local_addr, remote_addr, **keywords
    )
    return endpoint.transport, endpoint.protocol


class _Endpoint(asyncio.DatagramProtocol):
    """Stands between the real transport and the application's protocol.

    Args:
        protocol: The application's protocol.
        datagrams: Decides what is done with each datagram.
        now: Tells the time.
    """

    transport: ProxyProtocolDatagramTransport

    def __init__(self, protocol: Any, datagrams: DatagramReceiver, now: Callable[[], float]) -> None:
        self.protocol = protocol
        self.datagrams = datagrams
        self.now = now

    def connection_made(self, transport: Any) -> None:
        self._below = transport
        #: The socket's family.
        self.family = transport.get_extra_info("socket").family
        self.transport = ProxyProtocolDatagramTransport(transport, self)
        self.protocol.connection_made(self.transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        # What the transports of connections say too. None is what Linux says, and not even a policy could tell by it
        # what kind of socket this is.
        sender: SockAddr = "" if addr is None and self.family == AF_UNIX else addr
        local = extra_info(self._below, "sockname") if self.datagrams.needs_local else None
        try:
            received = self.datagrams.receive(data, sender, local, self.now())
        except ProxyProtocolError as error:
            refusal = self.datagrams.describe_refusal(error, sender, self.now())
            if refusal is not None:
                _log.warning("%s", refusal)
            return
        with self.datagrams.answering(received):
            self.protocol.datagram_received(received.payload, received.client)

    def error_received(self, exc: Exception) -> None:
        self.protocol.error_received(exc)

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)


class ProxyProtocolDatagramTransport(asyncio.DatagramTransport):
    """The transport of an application for datagrams: the real one, but for where it sends to.

    Args:
        transport: The real transport.
        endpoint: The protocol that reads the headers.
    """

    abort: Any = Below()
    close: Any = Below()
    get_extra_info: Any = Below()
    is_closing: Any = Below()

    def __init__(self, transport: asyncio.DatagramTransport, endpoint: _Endpoint) -> None:
        self._below = transport
        self._endpoint = endpoint

    def __getattr__(self, name: str) -> Any:
        # the limits of the buffer, which asyncio's and uvloop's transports have and the base class has not
        return getattr(self._below, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self._below!r}>"

    def get_protocol(self) -> Any:
        """Give the application's protocol."""
        return self._endpoint.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Put another protocol in the place of the application's; headers are read as before.

        Args:
            protocol: The protocol.
        """
        self._endpoint.protocol = protocol

    def get_proxy_result(self, addr: SockAddr) -> ProxyResult | None:
        """Give what the header said that came with a client's datagram.

        Args:
            addr: The client's address, as ``datagram_received`` was given it. In there, its header is that of the
                present datagram; at any other time, the newest one for this client that is remembered.

        Returns:
            The result, whose ``tlv`` holds what else came; None where there was no header.
        """
        return self._endpoint.datagrams.result_for(addr, self._endpoint.now())

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram to the proxy that spoke for a client, or directly where clients may come without a header.

        Args:
            data: The datagram.
            addr: The client's address; None for the one that the endpoint is connected to. Where nobody speaks for it,
                or no longer, and no client comes without a header, the datagram is lost, with a line in the log at
                debug level; where some do, but the socket is of another family, ``error_received`` is called.
        """
        if addr is None:
            self._below.sendto(data)
            return
        endpoint = self._endpoint
        to = endpoint.datagrams.reply_to(addr, endpoint.now())
        if not to:
            # lost, as datagrams are; "" is a UNIX socket without a name
            _log.debug("No proxy speaks for %s: the answer is lost", describe_address(addr))
            return
        if is_foreign(to, endpoint.family):
            # A client that is forgotten by now. asyncio's transport would be closed by it, and uvloop's raise.
            unreachable = f"No proxy speaks for {describe_address(to)}, whose family is not the socket's"
            endpoint.protocol.error_received(OSError(errno.EAFNOSUPPORT, unreachable))
            return
        self._below.sendto(data, to)
