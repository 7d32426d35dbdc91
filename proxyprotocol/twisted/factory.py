"""Floor 5: the protocol that reads the header, and the factory for ``reactor.listenTCP`` and for endpoints."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IProtocolNegotiationFactory,
    IReactorTime,
)
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory  # which has no public name
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, providedBy

from proxyprotocol._adapters.deadlines import Deadlines, check_seconds
from proxyprotocol._adapters.refusals import describe_second_header
from proxyprotocol._wire import spec
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords, describe_refusal
from proxyprotocol.result import describe_address
from proxyprotocol.twisted import handover
from proxyprotocol.twisted.addresses import from_sockaddr, to_sockaddr
from proxyprotocol.twisted.clock import Clock

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxyProtocolWrapper", "ProxyProtocolWrapperFactory"]

_log = Logger(namespace="proxyprotocol.twisted")


class ProxyProtocolWrapper(Protocol):
    """Reads the header of one connection, then hands the connection over to the application and is gone.

    The application's protocol is built when the header is complete and accepted, with the client's address, and is
    connected to the connection's own transport. From then on that tells the client: ``getPeer`` and ``getHost``, and on
    Twisted's server transports ``client``, ``hostname`` and the log prefix. Only where a transport of an unknown kind
    cannot be handed over does the wrapper stay, and forward.

    Half-closing is told to the application alone: an end of stream inside the header is a lost connection.

    Args:
        factory: The factory that made it.
    """

    factory: ProxyProtocolWrapperFactory
    transport: Any = None
    wrappedProtocol: Any
    # what is still to decide; None when it has been
    _connection: ReceiverConnection | None

    def __init__(self, factory: ProxyProtocolWrapperFactory) -> None:
        self.factory = factory
        self.wrappedProtocol = self._connection = None

    def logPrefix(self) -> str:
        """Name this class, and the application's protocol where that is behind it."""
        name = type(self).__name__
        return name if self.wrappedProtocol is None else f"{handover.log_prefix(self.wrappedProtocol)} ({name})"

    def getPeer(self) -> IAddress:
        """Tell the client's address; until the header has come, the address that connected."""
        peer: IAddress = self.transport.getPeer()
        return peer

    def getHost(self) -> IAddress:
        """Tell the address that the client connected to; until the header has come, the real one."""
        host: IAddress = self.transport.getHost()
        return host

    def makeConnection(self, transport: Any) -> None:
        """Wait for the header.

        Args:
            transport: The connection's transport.
        """
        self.transport = transport
        self.connected = 1
        receiver = self.factory.receiver
        peer = local = None
        if receiver.needs_addresses:
            peer, local = to_sockaddr(transport.getPeer()), to_sockaddr(transport.getHost())
        try:
            connection = self._connection = receiver.connection(peer, local)
        except ProxyProtocolError as error:
            self._refuse(error)
        except BaseException:  # the policy function's; Twisted logs it, and would leave the connection open
            handover.abort(transport)
            raise
        else:
            if connection.begun:
                self._hand_over(connection)
            else:
                self.factory._headers.add(self)

    def dataReceived(self, data: bytes) -> None:
        """Take the next bytes of the connection.

        Args:
            data: The bytes.
        """
        connection = self._connection
        if connection is not None:
            try:
                begun = connection.feed(data)
            except ProxyProtocolError as error:
                self._refuse(error)
            else:
                if begun:
                    self._hand_over(connection)
        elif self.wrappedProtocol is not None:
            self.wrappedProtocol.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Take the end of the connection.

        Args:
            reason: Why it ended.
        """
        if self.wrappedProtocol is not None:
            protocol, self.wrappedProtocol = self.wrappedProtocol, None
            protocol.connectionLost(reason)
        elif self._connection is not None:
            try:
                self._connection.eof()
            except ProxyProtocolError as error:
                if reason.check(ConnectionClosed) is None:
                    self._log_broken_tls(reason)
                else:
                    self._log_refusal(error)
            self._forget()

    def readConnectionLost(self) -> None:
        """Pass a half-close on, where the wrapper stayed."""
        self.wrappedProtocol.readConnectionLost()

    def writeConnectionLost(self) -> None:
        """Pass a half-close on, where the wrapper stayed."""
        self.wrappedProtocol.writeConnectionLost()

    def time_out(self) -> None:
        """Take the end of the time that the header had."""
        connection: Any = self._connection  # which is there: whoever is late still waits
        try:
            connection.timed_out()
        except ProxyProtocolError as error:
            self._refuse(error)
        else:
            self._hand_over(connection)

    def abort(self) -> None:
        """Drop the connection without a word, because the port has stopped."""
        self._forget()
        handover.abort(self.transport)

    def _forget(self) -> None:
        self._connection = None
        self.factory._headers.discard(self)

    def _refuse(self, error: ProxyProtocolError) -> None:
        self._log_refusal(error)
        self.abort()

    def _log_refusal(self, error: ProxyProtocolError) -> None:
        log = _log.debug if error.routine else _log.warn
        log("{refusal}", refusal=describe_refusal(error, to_sockaddr(self.transport.getPeer())), error=error)

    def _log_broken_tls(self, reason: Failure) -> None:
        _log.warn(
            "Refused a connection from {peer}: TLS around the header has failed ({reason!r}). Most senders put the "
            "header in front of TLS: leave out inside_tls= (ppInsideTLS=yes), and listenSSL",
            peer=describe_address(to_sockaddr(self.transport.getPeer())),
            reason=reason.value,
        )

    def _hand_over(self, connection: ReceiverConnection) -> None:
        """Begin the application."""
        self._connection = None
        factory, transport = self.factory, self.transport
        factory._headers.discard(self)
        try:
            addresses = connection.addresses
            client = None if addresses is None else addresses.peername
            peer = transport.getPeer() if client is None else from_sockaddr(client)
            protocol = factory.wrappedFactory.buildProtocol(peer)
            if protocol is None:
                # not in good order: below us TLS would wait for its peer, whose time is over with the header
                handover.abort(transport)
                return
            # the usual case is asked for here, because a call is felt
            slot = "protocol" if getattr(transport, "protocol", None) is self else handover.find_slot(transport, self)
            if slot is None:
                transport, slot = self._stay(protocol), handover.IN_A_LAYER
            # For a transport that stands in front of another and answers with that one's protocol: it was not replaced
            # there, and what comes comes here.
            self.wrappedProtocol = protocol
            handover.hand_over(transport, slot, protocol, peer, client, connection)
        except BaseException:
            # the application's; outside of the reactor's read nobody else would drop the connection
            handover.abort(transport)
            raise

    def _stay(self, protocol: IProtocol) -> ProxyProtocolWrapper:
        """Become the application's transport, where the real one cannot be handed over."""
        # mypy takes the hash of the instances for that of the class
        self.__class__ = _forwarding(type(self))  # type: ignore[arg-type]
        directlyProvides(self, providedBy(self.transport))
        if IHalfCloseableProtocol.providedBy(protocol):
            directlyProvides(self, providedBy(self.transport), IHalfCloseableProtocol)
        return self


@cache
def _forwarding(kind: type[ProxyProtocolWrapper]) -> type[ProxyProtocolWrapper]:
    """Give the class that a wrapper becomes which has to stay: a transport too, and whatever else the real one can do.

    A class of its own, because ProtocolWrapper passes on every attribute that is not there: where that may be, CPython
    finds those that are there so slowly that a header took a tenth longer.

    Args:
        kind: The wrapper's own class, which may be a user's.
    """
    return type(kind.__name__, (kind, ProtocolWrapper), {})


class ProxyProtocolWrapperFactory(WrappingFactory):
    """Puts a header in front of every connection of a factory.

    It is used wherever a server factory is, as in ``reactor.listenTCP(8080, ProxyProtocolWrapperFactory(site))``. Not
    with ``reactor.listenSSL``, which does TLS first: a balancer's header comes in front of it, so it is *tls* here.

    Args:
        wrapped_factory: The application's factory. Its ``buildProtocol`` is given the client's address.
        tls: What TLS *behind* the header is done with, such as a ``twisted.internet.ssl.CertificateOptions``.
        tls_timeout: How long its handshake may take, in seconds; None for no limit.
        clock: What tells and waits for the time; the reactor unless given.
        receiver: How connections are received, in place of the keywords of :class:`.Receiver`.
        keywords: ``pp``, ``policy``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver` takes them.

    Raises:
        TypeError: There are a receiver and its keywords, or a keyword is none.
        ValueError: A keyword's value is out of range.
    """

    # a ProtocolWrapper only where it has to stay
    protocol = ProxyProtocolWrapper  # type: ignore[assignment]

    def __init__(
        self,
        wrapped_factory: IProtocolFactory,
        *,
        tls: Any = None,
        tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
        clock: IReactorTime | None = None,
        receiver: Receiver | None = None,
        **keywords: Unpack[ReceiverKeywords],
    ) -> None:
        _check_factory(wrapped_factory)
        own_clock, tls_timeout = Clock(clock), check_seconds("tls_timeout", tls_timeout)
        if tls is not None:
            from proxyprotocol.twisted.tls import TLSFactory  # needs pyOpenSSL, which applications without TLS may lack

            wrapped_factory = TLSFactory(tls, wrapped_factory, clock, tls_timeout, own_clock)
        super().__init__(wrapped_factory)  # type: ignore[no-untyped-call]
        self.receiver = Receiver.of(receiver, keywords)
        if IProtocolNegotiationFactory.providedBy(self.wrappedFactory):
            # TLS around the header asks for it, and newer Twisted refuses whoever offers a protocol where it is missing
            alsoProvides(self, IProtocolNegotiationFactory)
        self._headers: Deadlines[ProxyProtocolWrapper] = Deadlines(self.receiver.timeout, _time_out, own_clock)

    def buildProtocol(self, addr: IAddress | None) -> ProxyProtocolWrapper:  # type: ignore[override]
        """Give the protocol that reads the header; the application's own is built when it is complete.

        Args:
            addr: The address that connected.
        """
        return self.protocol(self)

    def acceptableProtocols(self) -> list[bytes]:
        """Tell TLS around the header what the application speaks, where its factory tells."""
        protocols: list[bytes] = self.wrappedFactory.acceptableProtocols()
        return protocols

    def stopFactory(self) -> None:
        """Abort the connections that are still in their header: nobody listens any more."""
        for wrapper in self._headers.close():
            wrapper.abort()


def _time_out(wrapper: ProxyProtocolWrapper) -> None:
    try:
        wrapper.time_out()
    except Exception:
        # the application's: a server that speaks first begins here
        _log.failure("An application has raised as it began")


def _check_factory(factory: Any) -> None:
    """Reject non-factories, and factories that already read a header.

    Args:
        factory: The application's factory, or one around it.
    """
    if isinstance(factory, type) or not hasattr(factory, "buildProtocol"):
        raise TypeError(f"The wrapped factory is one that builds protocols, not {factory!r}")
    while factory is not None:
        if isinstance(factory, (ProxyProtocolWrapperFactory, HAProxyWrappingFactory)):
            raise TypeError(describe_second_header("The factory"))
        factory = getattr(factory, "wrappedFactory", None)
