"""A Twisted application that listens in every way. Each connection gets a line with its addresses, then its own bytes.

Its only line for a proxy is the call of switch_on().
"""

from __future__ import annotations

import os
import socket
from typing import Any

from proxyprotocol.integrations.twisted import switch_on

switch_on()

from twisted.application import internet, service, strports
from twisted.internet import endpoints, protocol, reactor, ssl

from proxyprotocol.twisted import ProxyProtocolWrapperFactory

CERTIFICATE = os.environ["CERTIFICATE"]


class Hello(protocol.Protocol):
    transport: Any = None

    def connectionMade(self) -> None:
        peer, host = self.transport.getPeer(), self.transport.getHost()
        self.transport.write(f"{peer.host} {peer.port} {host.host} {host.port}\n".encode())

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Named(internet.TCPServer):
    """Tells its port, which Twisted's class keeps for itself."""

    def _getPort(self) -> Any:
        port = super()._getPort()
        tell("TCPServer", port)
        return port


def tell(name: str, port: Any) -> None:
    print(f"{name} is on {port.getHost().port}", flush=True)


def hello() -> protocol.Factory:
    return protocol.Factory.forProtocol(Hello)


def context() -> ssl.DefaultOpenSSLContextFactory:
    return ssl.DefaultOpenSSLContextFactory(CERTIFICATE, CERTIFICATE)


here = {"interface": "127.0.0.1"}
anywhere: Any = reactor
tell("listenTCP", anywhere.listenTCP(0, hello(), **here))
tell("listenSSL", anywhere.listenSSL(0, hello(), context(), **here))
tell("strports.listen", strports.listen("tcp:0:interface=127.0.0.1", hello()))
tell("our factory", anywhere.listenTCP(0, ProxyProtocolWrapperFactory(hello(), trusted=["127.0.0.1"]), **here))
tell("listenSSL, by keywords", anywhere.listenSSL(port=0, factory=hello(), contextFactory=context(), **here))
with socket.create_server(("127.0.0.1", 0)) as listening:
    listening.setblocking(False)
    tell("adoptStreamPort", anywhere.adoptStreamPort(listening.fileno(), socket.AF_INET, hello()))
anywhere.listenUNIX("app.sock", hello())
for name, description in {
    "an endpoint": "tcp:0:interface=127.0.0.1",
    "an ssl: endpoint": f"ssl:0:interface=127.0.0.1:privateKey={CERTIFICATE}:certKey={CERTIFICATE}",
    "our endpoint": "proxyprotocol:tcp:0:interface=127.0.0.1:ppTrusted=127.0.0.1",
    "our ssl: endpoint": "proxyprotocol:ssl:0:interface=127.0.0.1:ppTrusted=127.0.0.1:"
    f"privateKey={CERTIFICATE}:certKey={CERTIFICATE}",
}.items():
    endpoint = endpoints.serverFromString(reactor, description)
    endpoint.listen(hello()).addCallback(lambda port, name=name: tell(name, port))

application = service.Application("direct")
Named(0, hello(), **here).setServiceParent(application)
