"""Floor 5: endpoints that expect a header from whoever connects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    StandardIOEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, ISSLTransport, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper  # which has no public name
from zope.interface import implementer

from proxyprotocol._adapters.deadlines import check_seconds
from proxyprotocol._adapters.refusals import describe_second_header
from proxyprotocol._wire import spec
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import describe_address
from proxyprotocol.twisted import handover
from proxyprotocol.twisted.addresses import to_sockaddr
from proxyprotocol.twisted.factory import ProxyProtocolWrapper, ProxyProtocolWrapperFactory
from proxyprotocol.twisted.tls_endpoints import part_server

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxyProtocolServerEndpoint"]

_log = Logger(namespace="proxyprotocol.twisted")
# Twisted's own that are known to do no TLS
_PLAIN_ENDPOINTS = (
    AdoptedStreamServerEndpoint,
    StandardIOEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
)


@implementer(IStreamServerEndpoint)
class ProxyProtocolServerEndpoint:
    """Listens as another endpoint does, and reads a header at the front of every connection.

    On the wire the header comes first, also in front of TLS: a Twisted ``ssl:`` endpoint is listened on without TLS,
    which is then done behind the header with the endpoint's own context. A connection on which somebody else's endpoint
    has begun TLS already is refused, with an error in the log.

    Args:
        endpoint: Where to listen.
        tls: What TLS *behind* the header is done with, such as a ``twisted.internet.ssl.CertificateOptions``.
        tls_timeout: How long its handshake may take, in seconds; None for no limit.
        inside_tls: True for the rare sender that puts the header inside of TLS: *endpoint* is left as it is.
        receiver: How connections are received, in place of the keywords of :class:`.Receiver`.
        keywords: ``pp``, ``policy``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver` takes them.

    Raises:
        TypeError: There are a receiver and its keywords, a keyword is none, or TLS or the header is asked for twice.
        ValueError: A keyword's value is out of range.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        *,
        tls: Any = None,
        tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT,
        inside_tls: bool = False,
        receiver: Receiver | None = None,
        **keywords: Unpack[ReceiverKeywords],
    ) -> None:
        if not IStreamServerEndpoint.providedBy(endpoint):
            raise TypeError(f"The endpoint is one to listen on, such as serverFromString() gives, not {endpoint!r}")
        self._receiver = Receiver.of(receiver, keywords)
        self._endpoint = endpoint
        self._tls, self._tls_timeout = tls, check_seconds("tls_timeout", tls_timeout)
        self._inside_tls = inside_tls
        if isinstance(endpoint, ProxyProtocolServerEndpoint):
            raise TypeError(describe_second_header("The endpoint"))
        if inside_tls:
            if tls is not None:
                raise TypeError("tls= does TLS behind the header, inside_tls= is for a header that comes inside of it")
            if type(endpoint) in _PLAIN_ENDPOINTS:
                raise TypeError(
                    "inside_tls= (ppInsideTLS=yes) is for an endpoint that does TLS, and this one does none"
                )
        elif (taken := part_server(endpoint)) is not None:
            if tls is not None:
                raise TypeError("The endpoint does TLS already: tls= is for one that does not")
            self._endpoint, self._tls = taken

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Begin to listen.

        Args:
            factory: The application's factory.
        """
        try:
            wrapper = ProxyProtocolWrapperFactory(
                factory, tls=self._tls, tls_timeout=self._tls_timeout, receiver=self._receiver
            )
        except TypeError:  # a factory that already reads a header
            return fail()
        if type(self._endpoint) not in _PLAIN_ENDPOINTS:
            wrapper.protocol = _FirstInside if self._inside_tls else _FirstOutside
        listening: Deferred[IListeningPort] = self._endpoint.listen(wrapper)
        return listening


class _FirstInside(ProxyProtocolWrapper):
    """Refuses to begin behind another header, for endpoints of others, which may read one without a way to tell."""

    def makeConnection(self, transport: Any) -> None:
        refusal = self._refusal(transport)
        if refusal is None:
            super().makeConnection(transport)
        else:
            peer = describe_address(to_sockaddr(transport.getPeer()))
            _log.error("Refused a connection from {peer}: {refusal}", peer=peer, refusal=refusal)
            handover.abort(transport)

    def _refusal(self, transport: Any) -> str | None:
        if any(isinstance(layer, HAProxyProtocolWrapper) for layer in handover.layers(transport)):
            return describe_second_header("this endpoint")
        return None


class _FirstOutside(_FirstInside):
    """Refuses to begin inside of TLS as well."""

    def _refusal(self, transport: Any) -> str | None:
        if ISSLTransport.providedBy(transport):
            return (
                "the header comes before TLS, but this endpoint has begun TLS. Use an endpoint without TLS, and tls= "
                "for the context; or inside_tls= (ppInsideTLS=yes), if the sender puts the header inside of TLS"
            )
        return super()._refusal(transport)
