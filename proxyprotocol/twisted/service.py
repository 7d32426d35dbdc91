"""``twistd proxyprotocol``: a relay and an echo server between any two of Twisted's endpoints.

Either side may be a ``proxyprotocol:`` endpoint string. The relay passes the client of an incoming header on in the
outgoing header, with all the TLVs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from twisted.application.service import IService, Service
from twisted.internet import endpoints
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    ISSLTransport,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyprotocol.result import ProxyResult
from proxyprotocol.sender import name_ends
from proxyprotocol.twisted.client import ProxyProtocolClientEndpoint
from proxyprotocol.twisted.transport import abort, describe_peer, proxy_result, to_sockaddr

__all__ = ["EchoFactory", "Options", "RelayFactory", "makeService"]

_log = Logger(namespace="proxyprotocol.twisted")


class _ListenOptions(usage.Options):
    optParameters: ClassVar = [
        ["listen", "l", None, "Where to listen: an endpoint string, such as proxyprotocol:tcp:8080"]
    ]
    _parsers: ClassVar[dict[str, Callable[[Any, str], Any]]] = {"listen": endpoints.serverFromString}

    def postOptions(self) -> None:
        """Parse the endpoint strings, to report a missing or wrong one as a usage error."""
        from twisted.internet import reactor

        for name, parse in self._parsers.items():
            if self[name] is None:
                raise usage.UsageError(f"--{name} is missing: pass an endpoint string")
            try:
                parse(reactor, self[name])
            except LookupError as error:
                raise usage.UsageError(f"--{name} {self[name]}: systemd did not pass this socket") from error
            except Exception as error:  # from the file system, from pyOpenSSL, or from a foreign endpoint
                raise usage.UsageError(f"--{name} {self[name]}: {str(error) or repr(error)}") from error


class _EchoOptions(_ListenOptions):
    longdesc = "Sends a line that names the client, then sends back all that it receives."


class _RelayOptions(_ListenOptions):
    longdesc = (
        "Relays every connection. If --listen is a proxyprotocol: string, it reads a header from each connection. If "
        "--connect is one, it sends a header that names the client of the incoming connection."
    )
    optParameters: ClassVar = [
        ["connect", "c", None, "Where to connect: an endpoint string, such as tcp:127.0.0.1:8080"]
    ]
    _parsers: ClassVar = {**_ListenOptions._parsers, "connect": endpoints.clientFromString}


class Options(usage.Options):
    """The command line of ``twistd proxyprotocol``."""

    synopsis = "[options] echo|relay --listen ENDPOINT [--connect ENDPOINT]"
    subCommands: ClassVar = [
        ["echo", None, _EchoOptions, "Send back all data."],
        ["relay", None, _RelayOptions, "Relay every connection."],
    ]

    def postOptions(self) -> None:
        if self.subCommand is None:
            raise usage.UsageError("The command is missing: echo or relay")


def makeService(options: Options) -> IService:
    """Make the service for a command line.

    Args:
        options: The parsed command line.
    """
    from twisted.internet import reactor

    chosen = options.subOptions
    factory: Factory = EchoFactory()
    if options.subCommand == "relay":
        factory = RelayFactory(endpoints.clientFromString(reactor, chosen["connect"]))
    return _Listener(reactor, chosen["listen"], factory)


class _Listener(Service):
    """Listens; if it cannot, it logs why and ends the program, at once and with exit status 1 where possible."""

    _listening: Deferred[Any] | None = None
    _port: Any = None
    _failed = False

    def __init__(self, reactor: Any, description: str, factory: Factory) -> None:
        self._reactor = reactor
        self._description = description
        self._endpoint = endpoints.serverFromString(reactor, description)
        self._factory = factory

    def privilegedStartService(self) -> None:
        """Listen before twistd drops the privileges that ports below 1024 need."""
        self._listening = maybeDeferred(self._endpoint.listen, self._factory).addCallbacks(self._listens, self._cannot)
        if self._failed:
            raise SystemExit(1)

    def startService(self) -> None:
        """Listen, unless :meth:`privilegedStartService` has done so."""
        super().startService()  # type: ignore[no-untyped-call]
        if self._listening is None:
            self.privilegedStartService()

    def stopService(self) -> Any:
        super().stopService()  # type: ignore[no-untyped-call]
        port, self._port, self._listening = self._port, None, None
        return None if port is None else maybeDeferred(port.stopListening)

    def _listens(self, port: Any) -> None:
        self._port = port

    def _cannot(self, failure: Failure) -> None:
        _log.critical("--listen {description}: {why}", description=self._description, why=failure.getErrorMessage())
        self._failed = True
        if self._reactor.running:  # the endpoint failed later, while the reactor runs
            self._reactor.stop()


@implementer(IHalfCloseableProtocol)
class _Echo(Protocol):
    transport: Any

    def connectionMade(self) -> None:
        self.transport.registerProducer(self.transport, True)
        client = describe_peer(self.transport)
        self.transport.write(f"You are {client}, {proxy_result(self.transport)!r}\n".encode())

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: the connection ends when the client closes the other half."""


class EchoFactory(Factory):
    """Sends a line that names the client and its header, then sends back all that it receives."""

    protocol = _Echo


class RelayFactory(Factory):
    """Relays every connection.

    Args:
        endpoint: Where to connect. If it is a :class:`.ProxyProtocolClientEndpoint` without a result, its header names
            the client of the incoming connection.
    """

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _ClientSide(self._endpoint)


@implementer(IHalfCloseableProtocol)
class _Side(Protocol):
    """One side of a relayed connection: sends its data to the other side, which sets the pace."""

    transport: Any
    other: _Side | None = None
    _heard_all = _said_all = False

    def join(self, other: _Side) -> None:
        """Start to send data to the other side."""
        self.other = other
        other.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def readConnectionLost(self) -> None:
        self._heard_all = True
        if self.other is not None:
            self.other.end()
        self._close_if_over()

    def writeConnectionLost(self) -> None:
        self._said_all = True
        self._close_if_over()

    def _close_if_over(self) -> None:
        # Twisted does not close a connection when both of its halves are closed
        if self._heard_all and self._said_all:
            self.transport.loseConnection()

    def end(self) -> None:
        """Close the sending half, or the whole connection with TLS, which cannot close one half."""
        self.transport.unregisterProducer()
        if ITCPTransport.providedBy(self.transport) and not ISSLTransport.providedBy(self.transport):
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        other, self.other = self.other, None
        if other is not None:
            other.other = None
            other.transport.unregisterProducer()
            if ITCPTransport.providedBy(self.transport) and reason.check(ConnectionDone) is None:
                # A cut stream must not look complete. UNIX sockets are exempt: a peer with unread data resets them.
                abort(other.transport)
            else:
                other.transport.loseConnection()


class _ClientSide(_Side):
    """The side that connected to us."""

    _connecting: Deferred[Any] | None = None

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def connectionMade(self) -> None:
        self.transport.pauseProducing()
        endpoint = self._endpoint
        if isinstance(endpoint, ProxyProtocolClientEndpoint):
            endpoint = endpoint.speaking_for(self._client())
        self._connecting = endpoint.connect(Factory.forProtocol(_Side))
        self._connecting.addCallbacks(self._connected, self._refused)

    def _client(self) -> ProxyResult:
        result = proxy_result(self.transport)
        if result is not None:
            return result
        return name_ends(to_sockaddr(self.transport.getPeer()), to_sockaddr(self.transport.getHost()))

    def _connected(self, other: _Side) -> None:
        self._connecting = None
        self.join(other)
        other.join(self)
        self.transport.resumeProducing()

    def _refused(self, failure: Failure) -> None:
        self._connecting = None
        if failure.check(CancelledError) is None:
            client = describe_peer(self.transport)
            _log.warn("Cannot relay {client}: {reason}", client=client, reason=failure.getErrorMessage())
        abort(self.transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self._connecting is not None:
            self._connecting.cancel()
        super().connectionLost(reason)
