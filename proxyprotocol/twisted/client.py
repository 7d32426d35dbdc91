"""The client endpoint that sends a header on every connection it opens."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from proxyprotocol._adapters.refusals import describe_second_header
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.result import ProxyResult
from proxyprotocol.sender import ResultSource, Sender
from proxyprotocol.twisted.tls_endpoints import client_tls, split_tls_endpoint
from proxyprotocol.twisted.transport import AT_THE_SOCKET, abort, find_slot, log_prefix, to_sockaddr
from proxyprotocol.twisted.typing import ClientEndpoint, ProtocolFactory

__all__ = ["ProxyProtocolClientEndpoint"]


@implementer(interfaces.IStreamClientEndpoint)
class ProxyProtocolClientEndpoint:
    """Connects through another endpoint, and sends a header before anything else.

    The application does not notice. The endpoint sends the header, then connects the application's protocol to the
    connection's own transport; its ``getPeer`` and ``getHost`` return the real addresses of the connection.

    On the wire the header comes before TLS. For a Twisted ``ssl:`` or ``tls:`` endpoint, this class connects without
    TLS, sends the header, and then starts TLS. If an endpoint of another kind has already started TLS, ``connect``
    fails.

    Args:
        endpoint: Where to connect.
        result: What the header says, or a function that takes the connection's transport and returns it. If it is
            None, the client speaks for itself: version 2 sends LOCAL, version 1 names the two addresses of the
            connection.
        pp: The codec; version 2 by default.
        tls: The settings for TLS *after* the header, such as ``twisted.internet.ssl.optionsForClientTLS`` returns.

    Raises:
        TypeError: An argument has the wrong type, or TLS or the header is requested twice.
    """

    def __init__(
        self,
        endpoint: ClientEndpoint,
        result: ResultSource = None,
        *,
        pp: ProxyProtocol | None = None,
        tls: Any = None,
    ) -> None:
        if not interfaces.IStreamClientEndpoint.providedBy(endpoint):
            raise TypeError(f"endpoint must be a client endpoint, such as clientFromString() returns, not {endpoint!r}")
        self._sender = Sender(result, pp=pp)
        self._endpoint = endpoint
        self._layer = None if tls is None else client_tls(tls)
        if (parts := split_tls_endpoint(endpoint, tls)) is not None:
            self._endpoint, self._layer = parts
        if isinstance(self._endpoint, ProxyProtocolClientEndpoint):
            # a receiver would treat the second header as client data
            raise TypeError(describe_second_header("The endpoint", "sends"))

    def speaking_for(self, result: ProxyResult) -> ProxyProtocolClientEndpoint:
        """Return a copy that sends *result*; or this endpoint itself, if it already has a result.

        Use it in a relay, to pass on the client of the incoming connection.

        Args:
            result: The client to name in the header.
        """
        if self._sender.result is not None:
            return self
        endpoint = copy(self)
        endpoint._sender = replace(self._sender, result=result)
        return endpoint

    def connect(self, factory: ProtocolFactory) -> Deferred[Any]:
        """Connect for the application's factory, and send the header.

        Returns:
            A Deferred that fires with the application's protocol, connected. It fails if the wrapped endpoint fails. It
            also fails, with the exception of the codec or of the result function, if the header cannot be written; the
            connection is then aborted.
        """
        inner = factory if self._layer is None else self._layer(factory)
        opening = _OpeningFactory(inner, self._sender, in_tls=self._layer is not None)
        connecting: Deferred[Any] = self._endpoint.connect(opening).addCallback(opening.opened)
        return connecting


class _OpeningFactory(WrappingFactory):
    """Sends a header before the application's data, on one connection."""

    noisy = False
    # why the header could not be written
    failure: Failure | None = None

    def __init__(self, wrapped_factory: ProtocolFactory, sender: Sender, *, in_tls: bool) -> None:
        super().__init__(wrapped_factory)  # type: ignore[no-untyped-call]
        self.sender = sender
        self._in_tls = in_tls

    def buildProtocol(self, addr: interfaces.IAddress | None) -> _Opening | None:  # type: ignore[override]
        """Return the protocol that sends the header, or None if the application's factory rejects the connection."""
        protocol: Any = self.wrappedFactory.buildProtocol(addr)
        # Twisted wraps TLS around None as well, and then fails with a traceback when it connects
        refused = (protocol.wrappedProtocol if self._in_tls else protocol) is None
        return None if refused else _Opening(self, protocol)

    def opened(self, protocol: Any) -> Any:
        """Return the application's protocol for the one that the endpoint connected, or the failure."""
        if self.failure is not None:
            failure, self.failure = self.failure, None
            return failure
        if isinstance(protocol, _Opening):
            protocol = protocol.wrappedProtocol
        return protocol.wrappedProtocol if self._in_tls else protocol


class _Opening(Protocol):
    """Sends the header of one connection, then hands the connection over to the application.

    Some transports cannot be handed over: unknown kinds, and those in front of another transport. For these, this
    protocol stays and forwards every event.
    """

    factory: _OpeningFactory

    def __init__(self, factory: _OpeningFactory, protocol: Any) -> None:
        self.factory = factory
        self.wrappedProtocol: Any = protocol
        # Twisted's endpoints check for these interfaces when they receive the protocol
        for interface in (interfaces.IHalfCloseableProtocol, interfaces.IFileDescriptorReceiver):
            if interface.providedBy(protocol):
                alsoProvides(self, interface)

    def logPrefix(self) -> str:
        return log_prefix(self.wrappedProtocol)

    def makeConnection(self, transport: Any) -> None:
        protocol = self.wrappedProtocol
        try:
            if interfaces.ISSLTransport.providedBy(transport):
                raise TypeError(
                    "The header comes before TLS, but this endpoint has already started TLS: use an endpoint without "
                    "TLS, and pass the TLS settings as tls="
                )
            here, peer = to_sockaddr(transport.getHost()), to_sockaddr(transport.getPeer())
            header = self.factory.sender.header(transport, here, peer)
        except Exception:
            # connect() reports it to the caller; an exception raised here would only reach the reactor's log
            self.factory.failure = Failure()
            self.wrappedProtocol = None
            abort(transport)
            return
        transport.write(header)
        slot = find_slot(transport, self)
        # Twisted's client endpoints insert a protocol of their own, which fires the Deferred and forwards every event.
        # Only this line uses the name of its private attribute. If it is renamed, our protocol stays, and forwards too.
        if slot is None and getattr(getattr(transport, AT_THE_SOCKET, None), "_wrappedProtocol", None) is self:
            slot = AT_THE_SOCKET
        if slot is not None:
            setattr(transport, slot, protocol)
        protocol.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        if self.wrappedProtocol is not None:
            self.wrappedProtocol.dataReceived(data)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        self.wrappedProtocol.fileDescriptorReceived(descriptor)

    def readConnectionLost(self) -> None:
        self.wrappedProtocol.readConnectionLost()

    def writeConnectionLost(self) -> None:
        self.wrappedProtocol.writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self.wrappedProtocol is not None:
            self.wrappedProtocol.connectionLost(reason)
