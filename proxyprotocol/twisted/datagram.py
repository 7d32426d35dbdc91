"""Datagrams, for ``reactor.listenUDP``: each has its own header, and answers go back through the proxy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import AbstractDatagramProtocol, DatagramProtocol
from zope.interface import directlyProvides, providedBy

from proxyprotocol._adapters.listener import Listener
from proxyprotocol._adapters.refusals import describe_lost_answer, describe_second_header
from proxyprotocol.datagram import DEFAULT_CLIENT_TIMEOUT, DEFAULT_MAX_CLIENTS, DatagramReceiver
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import ProxyResult
from proxyprotocol.twisted.clock import Clock
from proxyprotocol.twisted.transport import emit, log, log_prefix, to_sockaddr
from proxyprotocol.twisted.typing import Interface, TimeSource, method
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["IProxiedDatagramTransport", "ProxyProtocolDatagramWrapper"]


class IProxiedDatagramTransport(Interface):
    """What the transport inside a :class:`ProxyProtocolDatagramWrapper` offers in addition to the real transport."""

    @method
    def getProxyResult(addr: SockAddr) -> ProxyResult | None:  # noqa: N805
        """Return what the header of a client's datagram said.

        Args:
            addr: The client's address, as passed to ``datagramReceived``.

        Returns:
            The result; its ``tlv`` holds the additional fields. None if there was no header. Inside
            ``datagramReceived``, it is for the current datagram; at any other time, for the last remembered one from
            this client.
        """


class ProxyProtocolDatagramWrapper(DatagramProtocol):
    """Reads a header at the start of every datagram, and sends the answers to the proxy that forwarded it.

    Use it in place of the application's protocol: ``reactor.listenUDP(53, ProxyProtocolDatagramWrapper(protocol))``.
    The application's ``datagramReceived`` gets the client's data and the client's address. Its ``transport.write(data,
    addr)`` sends to the last proxy that forwarded a datagram for that address, without a header after version 2.
    If no proxy did, it sends directly if the policy allows clients without a header; otherwise it drops the answer.
    Everything else on the transport is forwarded to the real one. The wrapper drops a refused datagram and logs it.

    Args:
        wrapped_protocol: The application's protocol.
        clock: The source of time; the reactor by default.
        max_clients: How many clients to remember the way back for, see :class:`.DatagramReceiver`.
        client_timeout: How long to remember it after the client's last datagram, in seconds.
        receiver: How to receive datagrams; replaces the keywords of :class:`.Receiver`.
        keywords: Those of :class:`.Receiver`, such as ``trusted=["10.0.0.0/8"]``. ``timeout`` is accepted and has no
            effect: a datagram arrives whole.

    Raises:
        TypeError: Both a receiver and its keywords were given, a keyword is unknown, or *wrapped_protocol* is already a
            wrapper, or not a protocol for datagrams.
        ValueError: A keyword is out of range, or *pp* is version 1, which does not support datagrams.
    """

    transport: Any = None
    # the application's protocol already logs that it starts and stops
    noisy = False

    def __init__(
        self,
        wrapped_protocol: AbstractDatagramProtocol,
        *,
        clock: TimeSource | None = None,
        max_clients: int = DEFAULT_MAX_CLIENTS,
        client_timeout: float = DEFAULT_CLIENT_TIMEOUT,
        receiver: Receiver | None = None,
        **keywords: Unpack[ReceiverKeywords],
    ) -> None:
        if isinstance(wrapped_protocol, ProxyProtocolDatagramWrapper):
            raise TypeError(describe_second_header("The protocol", unit="datagram"))
        if isinstance(wrapped_protocol, type) or not hasattr(wrapped_protocol, "datagramReceived"):
            raise TypeError(f"wrapped_protocol must be a DatagramProtocol, not {wrapped_protocol!r}")
        self.wrappedProtocol: Any = wrapped_protocol
        rules = Receiver.of(receiver, keywords, ("client_timeout", "clock", "max_clients"), datagrams=True)
        self._datagrams = DatagramReceiver(rules, max_clients=max_clients, client_timeout=client_timeout)
        self._clock = Clock(clock)
        self._listener = Listener(self._datagrams.receiver, emit, self._clock, "datagram")

    def logPrefix(self) -> str:
        return log_prefix(self.wrappedProtocol)

    def startProtocol(self) -> None:
        self._listener.start(to_sockaddr(self.transport.getHost()))
        self._datagrams.receiver = self._listener.receiver
        self.wrappedProtocol.makeConnection(_Transport(self.transport, self))

    def stopProtocol(self) -> None:
        self._listener.stop()
        self.wrappedProtocol.doStop()

    def connectionRefused(self) -> None:
        self.wrappedProtocol.connectionRefused()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        local = to_sockaddr(self.transport.getHost()) if self._datagrams.needs_local else None
        try:
            received = self._datagrams.receive(datagram, addr, local, self._clock.time())
        except ProxyProtocolError as error:
            self._listener.refuse(error, addr)
            return
        if received.repeated:
            self._listener.warn_of_second_header(addr)
        client = received.client
        with self._datagrams.answering(received):
            # only host and port: Twisted's IPv6 ports leave out flow and scope as well
            self.wrappedProtocol.datagramReceived(received.payload, client[:2] if isinstance(client, tuple) else client)


class _Transport:
    """The application's transport: the real port, except that it chooses where answers go."""

    def __init__(self, port: Any, wrapper: ProxyProtocolDatagramWrapper) -> None:
        directlyProvides(self, IProxiedDatagramTransport, providedBy(port))
        self._port = port
        self._family: int | None = getattr(port, "addressFamily", None)
        self._datagrams, self._clock = wrapper._datagrams, wrapper._clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    def write(self, datagram: bytes, addr: Any = None) -> None:
        """Send a datagram to the client's proxy, or directly if the policy allows clients without a header."""
        datagram, to = self._datagrams.reply(datagram, addr, self._clock.time())
        if addr is not None:
            lost = describe_lost_answer(addr, to, self._family)
            if lost is not None:
                # drop it: datagrams may get lost anyway, and for another family Twisted's port would raise an error
                log.debug("{lost}", lost=lost)
                return
        self._port.write(datagram, to)

    def writeSequence(self, seq: Iterable[bytes], addr: Any = None) -> None:
        self.write(b"".join(seq), addr)

    def getProxyResult(self, addr: SockAddr) -> ProxyResult | None:
        return self._datagrams.result_for(addr, self._clock.time())
