"""Floor 5: TLS behind the header. Apart, because it needs pyOpenSSL, which applications without TLS may lack."""

from __future__ import annotations

import inspect
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from proxyprotocol._adapters.deadlines import Deadlines
from proxyprotocol._adapters.refusals import describe_late_handshake, describe_no_handshake
from proxyprotocol.twisted.addresses import to_sockaddr
from proxyprotocol.twisted.clock import Clock

__all__ = ["TLSFactory"]

_log = Logger(namespace="proxyprotocol.twisted")


class TLSFactory(TLSMemoryBIOFactory):
    """Puts TLS on every connection of a factory, as a server.

    Args:
        tls: What TLS is done with, such as a ``twisted.internet.ssl.CertificateOptions``.
        wrapped_factory: The application's factory.
        reactor: What tells and waits for the time; the reactor unless given.
        timeout: How long a handshake may take, in seconds.
        clock: What tells that time.
    """

    def __init__(
        self, tls: Any, wrapped_factory: IProtocolFactory, reactor: IReactorTime | None, timeout: float, clock: Clock
    ) -> None:
        # Twisted 22.4 wants no clock: it has no small writes to wait for
        taken = inspect.signature(TLSMemoryBIOFactory).parameters.keys() & {"clock"}
        super().__init__(tls, False, wrapped_factory, **dict.fromkeys(taken, reactor))
        self.timeout = timeout
        self.handshakes: Deadlines[_TLS] = Deadlines(timeout, _TLS.time_out, clock)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Give the protocol that does TLS, or None where the application's factory takes no connection.

        Args:
            addr: The client's address.
        """
        protocol = self.wrappedFactory.buildProtocol(addr)
        # Twisted's own would put TLS around None, and fail with a traceback
        return None if protocol is None else _TLS(self, protocol)

    def stopFactory(self) -> None:
        """Abort the connections that are still in their handshake: nobody listens any more."""
        for connection in self.handshakes.close():
            connection.abortConnection()


class _TLS(TLSMemoryBIOFactory.protocol):  # type: ignore[misc, valid-type]
    """TLS whose handshake has a deadline."""

    factory: TLSFactory

    def makeConnection(self, transport: Any) -> None:
        self.factory.handshakes.add(self)
        super().makeConnection(transport)

    # the only place where Twisted tells of the end of a handshake, but for applications that ask for it
    def _checkHandshakeStatus(self) -> None:
        super()._checkHandshakeStatus()
        if self._handshakeDone:
            self.factory.handshakes.discard(self)

    def connectionLost(self, reason: Failure) -> None:
        self.factory.handshakes.discard(self)
        super().connectionLost(reason)

    def time_out(self) -> None:
        """Take the end of the time that the handshake had."""
        if not self._handshakeDone:
            client, peer = map(to_sockaddr, (self.transport.getPeer(), type(self.transport).getPeer(self.transport)))
            reason = describe_late_handshake(self.factory.timeout)
            _log.warn("{refusal}", refusal=describe_no_handshake(reason, client, peer))
            self.abortConnection()
