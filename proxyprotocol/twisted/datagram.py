"""Floor 5: datagrams, for ``reactor.listenUDP``: each has a header of its own, and its answer goes to the proxy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import AbstractDatagramProtocol, DatagramProtocol
from twisted.logger import Logger
from zope.interface import Interface, directlyProvides, providedBy

from proxyprotocol._adapters.facts import is_foreign
from proxyprotocol._adapters.refusals import describe_second_header
from proxyprotocol.datagram import DEFAULT_CLIENT_TIMEOUT, DEFAULT_MAX_CLIENTS, DatagramReceiver
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.twisted.addresses import to_sockaddr
from proxyprotocol.twisted.handover import log_prefix
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["IProxiedDatagramTransport", "ProxyProtocolDatagramWrapper"]

_log = Logger(namespace="proxyprotocol.twisted")


class IProxiedDatagramTransport(Interface):
    """What the transport of a protocol within a :class:`ProxyProtocolDatagramWrapper` can be asked beside its own."""

    def getProxyResult(addr: SockAddr) -> ProxyResult | None:  # noqa: N805, an interface's methods have no self
        """Give what the header said that came with a client's datagram.

        Args:
            addr: The client's address, as ``datagramReceived`` was given it. In there, its header is that of the
                present datagram; at any other time, the newest one for this client that is remembered.

        Returns:
            The result, whose ``tlv`` holds what else came; None where there was no header.
        """


class ProxyProtocolDatagramWrapper(DatagramProtocol):
    """Reads a header at the front of every datagram, and sends the answers to the proxy that it came from.

    It is used where a datagram protocol is, as in ``reactor.listenUDP(53, ProxyProtocolDatagramWrapper(protocol))``.
    The application's ``datagramReceived`` is given what the client sent and the client's address, and its
    ``transport.write(data, addr)`` sends to the proxy that spoke for that address last, without a header. Where none
    did, it sends there directly if the policy lets anybody come without a header, and else the answer is lost. All else
    of its transport is the real one's. A refused datagram is dropped and told in the log.

    Args:
        wrapped_protocol: The application's protocol.
        clock: What tells the time; the reactor unless given.
        max_clients: For how many clients the way back is remembered at most, see :class:`.DatagramReceiver`.
        client_timeout: For how long it is, from the last datagram from the client, in seconds.
        receiver: How datagrams are received, in place of the keywords of :class:`.Receiver`.
        keywords: ``pp``, ``policy``, ``max_header`` (bytes), as :class:`.Receiver` takes them. Its ``timeout`` is taken
            too and means nothing here: a datagram is whole when it comes.

    Raises:
        TypeError: There are a receiver and its keywords, a keyword is none, or *wrapped_protocol* is a wrapper already.
        ValueError: A keyword's value is out of range, or *pp* is of version 1, which datagrams have not.
    """

    transport: Any = None
    # the application's own says that it starts and stops
    noisy = False

    def __init__(
        self,
        wrapped_protocol: AbstractDatagramProtocol,
        *,
        clock: IReactorTime | None = None,
        max_clients: int = DEFAULT_MAX_CLIENTS,
        client_timeout: float = DEFAULT_CLIENT_TIMEOUT,
        receiver: Receiver | None = None,
        **keywords: Unpack[ReceiverKeywords],
    ) -> None:
        if isinstance(wrapped_protocol, ProxyProtocolDatagramWrapper):
            raise TypeError(describe_second_header("The protocol", unit="datagram"))
        self.wrappedProtocol: Any = wrapped_protocol
        self._datagrams = DatagramReceiver(
            Receiver.of(receiver, keywords), max_clients=max_clients, client_timeout=client_timeout
        )
        self._clock = clock

    def logPrefix(self) -> str:
        """Name the application's protocol."""
        return log_prefix(self.wrappedProtocol)

    def startProtocol(self) -> None:
        """Begin the application."""
        self.wrappedProtocol.makeConnection(_Transport(self.transport, self))

    def stopProtocol(self) -> None:
        """End the application."""
        self.wrappedProtocol.doStop()

    def connectionRefused(self) -> None:
        """Pass on that nobody listens where a connected port sends to."""
        self.wrappedProtocol.connectionRefused()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Give the application what a client sent.

        Args:
            datagram: The datagram.
            addr: The address that it came from.
        """
        local = to_sockaddr(self.transport.getHost()) if self._datagrams.needs_local else None
        try:
            received = self._datagrams.receive(datagram, addr, local, self._now())
        except ProxyProtocolError as error:
            refusal = self._datagrams.describe_refusal(error, addr, self._now())
            if refusal is not None:
                _log.warn("{refusal}", refusal=refusal, error=error)
            return
        client = received.client
        with self._datagrams.answering(received):
            # Twisted's own IPv6 ports leave out flow and scope as well
            self.wrappedProtocol.datagramReceived(received.payload, client[:2] if isinstance(client, tuple) else client)

    def _now(self) -> float:
        if self._clock is None:
            from twisted.internet import reactor

            # not before: whoever makes a protocol may still want to install a reactor
            self._clock = IReactorTime(reactor)
        return self._clock.seconds()


class _Transport:
    """The application's transport: the port, but for where it sends to."""

    def __init__(self, port: Any, wrapper: ProxyProtocolDatagramWrapper) -> None:
        directlyProvides(self, IProxiedDatagramTransport, providedBy(port))
        self._port = port
        self._family: int | None = getattr(port, "addressFamily", None)
        self._datagrams, self._now = wrapper._datagrams, wrapper._now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    def write(self, datagram: bytes, addr: Any = None) -> None:
        """Send a datagram to the proxy that spoke for a client, or directly where clients may come without a header.

        Args:
            datagram: The datagram.
            addr: The client's address; None for the one that the port is connected to. Where nobody speaks for it, or
                no longer, and no client comes without a header, or the port is of another family, the datagram is lost,
                with a line in the log at debug level.
        """
        to = addr
        if addr is not None:
            to = self._datagrams.reply_to(addr, self._now())
            if to is None:
                # lost, as datagrams are
                _log.debug("No proxy speaks for {peer}: the answer is lost", peer=describe_address(addr))
                return
            if self._family is not None and is_foreign(to, self._family):
                # a client that is forgotten by now, of which Twisted's port would raise into the application
                _log.debug("No proxy speaks for {peer}, whose family is not the port's", peer=describe_address(to))
                return
        self._port.write(datagram, to)

    def writeSequence(self, seq: Iterable[bytes], addr: Any = None) -> None:
        """Send a datagram that is in pieces, as :meth:`write` does.

        Args:
            seq: The pieces.
            addr: The client's address; None for the one that the port is connected to.
        """
        self.write(b"".join(seq), addr)

    def getProxyResult(self, addr: SockAddr) -> ProxyResult | None:
        """Give what the header said that came with a client's datagram.

        Args:
            addr: The client's address.
        """
        return self._datagrams.result_for(addr, self._now())
