"""Floor 5: TLS behind the header. Apart, because it needs pyOpenSSL, which applications without TLS may lack."""

from __future__ import annotations

import inspect
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime
from twisted.protocols.tls import TLSMemoryBIOFactory

__all__: list[str] = []


class TLSFactory(TLSMemoryBIOFactory):
    """Puts TLS on every connection of a factory, as a server.

    Args:
        tls: What TLS is done with, such as a ``twisted.internet.ssl.CertificateOptions``.
        wrapped_factory: The application's factory.
        clock: What tells and waits for the time; the reactor unless given.
    """

    def __init__(self, tls: Any, wrapped_factory: IProtocolFactory, clock: IReactorTime | None) -> None:
        # Twisted 22.4 wants no clock: it has no small writes to wait for
        taken = inspect.signature(TLSMemoryBIOFactory).parameters.keys() & {"clock"}
        super().__init__(tls, False, wrapped_factory, **dict.fromkeys(taken, clock))

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Give the protocol that does TLS, or None where the application's factory takes no connection.

        Args:
            addr: The client's address.
        """
        protocol = self.wrappedFactory.buildProtocol(addr)
        # Twisted's own would put TLS around None, and fail with a traceback
        return None if protocol is None else self.protocol(self, protocol)
