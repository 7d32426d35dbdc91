"""Splits Twisted's TLS endpoints into the endpoint below TLS and TLS itself.

The header comes first on the wire, so TLS must start after it. Twisted has no public way to get at the two parts; only
this module uses the private names. A Twisted without these names must raise an error: TLS before the header would be a
different protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IProtocolFactory

__all__ = ["client_tls", "split_tls_endpoint"]

_Parts = tuple[Any, Any]


def _split_ssl_server(private: Any) -> _Parts:
    tcp = TCP4ServerEndpoint(private._reactor, private._port, private._backlog, private._interface)
    return tcp, private._sslContextFactory


def _split_ssl_client(private: Any) -> _Parts:
    where = private._reactor, private._host, private._port, private._timeout, private._bindAddress
    return TCP4ClientEndpoint(*where), client_tls(private._sslContextFactory)


# by name, because importing the classes may need pyOpenSSL
_SPLITS: dict[str, Callable[[Any], _Parts]] = {
    "twisted.internet.endpoints.SSL4ServerEndpoint": _split_ssl_server,
    "twisted.protocols._sni.TLSServerEndpoint": lambda private: (private.endpoint, private.connectionCreator),
    "twisted.internet.endpoints.SSL4ClientEndpoint": _split_ssl_client,
    # wrapClientTLS returns it
    "twisted.internet.endpoints._WrapperEndpoint": lambda private: (private._wrappedEndpoint, private._wrapperFactory),
}


def split_tls_endpoint(endpoint: object, tls: Any) -> _Parts | None:
    """Split an ``ssl:`` or ``tls:`` endpoint into an endpoint without TLS and TLS.

    Args:
        endpoint: The endpoint.
        tls: What the user passed as ``tls=``.

    Returns:
        The two parts; None for any other endpoint. TLS is a context for a server, and for a client a function that adds
        TLS to a factory, as :func:`client_tls` returns.

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


def client_tls(tls: Any) -> Callable[[IProtocolFactory], IProtocolFactory]:
    """Return a function that adds TLS, as a client, to a factory.

    Args:
        tls: The TLS settings, such as ``twisted.internet.ssl.optionsForClientTLS`` returns.
    """
    from twisted.protocols.tls import TLSMemoryBIOFactory  # needs pyOpenSSL, which applications without TLS may lack

    return lambda factory: TLSMemoryBIOFactory(tls, True, factory)
