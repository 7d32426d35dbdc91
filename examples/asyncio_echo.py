"""An asyncio echo server behind a proxy: ``python examples/asyncio_echo.py [PORT]``."""

from __future__ import annotations

import asyncio
import sys

from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.sock import SocketInfo


async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
    """Serve one client; *info* says who it is."""
    print(info.family.name, info.peername, info.source_addr, info.source_port, info.dest_addr, info.dest_port)
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main(host: str, port: int) -> None:
    """Serve until the process is ended."""
    callback = ProxyProtocolReader(ProxyProtocolDetect(), trusted=["127.0.0.1", "::1"]).get_callback(on_connection)
    server = await asyncio.start_server(callback, host, port)
    print("Listening on", *server.sockets[0].getsockname(), flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 10007))
