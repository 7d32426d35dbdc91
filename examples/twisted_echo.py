"""A Twisted echo server behind a proxy: ``python examples/twisted_echo.py [PORT]``."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react
from twisted.python.log import startLogging

from proxyprotocol.twisted import ProxyProtocolServerEndpoint, proxy_result


class Echo(Protocol):
    """An application that knows nothing about proxies."""

    transport: Any

    def connectionMade(self) -> None:
        """Print who the client is."""
        print(self.transport.getPeer(), "came to", self.transport.getHost(), "by", proxy_result(self.transport))

    def dataReceived(self, data: bytes) -> None:
        """Echo."""
        self.transport.write(data)


def main(reactor: Any, port: str = "10007") -> Deferred[None]:
    """Serve until the process is ended. Only a proxy on this machine may say who the client is."""
    startLogging(sys.stdout, setStdout=False)  # says which connections are refused, and why
    plain = TCP4ServerEndpoint(reactor, int(port), interface="127.0.0.1")
    endpoint = ProxyProtocolServerEndpoint(plain, trusted=["127.0.0.1"])
    listening = endpoint.listen(Factory.forProtocol(Echo))
    listening.addCallback(lambda listener: print("Listening on", listener.getHost(), flush=True))
    return listening.addCallback(lambda _: Deferred())  # which never fires


if __name__ == "__main__":
    react(main, sys.argv[1:])
