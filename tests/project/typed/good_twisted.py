from __future__ import annotations

from typing import Any

from twisted.internet import endpoints, reactor
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.protocol import ClientFactory, Factory, Protocol, ServerFactory
from twisted.internet.task import Clock
from twisted.names.dns import DNSDatagramProtocol
from twisted.names.server import DNSServerFactory
from twisted.web.resource import Resource
from twisted.web.server import Site

from proxyprotocol import ProxyResult, Receiver
from proxyprotocol.twisted import (
    IProxiedDatagramTransport,
    IProxiedTransport,
    ProxyProtocolClientEndpoint,
    ProxyProtocolDatagramWrapper,
    ProxyProtocolServerEndpoint,
    ProxyProtocolWrapperFactory,
    proxy_result,
)


class Hello(Protocol):
    transport: Any

    def connectionMade(self) -> None:
        result: ProxyResult | None = proxy_result(self.transport)
        print(result, IProxiedTransport(self.transport).getProxyResult().peername)
        print(IProxiedTransport(self.transport).getProxyPeer(), IProxiedTransport.providedBy(self))


class Own(Factory[Hello]):
    protocol = Hello


def own(endpoint: IStreamServerEndpoint, client: IStreamClientEndpoint) -> None:
    ProxyProtocolServerEndpoint(endpoint).listen(Own())
    ProxyProtocolClientEndpoint(client).connect(ClientFactory())


tcp = endpoints.TCP4ServerEndpoint(reactor, 8080)
endpoint = ProxyProtocolServerEndpoint(tcp, trusted=["10.0.0.0/8"], timeout=3.0, tls_timeout=5, inside_tls=False)
listening = endpoint.listen(Factory.forProtocol(Hello))
listening.addCallback(lambda port: print(port.getHost()))
ProxyProtocolServerEndpoint(endpoints.serverFromString(reactor, "tcp:80"), receiver=Receiver()).listen(Site(Resource()))
ProxyProtocolServerEndpoint(endpoints.UNIXServerEndpoint(reactor, "/run/s")).listen(DNSServerFactory())
factory: ServerFactory = ProxyProtocolWrapperFactory(Site(Resource()), clock=Clock())
ProxyProtocolWrapperFactory(ProxyProtocolWrapperFactory(Own()).wrappedFactory)
endpoint.listen(ServerFactory())
client = ProxyProtocolClientEndpoint(endpoints.HostnameEndpoint(reactor, "a.example", 1), result=lambda transport: None)
client.connect(Factory.forProtocol(Hello)).addCallback(lambda hello: hello.connectionMade())
ProxyProtocolClientEndpoint(endpoints.clientFromString(reactor, "tcp:h:1"), None, tls=None)
dns = ProxyProtocolDatagramWrapper(DNSDatagramProtocol(None), max_clients=5, timeout=1)
result = IProxiedDatagramTransport(dns.transport).getProxyResult(("192.0.2.1", 53))
print(None if result is None else result.peername)
