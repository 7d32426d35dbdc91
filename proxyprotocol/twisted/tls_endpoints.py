"""Split Twisted's TLS endpoints into the endpoint below TLS and TLS itself.

The header comes first on the wire, so TLS must start after it. Twisted has no public way to get at the two parts; only
this module uses the private names. A Twisted without these names must raise an error: TLS before the header would be a
different protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, IStreamServerEndpoint

__all__ = ["part_client", "part_server", "tls_layer"]


def part_server(endpoint: IStreamServerEndpoint) -> tuple[IStreamServerEndpoint, Any] | None:
    """Split an ``ssl:`` or ``tls:`` endpoint into an endpoint without TLS and its TLS context.

    Args:
        endpoint: The endpoint.

    Returns:
        The two parts; None for any other endpoint.

    Raises:
        TypeError: This version of Twisted keeps the parts elsewhere.
    """
    name = _name(endpoint)
    private: Any = endpoint
    with _kept_here():
        if name == "twisted.internet.endpoints.SSL4ServerEndpoint":
            tcp = TCP4ServerEndpoint(private._reactor, private._port, private._backlog, private._interface)
            return tcp, private._sslContextFactory
        if name == "twisted.protocols._sni.TLSServerEndpoint":
            return private.endpoint, private.connectionCreator
    return None


def part_client(
    endpoint: IStreamClientEndpoint,
) -> tuple[IStreamClientEndpoint, Callable[[IProtocolFactory], IProtocolFactory]] | None:
    """Split an ``ssl:`` or ``tls:`` endpoint into an endpoint without TLS and a function that adds TLS to a factory.

    Args:
        endpoint: The endpoint.

    Returns:
        The two parts; None for any other endpoint.

    Raises:
        TypeError: This version of Twisted keeps the parts elsewhere.
    """
    name = _name(endpoint)
    private: Any = endpoint
    with _kept_here():
        if name == "twisted.internet.endpoints.SSL4ClientEndpoint":
            where = private._reactor, private._host, private._port, private._timeout, private._bindAddress
            return TCP4ClientEndpoint(*where), tls_layer(private._sslContextFactory)
        if name == "twisted.internet.endpoints._WrapperEndpoint":  # wrapClientTLS returns it
            return private._wrappedEndpoint, private._wrapperFactory
    return None


def tls_layer(tls: Any) -> Callable[[IProtocolFactory], IProtocolFactory]:
    """Return a function that adds TLS, as a client, to a factory.

    Args:
        tls: The TLS settings, such as ``twisted.internet.ssl.optionsForClientTLS`` returns.
    """
    from twisted.protocols.tls import TLSMemoryBIOFactory  # needs pyOpenSSL, which applications without TLS may lack

    return lambda factory: TLSMemoryBIOFactory(tls, True, factory)


def _name(endpoint: object) -> str:
    return f"{type(endpoint).__module__}.{type(endpoint).__qualname__}"


@contextmanager
def _kept_here() -> Iterator[None]:
    try:
        yield
    except AttributeError as error:
        raise TypeError(
            f"This version of Twisted keeps the context of an ssl: or tls: endpoint elsewhere ({error}): use a tcp: "
            "endpoint, and pass the context as tls="
        ) from error
