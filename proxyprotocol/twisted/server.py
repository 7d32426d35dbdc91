"""The server endpoint that expects a header on every connection."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet import endpoints, interfaces
from twisted.internet.defer import Deferred, fail
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper  # Twisted offers no public name
from zope.interface import implementer

from proxyprotocol._adapters.deadlines import check_seconds
from proxyprotocol._adapters.refusals import describe_second_header
from proxyprotocol._wire import spec
from proxyprotocol.errors import ProxyProtocolError, ProxyProtocolSyntaxError, RefusalCode
from proxyprotocol.policy import HeaderPolicy
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.twisted.factory import ProxyProtocolWrapper, ProxyProtocolWrapperFactory
from proxyprotocol.twisted.tls_endpoints import split_tls_endpoint
from proxyprotocol.twisted.transport import layers, local_address, to_sockaddr
from proxyprotocol.twisted.typing import ProtocolFactory, ServerEndpoint

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxyProtocolServerEndpoint"]

# Twisted's endpoints that never do TLS
_PLAIN_ENDPOINTS = (
    endpoints.AdoptedStreamServerEndpoint,
    endpoints.StandardIOEndpoint,
    endpoints.TCP4ServerEndpoint,
    endpoints.TCP6ServerEndpoint,
    endpoints.UNIXServerEndpoint,
)


@implementer(interfaces.IStreamServerEndpoint)
class ProxyProtocolServerEndpoint:
    """Listens through another endpoint, and reads a header at the start of every connection.

    On the wire the header comes before TLS. For a Twisted ``ssl:`` endpoint, this class listens without TLS, reads the
    header, and then starts TLS with the endpoint's own context. If an endpoint of another kind has already started TLS
    on a connection, this class refuses the connection and logs an error.

    Args:
        endpoint: Where to listen.
        tls: The settings for TLS *after* the header, such as a ``twisted.internet.ssl.CertificateOptions``.
        tls_timeout: How long the TLS handshake may take, in seconds; None for no limit.
        inside_tls: True for the rare sender that puts the header inside TLS; *endpoint* then does TLS itself.
        receiver: How to receive connections; replaces the keywords of :class:`.Receiver`.
        keywords: Those of :class:`.Receiver`, such as ``trusted=["10.0.0.0/8"]``.

    Raises:
        TypeError: Both a receiver and its keywords were given, a keyword is unknown, or TLS or the header is requested
            twice.
        ValueError: A keyword is out of range.
    """

    def __init__(
        self,
        endpoint: ServerEndpoint,
        *,
        tls: Any = None,
        tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
        inside_tls: bool = False,
        receiver: Receiver | None = None,
        **keywords: Unpack[ReceiverKeywords],
    ) -> None:
        if not interfaces.IStreamServerEndpoint.providedBy(endpoint):
            raise TypeError(f"endpoint must be a server endpoint, such as serverFromString() returns, not {endpoint!r}")
        self._receiver = Receiver.of(receiver, keywords, ("inside_tls", "tls", "tls_timeout"))
        self._endpoint = endpoint
        self._tls, self._tls_timeout = tls, check_seconds("tls_timeout", tls_timeout)
        self._inside_tls = inside_tls
        if isinstance(endpoint, ProxyProtocolServerEndpoint):
            raise TypeError(describe_second_header("The endpoint"))
        if inside_tls:
            if tls is not None:
                raise TypeError("Choose one: tls= is for TLS after the header, inside_tls= for a header inside TLS")
            if type(endpoint) in _PLAIN_ENDPOINTS:
                raise TypeError(
                    "The endpoint does not do TLS: inside_tls= (ppInsideTLS=yes) needs an endpoint that does"
                )
        elif (parts := split_tls_endpoint(endpoint, tls)) is not None:
            self._endpoint, self._tls = parts

    def listen(self, factory: ProtocolFactory) -> Deferred[Any]:
        """Start to listen for the application's factory.

        Returns:
            A Deferred that fires with the port. It fails with TypeError if *factory* already reads a header.
        """
        try:
            wrapper = ProxyProtocolWrapperFactory(
                factory, tls=self._tls, tls_timeout=self._tls_timeout, receiver=self._receiver
            )
        except TypeError:  # a factory that already reads a header
            return fail()
        if type(self._endpoint) not in _PLAIN_ENDPOINTS:
            wrapper.protocol = partial(_OnlyWrapper, inside_tls=self._inside_tls)  # type: ignore[assignment]
        wrapper.startFactory = lambda: None  # type: ignore[method-assign]  # we know the port, so we log the start

        def started(port: Any) -> Any:
            address = local_address(port)
            wrapper.listener.start(*([] if address is None else [address]))
            return port

        listening: Deferred[Any] = self._endpoint.listen(wrapper).addCallback(started)
        return listening


class _OnlyWrapper(ProxyProtocolWrapper):
    """Refuses a connection on which a foreign endpoint has already read a header, or has started TLS unexpectedly."""

    def __init__(self, factory: ProxyProtocolWrapperFactory, *, inside_tls: bool) -> None:
        super().__init__(factory)
        self._inside_tls = inside_tls

    def makeConnection(self, transport: Any) -> None:
        receiver = self.factory.listener.receiver
        inside_tls = receiver.spell("inside_tls")
        if not self._inside_tls and interfaces.ISSLTransport.providedBy(transport):
            refusal = ProxyProtocolSyntaxError(
                "The header comes before TLS, but this endpoint has already started TLS. Use an endpoint without TLS, "
                f"and pass the context as tls=; or set {inside_tls} if the sender puts the header inside TLS",
                code=RefusalCode.TLS,
            )
        elif any(isinstance(layer, HAProxyProtocolWrapper) for layer in layers(transport)):
            refusal = ProxyProtocolSyntaxError(describe_second_header("This endpoint"))
        else:
            super().makeConnection(transport)
            return
        self.transport = transport
        # no policy and no codec may accept the connection: its first bytes are not those on the wire
        receiver = replace(receiver, pp=None, policy=HeaderPolicy.REQUIRE, trusted=None)
        try:
            receiver.connection(to_sockaddr(transport.getPeer()), local_address(transport)).refuse(refusal)
        except ProxyProtocolError as error:
            self.refuse(error)
