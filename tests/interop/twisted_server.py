"""An echo server on a real reactor, which reports what it sees: ``twisted_server.py <endpoint description>``.

It listens on a description that begins with ``proxyprotocol:``, and wraps any other in a
``ProxyProtocolServerEndpoint``. Each line of standard output is a JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorCore, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from proxyprotocol.result import ProxyResult
from proxyprotocol.twisted import ProxyProtocolServerEndpoint, proxy_result


def report(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def describe_address(address: IAddress | None) -> list[object]:
    if isinstance(address, UNIXAddress):
        return ["unix", 0]
    return [getattr(address, "host", None), getattr(address, "port", None)]


def describe_result(result: ProxyResult | None) -> dict[str, object]:
    if result is None:
        return {}
    tlv, ssl = result.tlv, result.tlv.ssl
    return {
        "type": result.type.name,
        "types": list(tlv),
        "crc32c": tlv.crc32c,
        "authority": tlv.authority,
        "unique_id": tlv.unique_id.decode(),
        "has_ssl": ssl.has_ssl,
        "has_cert": ssl.has_cert_conn,
        "client_verified": ssl.client_verified,
        "version": ssl.version,
        "cn": ssl.cn,
        "cipher": ssl.cipher,
        "sig_alg": ssl.sig_alg,
        "key_alg": ssl.key_alg,
    }


class Echo(Protocol):
    def connectionMade(self) -> None:
        transport = cast(ITransport, self.transport)
        report(
            "made",
            peer=describe_address(transport.getPeer()),
            attributes=self.client(),
            host=describe_address(transport.getHost()),
            result=describe_result(proxy_result(transport)),
        )

    def client(self) -> list[object]:
        """Return the client's address from the attributes that Evennia and others read."""
        transport: Any = self.transport
        host, port = transport.client[:2]
        assert transport.hostname == host
        return ["unix", 0] if port is None else [host, port]

    def dataReceived(self, data: bytes) -> None:
        cast(ITransport, self.transport).write(data)


class EchoFactory(Factory):
    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        report("built", peer=describe_address(addr))
        return Echo()


def fail(failure: Failure) -> None:
    failure.printTraceback()
    cast(IReactorCore, reactor).stop()


def listening(port: IListeningPort) -> None:
    report("listening", host=describe_address(port.getHost()))


def main(description: str) -> None:
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    endpoint = serverFromString(reactor, description)
    if not description.startswith("proxyprotocol:"):
        endpoint = ProxyProtocolServerEndpoint(endpoint)
    endpoint.listen(EchoFactory()).addCallback(listening).addErrback(fail)
    cast(IReactorCore, reactor).run()


if __name__ == "__main__":
    main(sys.argv[1])
