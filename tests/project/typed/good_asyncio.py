# pyright: strict
from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from proxyprotocol import HeaderPolicy, ProxyProtocolV2, ProxyResult, Receiver, TrustedProxies
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
from proxyprotocol.sock import SocketInfo
from proxyprotocol.sync import create_connection as connect
from proxyprotocol.sync import read_header, send_header

context = ssl.create_default_context()
receiver = Receiver(trusted=["10.0.0.0/8"], validate=lambda result, peer: result.peername != peer)


class Echo(asyncio.Protocol):
    seen = b""


class Packets(asyncio.DatagramProtocol):
    count = 0


def accepted(result: ProxyResult | None, peer: object) -> None:
    print(result, peer)


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    print(writer.get_extra_info("proxy_protocol"), await reader.read())


def handle_info(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
    print(info.peername, info.peername_ip, info.source_port)


async def main(sock: socket.socket) -> None:
    server = await start_server(handle, "::", 8080, trusted=["10.0.0.0/8"], timeout=2, limit=9, ssl=context, backlog=9)
    async with server:
        await server.serve_forever()
    await create_server(Echo, ["127.0.0.1", "::1"], 1, family=socket.AF_INET, reuse_port=True, start_serving=False)
    await create_server(Echo, sock=sock, receiver=receiver, tls_timeout=3, keep_alive=True, reuse_address=None)
    await create_unix_server(Echo, "/run/app.sock", policy=TrustedProxies(["unix"]), backlog=5, on_accepted=accepted)
    await start_unix_server(lambda reader, writer: None, policy=HeaderPolicy.OPTIONAL, sock=sock, limit=100)
    transport, echo = await create_connection(Echo, "a.example", 443, ssl=True, pp=ProxyProtocolV2(), local_addr=None)
    transport.write(echo.seen)
    reader, writer = await open_connection("a.example", 443, ssl=context, server_hostname="b", limit=5, family=2)
    writer.write(await reader.read())
    packets, application = await create_datagram_endpoint(Packets, ("::", 53), trusted="any", reuse_port=True)
    packets.sendto(b"", ("::1", application.count))
    factory: Callable[[], asyncio.BaseProtocol] = wrap_protocol_factory(Echo, ssl=context, max_header=1024)
    await asyncio.get_running_loop().create_server(factory, port=1)
    await asyncio.start_server(ProxyProtocolReader(timeout=2).get_callback(handle_info, timeout=None), port=2)


with connect(("a.example", 80), 5, result=None, pp=ProxyProtocolV2()) as opened:
    send_header(opened)
    header = read_header(opened, trusted=["10.0.0.0/8"], timeout=None)
    if header is not None:
        print(header.peername, header.tlv.authority, header.tlv.ssl.cn)
loop: asyncio.AbstractEventLoop = new_event_loop()
new_event_loop(trusted=["10.0.0.0/8"], ports=[8080, "unix"], tls_timeout=3)
