"""The asyncio quickstart of the documentation, on a free port, which its first line names."""

from __future__ import annotations

import asyncio

from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.sock import SocketInfo

host, port = "127.0.0.1", 0


async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
    print("Family:", info.family.name)
    print("Peer:", info.peername)
    print("Source:", info.source_addr, info.source_port)
    print("Destination:", info.dest_addr, info.dest_port)
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    callback = ProxyProtocolReader(ProxyProtocolDetect()).get_callback(on_connection)
    server = await asyncio.start_server(callback, host, port)
    print("Listening:", *server.sockets[0].getsockname())
    async with server:
        await server.serve_forever()


asyncio.run(main())
