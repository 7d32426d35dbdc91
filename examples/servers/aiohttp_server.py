"""aiohttp: python aiohttp_server.py PORT [FILE OF KEY AND CERTIFICATE]."""

from __future__ import annotations

import ssl
import sys

from aiohttp import web

from proxyprotocol.asyncio import new_event_loop


async def who_am_i(request: web.Request) -> web.Response:
    """Answer with the client's address and the header."""
    assert request.transport is not None
    _, port, *_ = request.transport.get_extra_info("peername")
    result = request.transport.get_extra_info("proxy_protocol")
    return web.Response(text=f"{request.remote} {port} {result}")


def main(port: str, *certificate: str) -> None:
    """Serve until the end."""
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate[0])
    app = web.Application()
    app.router.add_get("/", who_am_i)
    loop = new_event_loop(trusted=["127.0.0.1"])
    web.run_app(app, host="127.0.0.1", port=int(port), ssl_context=context, loop=loop)


if __name__ == "__main__":
    main(*sys.argv[1:])
