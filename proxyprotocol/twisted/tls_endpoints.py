"""Splits Twisted's TLS endpoints into the endpoint below TLS and TLS itself.

The header comes first on the wire, so TLS must start after it. Twisted has no public way to get at the two parts; only
this module uses the private names. A Twisted without these names must raise an error: TLS before the header would be a
different protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint

from proxyprotocol.twisted.typing import ProtocolFactory

__all__ = ["client_tls", "split_tls_endpoint"]


# by name, because importing the classes may need pyOpenSSL; wrapClientTLS returns a _WrapperEndpoint
_SPLITS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "twisted.internet.endpoints.SSL4ServerEndpoint": lambda private: (
        TCP4ServerEndpoint(private._reactor, private._port, private._backlog, private._interface),
        private._sslContextFactory,
    ),
    "twisted.protocols._sni.TLSServerEndpoint": lambda private: (private.endpoint, private.connectionCreator),
    "twisted.internet.endpoints.SSL4ClientEndpoint": lambda private: (
        TCP4ClientEndpoint(private._reactor, private._host, private._port, private._timeout, private._bindAddress),
        client_tls(private._sslContextFactory),
    ),
    "twisted.internet.endpoints._WrapperEndpoint": lambda private: (private._wrappedEndpoint, private._wrapperFactory),
}


def split_tls_endpoint(endpoint: object, tls: Any) -> tuple[Any, Any] | None:
    """Split an ``ssl:`` or ``tls:`` endpoint into an endpoint without TLS and TLS.

    Return None for any other endpoint. TLS is a context for a server, and for a client a function that adds TLS to a
    factory, as :func:`client_tls` returns.

    Raises:
        TypeError: This version of Twisted keeps the parts elsewhere, or *tls* requests TLS a second time.
    """
    split = _SPLITS.get(f"{type(endpoint).__module__}.{type(endpoint).__qualname__}")
    if split is None:
        return None
    try:
        parts = split(endpoint)
    except AttributeError as error:
        raise TypeError(
            f"This version of Twisted keeps the context of an ssl: or tls: endpoint elsewhere ({error}): use a tcp: "
            "endpoint, and pass the context as tls="
        ) from error
    if tls is not None:
        raise TypeError("The endpoint already does TLS: leave out tls=")
    return parts


def client_tls(tls: Any) -> Callable[[ProtocolFactory], ProtocolFactory]:
    """Return a function that adds TLS, as a client and with the settings *tls*, to a factory."""
    from twisted.protocols.tls import TLSMemoryBIOFactory  # needs pyOpenSSL, which applications without TLS may lack

    return lambda factory: TLSMemoryBIOFactory(tls, True, factory)  # type: ignore[arg-type]
