"""The protocol that reads the header, and its factory for ``reactor.listenTCP`` and for endpoints."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from twisted.internet import interfaces
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory  # Twisted offers no public name
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, providedBy

from proxyprotocol._adapters.deadlines import Deadlines, check_seconds
from proxyprotocol._adapters.listener import Listener
from proxyprotocol._adapters.refusals import describe_second_header
from proxyprotocol._wire import spec
from proxyprotocol.errors import ProxyProtocolError, ProxyProtocolSyntaxError, RefusalCode
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords
from proxyprotocol.twisted.clock import Clock
from proxyprotocol.twisted.handover import hand_over
from proxyprotocol.twisted.transport import (
    IN_A_LAYER,
    abort,
    addresses,
    emit,
    find_slot,
    from_sockaddr,
    local_address,
    log,
    log_prefix,
    to_sockaddr,
)
from proxyprotocol.twisted.typing import ProtocolFactory, TimeSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxyProtocolWrapper", "ProxyProtocolWrapperFactory", "reads_header"]

# Looked at first, because asking each connection for a second header took 3 % of the time for a header.
_FIRST_BYTES: Final = spec.V1_SIGNATURE[:1] + spec.V2_SIGNATURE[:1]


class ProxyProtocolWrapper(Protocol):
    """Reads the header of one connection, then hands the connection over to the application.

    The wrapper waits until the header is complete and accepted. It then builds the application's protocol with the
    client's address, and connects it to the connection's own transport. From then on ``getPeer`` and ``getHost`` of
    that transport return the addresses of the header, and so do ``client``, ``hostname`` and the log prefix of
    Twisted's server transports. The wrapper then drops out. Only if it cannot hand over a transport of an unknown kind
    does it stay, and forward every event. A stream that ends inside the header loses the connection.

    Args:
        factory: The factory that made it.
    """

    factory: ProxyProtocolWrapperFactory
    transport: Any = None
    wrappedProtocol: Any = None
    # set from makeConnection() until the decision
    _connection: ReceiverConnection | None = None

    def __init__(self, factory: ProxyProtocolWrapperFactory) -> None:
        self.factory = factory

    def logPrefix(self) -> str:
        """Return the name of this class, with the application's protocol if there is one."""
        name = type(self).__name__
        return name if self.wrappedProtocol is None else f"{log_prefix(self.wrappedProtocol)} ({name})"

    def getPeer(self) -> interfaces.IAddress:
        """Return the client's address; before the header is complete, the address that connected."""
        peer: interfaces.IAddress = self.transport.getPeer()
        return peer

    def getHost(self) -> interfaces.IAddress:
        """Return the address that the client connected to; before the header is complete, the real one."""
        host: interfaces.IAddress = self.transport.getHost()
        return host

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.connected = 1
        listener = self.factory.listener
        receiver = listener.receiver
        peer = local = None
        if receiver.needs_addresses:
            peer, local = addresses(transport)
        if listener.asks:
            receiver = listener.at(local_address(transport))
        try:
            connection = self._connection = receiver.connection(peer, local)
        except BaseException as error:
            self._drop(error)
        else:
            if connection.begun:
                self._hand_over(connection)
            else:
                self.factory._headers.add(self)

    def dataReceived(self, data: bytes) -> None:
        connection = self._connection
        if connection is not None:
            try:
                begun = connection.feed(data)
            except BaseException as error:
                self._drop(error)
            else:
                if begun:
                    self._hand_over(connection)
        elif self.wrappedProtocol is not None:
            self.wrappedProtocol.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self.wrappedProtocol is not None:
            protocol, self.wrappedProtocol = self.wrappedProtocol, None
            protocol.connectionLost(reason)
        elif self._connection is not None:
            try:
                # without pyOpenSSL there is nothing to import, and no TLS
                if type(reason.value).__module__.partition(".")[0] in ("OpenSSL", "ssl"):
                    self._connection.refuse(self._describe_tls(reason.value))
                self._connection.eof()
            except ProxyProtocolError as error:
                self._log_refusal(error)
            self._connection = None
            self.factory._headers.discard(self)

    def readConnectionLost(self) -> None:
        """Forward a half-close; the transport calls this only if the wrapper stayed."""
        self.wrappedProtocol.readConnectionLost()

    def writeConnectionLost(self) -> None:
        """Forward a half-close; the transport calls this only if the wrapper stayed."""
        self.wrappedProtocol.writeConnectionLost()

    def time_out(self) -> None:
        """Refuse a connection that sent no complete header in time, or start it if the policy allows that."""
        connection: Any = self._connection  # not None: the deadline ends with the decision
        try:
            connection.timed_out()
        except BaseException as error:
            self._drop(error)
        else:
            try:
                self._hand_over(connection)
            except Exception:  # from the application: a server that speaks first starts here
                log.failure("The application raised an exception when its connection started")

    def abort(self) -> None:
        """Abort the connection without a message in the log; the factory calls this when its port stops."""
        self._connection = None
        self.factory._headers.discard(self)
        abort(self.transport)

    def refuse(self, error: ProxyProtocolError) -> None:
        """Log why the connection is refused, and abort it."""
        self._log_refusal(error)
        self.abort()

    def _drop(self, error: BaseException) -> None:
        """Refuse the connection for what its step raised."""
        transport = self.transport
        try:
            peer, local = to_sockaddr(transport.getPeer()), local_address(transport)
            self.factory.listener.refuse_raised(error, self._connection, peer, local)
        finally:
            self.abort()

    def _log_refusal(self, error: ProxyProtocolError) -> None:
        transport = self.transport
        self.factory.listener.refuse(error, to_sockaddr(transport.getPeer()), local_address(transport))

    def _describe_tls(self, error: BaseException | None) -> ProxyProtocolError:
        """Return the refusal of a connection that failed in the TLS around the header."""
        spell = self.factory.listener.receiver.spell
        return ProxyProtocolSyntaxError(
            f"TLS around the header failed ({error!r}). Most senders put the header in front of TLS: leave out "
            f"{spell('inside_tls')}, and listenSSL",
            code=RefusalCode.TLS,
        )

    def _hand_over(self, connection: ReceiverConnection) -> None:
        """Build the application's protocol and give it the connection."""
        self._connection = None
        factory, transport = self.factory, self.transport
        factory._headers.discard(self)
        try:
            effective = connection.effective
            client = None if effective is None else effective.peername
            peer = transport.getPeer() if client is None else from_sockaddr(client)
            trailing = connection.trailing
            if trailing and trailing[0] in _FIRST_BYTES and connection.repeated:
                factory.listener.warn_of_second_header(to_sockaddr(transport.getPeer()), local_address(transport))
            protocol = factory.wrappedFactory.buildProtocol(peer)
            if protocol is None:
                # Abort instead of loseConnection(): TLS below would wait for its peer, and the deadline has ended.
                abort(transport)
                return
            # check the usual case inline: a call takes measurable time here
            slot = "protocol" if getattr(transport, "protocol", None) is self else find_slot(transport, self)
            if slot is None:
                # stay, as the application's transport; mypy confuses the hash of the instances with that of the class
                self.__class__ = _forwarding(type(self))  # type: ignore[arg-type]
                directlyProvides(self, providedBy(transport))
                if interfaces.IHalfCloseableProtocol.providedBy(protocol):
                    alsoProvides(self, interfaces.IHalfCloseableProtocol)
                transport, slot = self, IN_A_LAYER
            # A transport in front of another may return that one's protocol. We did not replace the protocol there, so
            # data still arrives here and must be forwarded.
            self.wrappedProtocol = protocol
            hand_over(transport, slot, protocol, peer, client, connection)
        except BaseException:
            # from the application; outside the reactor's read nobody else would drop the connection
            abort(transport)
            raise


@cache
def _forwarding(kind: type[ProxyProtocolWrapper]) -> type[ProxyProtocolWrapper]:
    """Return a subclass of *kind* that is also a transport, and forwards everything to the real one."""
    # A separate class, because ProtocolWrapper defines __getattr__: CPython then looks up the existing attributes more
    # slowly as well, and a header took a tenth longer.
    return type(kind.__name__, (kind, ProtocolWrapper), {})


class ProxyProtocolWrapperFactory(WrappingFactory, ServerFactory):  # a ServerFactory for listenTCP, by its annotation
    """Reads a header at the start of every connection of a factory.

    Use it in place of the application's factory: ``reactor.listenTCP(8080, ProxyProtocolWrapperFactory(site))``. Do not
    use it with ``reactor.listenSSL``, which starts TLS first: balancers send the header before TLS. Pass *tls* instead.

    Args:
        wrapped_factory: The application's factory. Its ``buildProtocol`` gets the client's address.
        tls: The settings for TLS *after* the header, such as a ``twisted.internet.ssl.CertificateOptions``.
        tls_timeout: How long the TLS handshake may take, in seconds; None for no limit.
        clock: The source of time; the reactor by default.
        receiver: How to receive connections; replaces the keywords of :class:`.Receiver`.
        keywords: Those of :class:`.Receiver`, such as ``trusted=["10.0.0.0/8"]``.

    Raises:
        TypeError: *wrapped_factory* is not a factory or already reads a header, both a receiver and its keywords were
            given, or a keyword is unknown.
        ValueError: A keyword is out of range.
    """

    # becomes a ProtocolWrapper only if it has to stay
    protocol = ProxyProtocolWrapper  # type: ignore[assignment]

    def __init__(
        self,
        wrapped_factory: ProtocolFactory,
        *,
        tls: Any = None,
        tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
        clock: TimeSource | None = None,
        receiver: Receiver | None = None,
        **keywords: Unpack[ReceiverKeywords],
    ) -> None:
        if isinstance(wrapped_factory, type) or not hasattr(wrapped_factory, "buildProtocol"):
            raise TypeError(f"wrapped_factory must be a factory, which builds protocols, not {wrapped_factory!r}")
        if reads_header(wrapped_factory, (ProxyProtocolWrapperFactory, HAProxyWrappingFactory)):
            raise TypeError(describe_second_header("The factory"))
        tls_timeout = check_seconds("tls_timeout", tls_timeout)
        #: The log of the connections, and the receiver that they use.
        self.listener: Listener = Listener(
            Receiver.of(receiver, keywords, ("clock", "tls", "tls_timeout")), emit, Clock(clock)
        )
        if tls is not None:
            from proxyprotocol.twisted.tls import TLSFactory  # needs pyOpenSSL, which applications without TLS may lack

            wrapped_factory = TLSFactory(tls, wrapped_factory, clock, tls_timeout, self.listener)
        super().__init__(wrapped_factory)  # type: ignore[no-untyped-call]
        if interfaces.IProtocolNegotiationFactory.providedBy(self.wrappedFactory):
            # TLS around the header checks for it: without it, newer Twisted refuses clients that offer a protocol
            alsoProvides(self, interfaces.IProtocolNegotiationFactory)
        self._headers: Deadlines[ProxyProtocolWrapper] = Deadlines(
            self.listener.receiver.timeout, lambda wrapper: wrapper.time_out(), Clock(clock)
        )

    def buildProtocol(self, addr: interfaces.IAddress | None) -> ProxyProtocolWrapper:  # type: ignore[override]
        return self.protocol(self)

    def acceptableProtocols(self) -> list[bytes]:
        """Return the protocols that the application's factory offers; TLS around the header asks for them."""
        protocols: list[bytes] = self.wrappedFactory.acceptableProtocols()
        return protocols

    def startFactory(self) -> None:
        """Log what connections may send, and who may send it; where, only the first connection shows."""
        self.listener.start()

    def stopFactory(self) -> None:
        """Abort the connections that are still waiting for their header."""
        self.listener.stop()
        for wrapper in self._headers.close():
            wrapper.abort()


def reads_header(factory: Any, kinds: tuple[type, ...] = (ProxyProtocolWrapperFactory,)) -> bool:
    """Return whether a factory, or one that it wraps, is of one of these kinds, which read a header."""
    while factory is not None:
        if isinstance(factory, kinds):
            return True
        factory = getattr(factory, "wrappedFactory", None)
    return False
