"""Floor 5: Twisted's endpoints that do TLS, parted into what is below TLS and TLS itself.

The header comes first on the wire, so TLS has to be begun behind it. Twisted has no public way to ask for the parts:
its private names are named here, once. A Twisted without them must be an error: the other way round, TLS first, would
be another protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, IStreamServerEndpoint

__all__ = ["part_client", "part_server", "tls_layer"]


def part_server(endpoint: IStreamServerEndpoint) -> tuple[IStreamServerEndpoint, Any] | None:
    """Part an ``ssl:`` or ``tls:`` endpoint into one without TLS and its context; None for any other endpoint.

    Args:
        endpoint: The endpoint.

    Raises:
        TypeError: This Twisted keeps them elsewhere.
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
    """Part an ``ssl:`` or ``tls:`` endpoint into one without TLS and what does TLS around a factory's protocols.

    Args:
        endpoint: The endpoint.

    Returns:
        The two; None for any other endpoint.

    Raises:
        TypeError: This Twisted keeps them elsewhere.
    """
    name = _name(endpoint)
    private: Any = endpoint
    with _kept_here():
        if name == "twisted.internet.endpoints.SSL4ClientEndpoint":
            where = private._reactor, private._host, private._port, private._timeout, private._bindAddress
            return TCP4ClientEndpoint(*where), tls_layer(private._sslContextFactory)
        if name == "twisted.internet.endpoints._WrapperEndpoint":  # which wrapClientTLS gives
            return private._wrappedEndpoint, private._wrapperFactory
    return None


def tls_layer(tls: Any) -> Callable[[IProtocolFactory], IProtocolFactory]:
    """Give what does TLS, as a client, around a factory's protocols.

    Args:
        tls: What it is done with, such as what ``twisted.internet.ssl.optionsForClientTLS`` gives.
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
            "endpoint, and tls= for the context"
        ) from error
