"""UDP and UNIX datagrams: each has a header of its own, and its answer goes back to the proxy."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxyprotocol._adapters.deadlines import LoopClock
from proxyprotocol._adapters.facts import AF_UNIX, extra_info
from proxyprotocol._adapters.listener import Listener, logging_to
from proxyprotocol._adapters.overlay import Overlay
from proxyprotocol._adapters.refusals import describe_lost_answer
from proxyprotocol.asyncio.keywords import call_loop
from proxyprotocol.asyncio.typing import DatagramKeywords, ProtocolT
from proxyprotocol.datagram import DEFAULT_CLIENT_TIMEOUT, DEFAULT_MAX_CLIENTS, DatagramReceiver
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import ProxyResult
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxyProtocolDatagramTransport", "create_datagram_endpoint"]

_log = logging.getLogger("proxyprotocol.asyncio")


async def create_datagram_endpoint(
    protocol_factory: Callable[[], ProtocolT],
    local_addr: tuple[str, int] | str | None = None,
    remote_addr: tuple[str, int] | str | None = None,
    *,
    max_clients: int = DEFAULT_MAX_CLIENTS,
    client_timeout: float = DEFAULT_CLIENT_TIMEOUT,
    receiver: Receiver | None = None,
    **keywords: Unpack[DatagramKeywords],
) -> tuple[ProxyProtocolDatagramTransport, ProtocolT]:
    """Open a datagram socket as ``loop.create_datagram_endpoint`` does, and read a header in each datagram.

    The application's ``datagram_received`` gets the payload and the client's address. ``transport.sendto(data, addr)``
    sends *data* to the proxy that last spoke for that client: without a header after version 2, and with the same
    header after the Simple Proxy Protocol. If no proxy did, it sends directly to the client, provided that the policy
    accepts clients without a header; otherwise the answer is lost. A refused datagram is dropped and logged.

    Args:
        protocol_factory: Makes the application's protocol.
        local_addr: Where to receive, as ``loop.create_datagram_endpoint`` takes it.
        remote_addr: The proxy to connect to, if there is only one.
        max_clients: How many clients are remembered for answers; see :class:`.DatagramReceiver`.
        client_timeout: Seconds that a client is remembered after its last datagram.
        receiver: The rules for the header, in place of the keywords of :class:`.Receiver`.
        keywords: ``trusted``, ``pp`` (:class:`.ProxyProtocolSPP` for Cloudflare Spectrum), ``policy``, ``max_header``
            (bytes), as :class:`.Receiver` takes them, and all others of ``loop.create_datagram_endpoint``. ``timeout``
            is accepted and ignored: a datagram comes as a whole.

    Returns:
        The application's transport and its protocol.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`; also if *pp* is version 1, which datagrams cannot have.
        OSError: The system does not let us receive at this address.
    """
    rest: dict[str, Any] = {**keywords}
    names = ReceiverKeywords.__optional_keys__
    own = {name: rest.pop(name) for name in names & rest.keys()}
    datagrams = DatagramReceiver(
        Receiver.of(receiver, own, datagrams=True), max_clients=max_clients, client_timeout=client_timeout
    )
    loop: Any = asyncio.get_running_loop()
    _, endpoint = await call_loop(
        loop.create_datagram_endpoint,
        lambda: _Endpoint(protocol_factory(), datagrams, loop.time),
        *(local_addr, remote_addr),
        known=(*names, "receiver", "max_clients", "client_timeout"),
        **rest,
    )
    return endpoint.transport, endpoint.protocol


class _Endpoint:
    """The real transport's protocol. It reads the headers; everything else is the application's protocol's own."""

    transport: ProxyProtocolDatagramTransport
    family: int

    def __init__(self, protocol: Any, datagrams: DatagramReceiver, now: Callable[[], float]) -> None:
        self.protocol: Any = protocol
        self.datagrams: DatagramReceiver = datagrams
        self.now: Callable[[], float] = now
        self.listener: Listener = Listener(datagrams.receiver, logging_to(_log), LoopClock, "datagram")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)

    def connection_made(self, transport: Any) -> None:
        self._below, self.family = transport, transport.get_extra_info("socket").family
        self.transport = ProxyProtocolDatagramTransport(transport, self)
        self.listener.start(extra_info(transport, "sockname"))
        self.datagrams.receiver = self.listener.receiver
        self.protocol.connection_made(self.transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        # Linux reports None for a UNIX socket without a name. We pass on "", as the transports of connections do: a
        # policy could not tell from None that this is a UNIX socket.
        sender: SockAddr = "" if addr is None and self.family == AF_UNIX else addr
        local = extra_info(self._below, "sockname") if self.datagrams.needs_local else None
        try:
            received = self.datagrams.receive(data, sender, local, self.now())
        except ProxyProtocolError as error:
            self.listener.refuse(error, sender)
            return
        if received.repeated:
            self.listener.warn_of_second_header(sender)
        with self.datagrams.answering(received):
            self.protocol.datagram_received(received.payload, received.client)

    def connection_lost(self, exc: Exception | None) -> None:
        self.listener.stop()
        self.protocol.connection_lost(exc)


class ProxyProtocolDatagramTransport(Overlay, asyncio.DatagramTransport):
    """The application's transport for datagrams. It sends to the proxies; everything else is the real transport's own.

    :func:`create_datagram_endpoint` makes it.
    """

    def __init__(self, transport: asyncio.DatagramTransport, endpoint: _Endpoint) -> None:
        self._below, self._endpoint = transport, endpoint

    def get_protocol(self) -> Any:
        """Return the application's protocol."""
        return self._endpoint.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the application's protocol. Headers are read as before."""
        self._endpoint.protocol = protocol

    def get_proxy_result(self, addr: SockAddr) -> ProxyResult | None:
        """Return what the header of a client's datagram said, with its TLVs; None if there was no header.

        Args:
            addr: The client's address, as ``datagram_received`` got it. Inside that call the answer is the header of
                that very datagram; at other times the newest header that is remembered for this client.
        """
        return self._endpoint.datagrams.result_for(addr, self._endpoint.now())

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram to the proxy that spoke for a client, or directly to a client that came without a header.

        Args:
            data: The datagram.
            addr: The client's address; None for the address that the endpoint is connected to, which is an error if the
                answer's header must name the client. If no proxy speaks for this client any more and the policy demands
                a header, the datagram is lost and a debug line says so. If the policy does not, but the socket has
                another family, ``error_received`` is called.
        """
        endpoint = self._endpoint
        data, to = endpoint.datagrams.reply(data, addr, endpoint.now())
        lost = None if addr is None else describe_lost_answer(addr, to, endpoint.family)
        if lost is None:
            self._below.sendto(data, to)
        elif to:  # an address of another family would close asyncio's transport, and uvloop's would raise
            endpoint.protocol.error_received(OSError(errno.EAFNOSUPPORT, lost))
        else:
            _log.debug("%s", lost)
