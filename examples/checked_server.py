"""A server that checks each header, and counts connections: ``python examples/checked_server.py [PORT]``."""

from __future__ import annotations

import asyncio
import sys

from proxyprotocol import ProxyProtocolError, ProxyResult, Receiver
from proxyprotocol.asyncio import start_server
from proxyprotocol.metrics import serve_metrics
from proxyprotocol.typing import SockAddr

OURS = {"vpce-08d2bf15fac5001c9"}


def validate(result: ProxyResult, peer: SockAddr) -> bool:
    """Return whether the connection came through one of our VPC endpoints."""
    return result.tlv.aws_vpce_id in OURS


def on_refused(error: ProxyProtocolError, peer: SockAddr) -> None:
    """Print why; the log has a line too."""
    print("refused", error.code.value, flush=True)


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client."""
    print("client", *writer.get_extra_info("peername"), flush=True)
    writer.close()


async def main(port: int) -> None:
    """Serve until the process is ended, with the metrics on the next port."""
    metrics = serve_metrics(str(port + 1))
    receiver = Receiver(trusted=["127.0.0.1"], validate=validate, on_refused=on_refused, metrics=metrics)
    server = await start_server(handle, "127.0.0.1", port, receiver=receiver)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10007))
