"""trio: python trio_server.py PORT [FILE OF KEY AND CERTIFICATE]."""

from __future__ import annotations

import contextlib
import ssl
import sys
from functools import partial
from typing import Any

import trio

from proxyprotocol.integrations.trio import ProxyProtocolListener


async def on_connection(stream: Any) -> None:
    """Answer every request of a connection with the client's address."""
    below = getattr(stream, "transport_stream", stream)  # below TLS
    host, port, *_ = below.socket.getpeername()
    body = f"{host} {port} {below.result}".encode()
    request = b""
    with contextlib.suppress(trio.BrokenResourceError):  # lost, or its TLS handshake has failed
        async with stream:
            while data := await stream.receive_some():
                request += data
                if request.endswith(b"\r\n\r\n"):
                    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                    request = b""


async def main(port: str, *certificate: str) -> None:
    """Serve until the end."""
    listeners: Any = await trio.open_tcp_listeners(int(port), host="127.0.0.1")
    proxied: Any = [ProxyProtocolListener(listener, trusted=["127.0.0.1"]) for listener in listeners]
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate[0])
        proxied = [trio.SSLListener(listener, context, https_compatible=True) for listener in proxied]
    await trio.serve_listeners(on_connection, proxied)


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))
