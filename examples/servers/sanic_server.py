"""sanic: python sanic_server.py PORT [FILE OF KEY AND CERTIFICATE]."""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

from sanic import Request, Sanic
from sanic.response import HTTPResponse, text

from proxyprotocol.asyncio import new_event_loop

app: Any = Sanic("site")


@app.get("/")  # type: ignore[untyped-decorator]
async def who_am_i(request: Request) -> HTTPResponse:
    """Answer with the client's address and the header."""
    assert request.transport is not None
    result = request.transport.get_extra_info("proxy_protocol")
    return text(f"{request.ip} {request.port} {result}")


async def main(port: str, *certificate: str) -> None:
    """Serve until the end."""
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate[0])
    server = await app.create_server(host="127.0.0.1", port=int(port), ssl=context, return_asyncio_server=True)
    await server.startup()
    await server.serve_forever()


if __name__ == "__main__":
    loop = new_event_loop(trusted=["127.0.0.1"])
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main(*sys.argv[1:]))
