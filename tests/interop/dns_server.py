"""A DNS server of twisted.names, over UDP and TCP, that answers every question with the client's address.

The answer is a TXT record: the client's host and port, the address that it asked, the kind of socket and the value of
TLV 0xE5. Names that begin with ``later`` are answered a moment later. Its first line of output is its port.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.names.dns import IN, TXT, DNSDatagramProtocol, Message, Record_TXT, RRHeader
from twisted.names.server import DNSServerFactory

from proxyprotocol import HeaderPolicy, ProxyResult, TrustedProxies
from proxyprotocol.twisted import ProxyProtocolDatagramWrapper, ProxyProtocolWrapperFactory, proxy_result

reactor: Any = global_reactor
LATER = 0.05  # seconds


def describe(host: str, port: int, result: ProxyResult | None) -> list[bytes]:
    if result is None or result.protocol is None or not isinstance(result.sockname, tuple):
        return [host.encode(), b"%d" % port]
    asked, asked_port = result.sockname[:2]
    said = (host, port, asked, asked_port, result.protocol.name)
    return [str(word).encode() for word in said] + [result.tlv.get(0xE5, b"none")]


class WhoAmI(DNSServerFactory):
    """Answers at once, or later, with the client's address."""

    noisy = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def handleQuery(self, message: Message, protocol: Any, address: tuple[str, int] | None) -> Any:
        if address is None:
            peer = protocol.transport.getPeer()
            said = describe(peer.host, peer.port, proxy_result(protocol.transport))
        else:
            said = describe(*address, protocol.transport.getProxyResult(address))
        name = message.queries[0].name.name
        answers = [RRHeader(name, TXT, IN, 0, Record_TXT(*said))]
        answer: Any = self.gotResolverResponse
        call = partial(answer, (answers, [], []), protocol, message, address)
        return deferLater(reactor, LATER, call) if name.startswith(b"later") else call()


def listen(factory: WhoAmI, policy: TrustedProxies) -> int:
    """Listen on one free port for both."""
    tcp = reactor.listenTCP(0, ProxyProtocolWrapperFactory(factory, policy=policy), interface="127.0.0.1")
    port: int = tcp.getHost().port
    try:
        reactor.listenUDP(
            port, ProxyProtocolDatagramWrapper(DNSDatagramProtocol(factory), policy=policy), interface="127.0.0.1"
        )
    except CannotListenError:
        tcp.stopListening()
        return listen(factory, policy)
    return port


def main(network: str) -> None:
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    policy = TrustedProxies([network], trusted=HeaderPolicy.REQUIRE)
    factory = WhoAmI()
    reactor.callWhenRunning(lambda: print(listen(factory, policy), flush=True))
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
