from __future__ import annotations

import asyncio
from typing import Any

from twisted.internet import endpoints, reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.web.server import Site

from proxyprotocol import ProxyProtocolV2, Receiver, TrustedProxies
from proxyprotocol.asyncio import (
    create_connection,
    create_datagram_endpoint,
    create_server,
    create_unix_server,
    new_event_loop,
    open_connection,
    start_server,
    start_unix_server,
    wrap_protocol_factory,
)
from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.sync import create_connection as connect
from proxyprotocol.sync import read_header
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.twisted import (
    IProxiedTransport,
    ProxyProtocolClientEndpoint,
    ProxyProtocolDatagramWrapper,
    ProxyProtocolServerEndpoint,
    ProxyProtocolWrapperFactory,
)


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...


def one(reader: asyncio.StreamReader) -> None: ...


async def main(sock: Any, transport: Any) -> None:
    await create_server(asyncio.Protocol, "::", 1, tiemout=2)  # wrong
    await create_server(asyncio.Protocol, "::", 1, timeout="2")  # wrong
    await create_server(asyncio.Protocol(), "::", 1)  # wrong
    await create_server(asyncio.Protocol, "::", 1, trusted=5)  # wrong
    await create_server(asyncio.Protocol, "::", 1, ssl=True)  # wrong
    await create_server(asyncio.Protocol, 8080)  # wrong
    await start_server(handle, "::", 1, backlog="many")  # wrong
    await start_server(handle, "::", 1, reuseport=True)  # wrong
    await start_server(one, "::", 1)  # wrong
    await create_unix_server(asyncio.Protocol, "/run/s", family=2)  # wrong
    await start_unix_server(handle, "/run/s", policy=["10.0.0.0/8"])  # wrong
    await create_connection(asyncio.Protocol, "h", 1, trusted="any")  # wrong
    await open_connection("h", 1, result="203.0.113.7")  # wrong
    await create_datagram_endpoint(asyncio.DatagramProtocol, ("::", 1), backlog=1)  # wrong
    await create_datagram_endpoint(asyncio.DatagramProtocol, 53)  # wrong
    wrap_protocol_factory(asyncio.Protocol, host="::")  # wrong
    await asyncio.start_server(ProxyProtocolReader().get_callback(handle), "::", 1)  # wrong
    ProxyProtocolReader(tiemout=1)  # wrong
    read_header(sock, max_headers=1)  # wrong
    connect(("h", 1), source_addr=("::", 0))  # wrong
    print(IProxiedTransport(transport).getProxyResult().peer)  # wrong


Receiver(validate=lambda result: True)  # wrong
TrustedProxies(["10.0.0.0/8"], trusted="require")  # wrong
new_event_loop(trused=["10.0.0.0/8"])  # wrong
new_event_loop(ports=8080)  # wrong
ProxyProtocolTLV(autority="a.example")  # wrong
plain = endpoints.TCP4ServerEndpoint(reactor, 8080)
ProxyProtocolServerEndpoint(plain, trused=["10.0.0.0/8"])  # wrong
ProxyProtocolServerEndpoint(plain, timeout="3")  # wrong
ProxyProtocolServerEndpoint(endpoints.TCP4ClientEndpoint(reactor, "h", 1))  # wrong
ProxyProtocolServerEndpoint(plain).listen(Protocol)  # wrong
ProxyProtocolServerEndpoint(plain).listen(Site)  # wrong
ProxyProtocolClientEndpoint(plain)  # wrong
ProxyProtocolClientEndpoint(endpoints.TCP4ClientEndpoint(reactor, "h", 1), pp="v2")  # wrong
ProxyProtocolWrapperFactory(Protocol())  # wrong
ProxyProtocolWrapperFactory(Factory.forProtocol(Protocol), tiemout=1)  # wrong
ProxyProtocolDatagramWrapper(Protocol())  # wrong
ProxyProtocolDatagramWrapper(Site, max_clients="5")  # wrong
ProxyProtocolV2(checksums=False)  # wrong
