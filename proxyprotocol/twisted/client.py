"""Floor 5: the endpoint that sends a header to whomever it connects to."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IFileDescriptorReceiver,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    ISSLTransport,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from proxyprotocol._adapters.refusals import describe_second_header
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.result import ProxyResult
from proxyprotocol.sender import Sender
from proxyprotocol.twisted import handover
from proxyprotocol.twisted.addresses import to_sockaddr
from proxyprotocol.twisted.tls_endpoints import part_client, tls_layer

__all__ = ["ProxyProtocolClientEndpoint"]


@implementer(IStreamClientEndpoint)
class ProxyProtocolClientEndpoint:
    """Connects as another endpoint does, and sends a header before anything else.

    The application knows nothing of it: its protocol is connected when the header is on its way, to the connection's
    own transport, whose ``getPeer`` and ``getHost`` are those of the real connection.

    On the wire the header comes first, also in front of TLS: a Twisted ``ssl:`` or ``tls:`` endpoint is connected
    without TLS, which is then done behind the header. With somebody else's endpoint that has begun TLS already
    ``connect`` fails.

    Args:
        endpoint: Where to connect.
        result: What the header says, or a function that is given the connection's transport and says it. With None,
            the function's None too, the client speaks for itself: version 2 says LOCAL, version 1 names the
            connection's own two addresses.
        pp: The codec; version 2 unless given.
        tls: What TLS *behind* the header is done with, such as what ``twisted.internet.ssl.optionsForClientTLS``
            gives.

    Raises:
        TypeError: An argument is of another type, or TLS or the header is asked for twice.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        result: ProxyResult | Callable[[ITransport], ProxyResult | None] | None = None,
        *,
        pp: ProxyProtocol | None = None,
        tls: Any = None,
    ) -> None:
        if not IStreamClientEndpoint.providedBy(endpoint):
            raise TypeError(f"The endpoint is one to connect with, such as clientFromString() gives, not {endpoint!r}")
        self._sender = Sender(result, pp=pp)
        self._endpoint = endpoint
        self._layer = None if tls is None else tls_layer(tls)
        if (parted := part_client(endpoint)) is not None:
            if tls is not None:
                raise TypeError("The endpoint does TLS already: tls= is for one that does not")
            self._endpoint, self._layer = parted
        if isinstance(self._endpoint, ProxyProtocolClientEndpoint):
            # receivers take the second for what the client says
            raise TypeError(describe_second_header("The endpoint", "sends"))

    def speaking_for(self, result: ProxyResult) -> ProxyProtocolClientEndpoint:
        """Give an endpoint whose header says this, where this one was not told what to say; else this one.

        Args:
            result: Who the client is, as whoever relays for it was told.
        """
        if self._sender.result is not None:
            return self
        endpoint = copy(self)
        endpoint._sender = replace(self._sender, result=result)
        return endpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, and send the header.

        Args:
            factory: The application's factory.

        Returns:
            The application's protocol, connected. It fails as the other endpoint's does, and where the header cannot
            be written, with the codec's or the result function's own exception; the connection is aborted then.
        """
        inner = factory if self._layer is None else self._layer(factory)
        opening = _OpeningFactory(inner, self._sender, in_tls=self._layer is not None)
        connecting: Deferred[IProtocol] = self._endpoint.connect(opening).addCallback(opening.opened)
        return connecting


class _OpeningFactory(WrappingFactory):
    """Puts a header in front of one connection."""

    noisy = False
    # why the header could not be written
    failure: Failure | None = None

    def __init__(self, wrapped_factory: IProtocolFactory, sender: Sender, *, in_tls: bool) -> None:
        super().__init__(wrapped_factory)  # type: ignore[no-untyped-call]
        self._sender = sender
        self._in_tls = in_tls

    def buildProtocol(self, addr: IAddress | None) -> _Opening | None:  # type: ignore[override]
        """Give the protocol that sends the header, or None where the application's factory takes no connection.

        Args:
            addr: The address that was connected to.
        """
        protocol: Any = self.wrappedFactory.buildProtocol(addr)
        # Twisted puts TLS around None too, and fails with a traceback when it is connected
        refused = (protocol.wrappedProtocol if self._in_tls else protocol) is None
        return None if refused else _Opening(self, protocol)

    def header(self, transport: Any) -> bytes:
        """Write the header of a connection.

        Args:
            transport: The connection's transport.

        Raises:
            TypeError: TLS has been begun on it.
            Exception: What the sender raises.
        """
        if ISSLTransport.providedBy(transport):
            raise TypeError(
                "The header comes before TLS, but this endpoint has begun TLS: use an endpoint without TLS, and tls= "
                "for what TLS is done with"
            )
        return self._sender.header(transport, to_sockaddr(transport.getHost()), to_sockaddr(transport.getPeer()))

    def opened(self, protocol: Any) -> Any:
        """Give the application's protocol for what an endpoint has connected, or say why there is none.

        Args:
            protocol: What the endpoint gave.
        """
        if self.failure is not None:
            failure, self.failure = self.failure, None
            return failure
        if isinstance(protocol, _Opening):
            protocol = protocol.wrappedProtocol
        return protocol.wrappedProtocol if self._in_tls else protocol


class _Opening(Protocol):
    """Sends the header of one connection, then hands the connection over to the application and is gone.

    What a transport of an unknown kind, or one that stands in front of another, still brings here is passed on.
    """

    factory: _OpeningFactory

    def __init__(self, factory: _OpeningFactory, protocol: Any) -> None:
        self.factory = factory
        self.wrappedProtocol: Any = protocol
        # Twisted's own endpoints ask when they are given the protocol
        for interface in (IHalfCloseableProtocol, IFileDescriptorReceiver):
            if interface.providedBy(protocol):
                alsoProvides(self, interface)

    def logPrefix(self) -> str:
        """Name the application's protocol, as the transport does in its log."""
        return handover.log_prefix(self.wrappedProtocol)

    def makeConnection(self, transport: Any) -> None:
        """Send the header, and begin the application.

        Args:
            transport: The connection's transport.
        """
        protocol = self.wrappedProtocol
        try:
            header = self.factory.header(transport)
        except Exception:
            # for whoever waits for connect(): raised here, it would be the reactor's to log
            self.factory.failure = Failure()
            self.wrappedProtocol = None
            handover.abort(transport)
            return
        transport.write(header)
        slot = handover.find_slot(transport, self) or _find_holder(transport, self)
        if slot is not None:
            setattr(transport, slot, protocol)
        protocol.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes on.

        Args:
            data: The bytes.
        """
        if self.wrappedProtocol is not None:
            self.wrappedProtocol.dataReceived(data)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Pass a descriptor on.

        Args:
            descriptor: It.
        """
        self.wrappedProtocol.fileDescriptorReceived(descriptor)

    def readConnectionLost(self) -> None:
        """Pass a half-close on."""
        self.wrappedProtocol.readConnectionLost()

    def writeConnectionLost(self) -> None:
        """Pass a half-close on."""
        self.wrappedProtocol.writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Pass the end on.

        Args:
            reason: Why it ended.
        """
        if self.wrappedProtocol is not None:
            self.wrappedProtocol.connectionLost(reason)


def _find_holder(transport: Any, protocol: IProtocol) -> str | None:
    """Find a protocol in the place where the clients of Twisted's own endpoints are held.

    These endpoints put a protocol of their own in between, which fires the Deferred and passes everything on. Its
    private name is named here, once; without it the protocol would stay, and pass on too.
    """
    holder = getattr(transport, handover.AT_THE_SOCKET, None)
    return handover.AT_THE_SOCKET if getattr(holder, "_wrappedProtocol", None) is protocol else None
