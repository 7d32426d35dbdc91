"""``twistd proxyprotocol``: a relay and an echo server between any two of Twisted's endpoints.

Either side may be a ``proxyprotocol:`` endpoint string. The relay passes the client of an incoming header on in the
outgoing header, with all the TLVs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import IService
from twisted.internet import interfaces
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python import usage
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyprotocol._adapters.listener import Listener
from proxyprotocol.policy import HeaderPolicy
from proxyprotocol.receiver import Receiver
from proxyprotocol.sender import name_ends
from proxyprotocol.twisted.client import ProxyProtocolClientEndpoint
from proxyprotocol.twisted.clock import Clock
from proxyprotocol.twisted.transport import abort, describe_peer, emit, log, proxy_result, to_sockaddr
from proxyprotocol.twisted.typing import ClientEndpoint

__all__ = ["EchoFactory", "Options", "RelayFactory", "makeService"]

_LISTEN = ["listen", "l", None, "Where to listen: an endpoint string, such as proxyprotocol:tcp:8080"]
_CONNECT = ["connect", "c", None, "Where to connect: an endpoint string, such as tcp:127.0.0.1:8080"]


class _EchoOptions(usage.Options):
    longdesc = "Sends a line that names the client, then sends back all that it receives."
    optParameters: ClassVar = [_LISTEN]


class _RelayOptions(usage.Options):
    longdesc = (
        "Relays every connection. If --listen is a proxyprotocol: string, it reads a header from each connection. If "
        "--connect is one, it sends a header that names the client of the incoming connection."
    )
    optParameters: ClassVar = [_LISTEN, _CONNECT]


class Options(usage.Options):
    """The command line of ``twistd proxyprotocol``; ``endpoints`` holds the endpoints by the names of their options."""

    synopsis = "[options] echo|relay --listen ENDPOINT [--connect ENDPOINT]"
    subCommands: ClassVar[list[list[Any]]] = [
        ["echo", None, _EchoOptions, "Send back all data."],
        ["relay", None, _RelayOptions, "Relay every connection."],
    ]

    def postOptions(self) -> None:
        """Make the endpoints, to report a missing or wrong endpoint string as a usage error."""
        from twisted.internet import reactor

        if self.subCommand is None:
            raise usage.UsageError("The command is missing: echo or relay")
        self.endpoints: dict[str, Any] = {}
        for name, description in self.subOptions.items():
            if description is None:
                raise usage.UsageError(f"--{name} is missing: pass an endpoint string")
            from_string: Any = serverFromString if name == "listen" else clientFromString
            try:
                self.endpoints[name] = from_string(reactor, description)
            except LookupError as error:
                raise usage.UsageError(f"--{name} {description}: systemd did not pass this socket") from error
            except Exception as error:  # from the file system, from pyOpenSSL, or from a foreign endpoint
                raise usage.UsageError(f"--{name} {description}: {str(error) or repr(error)}") from error


def makeService(options: Options) -> IService:
    """Make the service for a command line.

    Args:
        options: The parsed command line.
    """
    endpoints = options.endpoints
    factory: Factory = RelayFactory(endpoints["connect"]) if "connect" in endpoints else EchoFactory()
    listening = _ListenOrExit(endpoints["listen"], options.subOptions["listen"])
    return StreamServerEndpointService(listening, factory)


@implementer(interfaces.IStreamServerEndpoint)
class _ListenOrExit:
    """Listens; if it cannot, it logs why and ends the program, at once and with exit status 1 where possible."""

    def __init__(self, endpoint: interfaces.IStreamServerEndpoint, description: str) -> None:
        self._endpoint, self._description = endpoint, description
        self._failed = False

    def listen(self, factory: Any) -> Deferred[Any]:
        listening = maybeDeferred(self._endpoint.listen, factory).addCallbacks(self._tell_start, self._log_failure)
        if self._failed:
            raise SystemExit(1)
        return listening

    def _tell_start(self, port: Any) -> Any:
        if self._description.partition(":")[0].lower() not in ("proxyprotocol", "haproxy"):  # they read headers
            Listener(Receiver(policy=HeaderPolicy.SKIP), emit, Clock(None)).start(to_sockaddr(port.getHost()))
        return port

    def _log_failure(self, failure: Failure) -> Failure | None:
        if failure.check(CancelledError) is not None:  # the service was stopped before the endpoint listened
            return failure
        from twisted.internet import reactor

        log.critical("--listen {description}: {why}", description=self._description, why=failure.getErrorMessage())
        self._failed = True
        if reactor.running:  # the endpoint failed later
            reactor.stop()
        return None


@implementer(interfaces.IHalfCloseableProtocol)
class _Echo(Protocol):
    transport: Any

    def connectionMade(self) -> None:
        self.transport.registerProducer(self.transport, True)
        self.transport.write(f"You are {describe_peer(self.transport)}, {proxy_result(self.transport)!r}\n".encode())

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: the connection ends when the client closes the other half."""


class EchoFactory(Factory):
    """Sends a line that names the client and its header, then sends back all that it receives."""

    protocol: Callable[..., Protocol] | None = _Echo


class RelayFactory(Factory):
    """Relays every connection.

    Args:
        endpoint: Where to connect. If it is a :class:`.ProxyProtocolClientEndpoint` without a result, its header names
            the client of the incoming connection.
    """

    def __init__(self, endpoint: ClientEndpoint) -> None:
        self._endpoint = endpoint

    def buildProtocol(self, addr: interfaces.IAddress | None) -> Protocol:
        return _ClientSide(self._endpoint)


@implementer(interfaces.IHalfCloseableProtocol)
class _Side(Protocol):
    """One side of a relayed connection: sends its data to the other side, which sets the pace."""

    transport: Any
    other: _Side | None = None
    _open_halves = 2

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def readConnectionLost(self) -> None:
        if self.other is not None:
            transport = self.other.transport
            transport.unregisterProducer()
            # TLS cannot close one half
            if interfaces.ITCPTransport.providedBy(transport) and not interfaces.ISSLTransport.providedBy(transport):
                transport.loseWriteConnection()
            else:
                transport.loseConnection()
        self.writeConnectionLost()

    def writeConnectionLost(self) -> None:
        """Close the connection with its second half: Twisted does not."""
        self._open_halves -= 1
        if self._open_halves == 0:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        other, self.other = self.other, None
        if other is not None:
            other.other = None
            other.transport.unregisterProducer()
            if interfaces.ITCPTransport.providedBy(self.transport) and reason.check(ConnectionDone) is None:
                # A cut stream must not look complete. UNIX sockets are exempt: a peer with unread data resets them.
                abort(other.transport)
            else:
                other.transport.loseConnection()


class _ClientSide(_Side):
    """The side that connected to us."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def connectionMade(self) -> None:
        transport, endpoint = self.transport, self._endpoint
        transport.pauseProducing()
        if isinstance(endpoint, ProxyProtocolClientEndpoint):
            client = proxy_result(transport)
            if client is None:
                client = name_ends(to_sockaddr(transport.getPeer()), to_sockaddr(transport.getHost()))
            endpoint = endpoint.speaking_for(client)
        self._connecting: Deferred[Any] = maybeDeferred(endpoint.connect, Factory.forProtocol(_Side))
        self._connecting.addCallbacks(self._connected, self._failed)

    def _connected(self, other: _Side) -> None:
        self.other, other.other = other, self
        other.transport.registerProducer(self.transport, True)
        self.transport.registerProducer(other.transport, True)
        self.transport.resumeProducing()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            log.warn(
                "Cannot relay {client}: {reason}",
                client=describe_peer(self.transport),
                reason=failure.getErrorMessage(),
            )
        abort(self.transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._connecting.cancel()  # does nothing if it has fired
        super().connectionLost(reason)
