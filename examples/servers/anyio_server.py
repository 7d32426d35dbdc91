"""anyio, on asyncio or trio: python anyio_server.py asyncio|trio PORT [FILE OF KEY AND CERTIFICATE]."""

from __future__ import annotations

import contextlib
import ssl
import sys
from functools import partial
from typing import Any

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener

from proxyprotocol.integrations.anyio import ProxyProtocolListener


async def on_connection(stream: Any) -> None:
    """Answer every request of a connection with the client's address."""
    below = getattr(stream, "transport_stream", stream)  # below TLS
    host, port = stream.extra(SocketAttribute.remote_address), stream.extra(SocketAttribute.remote_port)
    body = f"{host[0]} {port} {below.result}".encode()
    request = b""
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        async with stream:
            while True:
                request += await stream.receive()
                if request.endswith(b"\r\n\r\n"):
                    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                    request = b""


async def main(port: str, *certificate: Any) -> None:
    """Serve until the end."""
    below = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=int(port), reuse_port=True)
    listener: Any = ProxyProtocolListener(below, trusted=["127.0.0.1"])
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate[0])
        listener = TLSListener(listener, context, standard_compatible=False)
    await listener.serve(on_connection)


if __name__ == "__main__":
    backend, *arguments = sys.argv[1:]
    anyio.run(partial(main, *arguments), backend=backend)
