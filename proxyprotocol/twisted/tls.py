"""TLS after the header, in a module of its own: it needs pyOpenSSL, which applications without TLS may lack."""

from __future__ import annotations

import inspect
from typing import Any

from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IAddress
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from proxyprotocol._adapters.deadlines import Deadlines
from proxyprotocol._adapters.listener import Listener
from proxyprotocol._adapters.refusals import describe_late_handshake
from proxyprotocol.twisted.clock import Clock
from proxyprotocol.twisted.transport import proxy_peer, to_sockaddr
from proxyprotocol.twisted.typing import ProtocolFactory, TimeSource

__all__ = ["TLSFactory"]


class TLSFactory(TLSMemoryBIOFactory):
    """Adds TLS, as a server, to every connection of a factory; *timeout* limits each handshake, in seconds."""

    def __init__(
        self,
        tls: Any,
        wrapped_factory: ProtocolFactory,
        reactor: TimeSource | None,
        timeout: float,
        listener: Listener,
    ) -> None:
        # Twisted 22.4 takes no clock argument: it does not delay small writes
        taken = inspect.signature(TLSMemoryBIOFactory).parameters.keys() & {"clock"}
        super().__init__(tls, False, wrapped_factory, **dict.fromkeys(taken, reactor))  # type: ignore[arg-type]
        self.timeout: float = timeout
        self.listener: Listener = listener
        self.handshakes: Deadlines[_TLS] = Deadlines(timeout, _TLS.time_out, Clock(reactor))

    def buildProtocol(self, addr: IAddress | None) -> Any:
        protocol = self.wrappedFactory.buildProtocol(addr)
        # None rejects the connection; Twisted's method would wrap TLS around it and fail with a traceback
        return None if protocol is None else _TLS(self, protocol)

    def stopFactory(self) -> None:
        """Abort the connections that are still in their handshake."""
        for connection in self.handshakes.close():
            connection.abortConnection()


class _TLS(TLSMemoryBIOFactory.protocol):  # type: ignore[misc, valid-type]
    """TLS with a deadline for its handshake."""

    factory: TLSFactory

    def makeConnection(self, transport: Any) -> None:
        self.factory.handshakes.add(self)
        super().makeConnection(transport)

    # Twisted reports the end of a handshake only here, or to applications that implement IHandshakeListener
    def _checkHandshakeStatus(self) -> None:
        super()._checkHandshakeStatus()
        if self._handshakeDone:
            self.factory.handshakes.discard(self)

    def connectionLost(self, reason: Failure) -> None:
        self.factory.handshakes.discard(self)
        # Twisted tells only the application why a handshake failed: _reason is what its connectionLost will get
        failed = not (self._handshakeDone or self._aborted)
        error: Any = (self._reason or reason).value
        super().connectionLost(reason)
        if failed:
            if isinstance(error, ConnectionClosed):
                error = ConnectionError()  # the client went away
            elif error.args and type(error.args[0]) is list:  # OpenSSL's errors: library, function and reason of each
                error = Exception("; ".join(entry[-1] for entry in error.args[0]))
            self._refuse(error)

    def time_out(self) -> None:
        """Log and abort the connection if its handshake is still incomplete."""
        if not self._handshakeDone:
            self._refuse(TimeoutError(describe_late_handshake(self.factory.timeout)))
            self.abortConnection()

    def _refuse(self, error: BaseException) -> None:
        transport = self.transport
        self.factory.listener.refuse_handshake(error, to_sockaddr(transport.getPeer()), proxy_peer(transport))
