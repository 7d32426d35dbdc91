"""An aiohttp application, plain and with TLS: who the client is, files, and a WebSocket."""

from __future__ import annotations

import asyncio

from aiohttp import web

from proxyprotocol.integrations.aiohttp import ProxySite

from ._loops import PLAIN, run, server_context, tell_ports


async def who_am_i(request: web.Request) -> web.Response:
    assert request.transport is not None
    port = request.transport.get_extra_info("peername")[1]
    return web.Response(text=f"{request.remote} {port} {request.scheme}")


async def authority(request: web.Request) -> web.Response:
    assert request.transport is not None
    return web.Response(text=request.transport.get_extra_info("proxy_protocol").tlv.authority)


async def websocket(request: web.Request) -> web.WebSocketResponse:
    assert request.transport is not None
    port = request.transport.get_extra_info("peername")[1]
    response = web.WebSocketResponse()
    await response.prepare(request)
    async for message in response:
        await response.send_str(f"{request.remote} {port} {message.data}")
    return response


async def main(certificate: str) -> None:
    app = web.Application()
    app.router.add_get("/", websocket)
    app.router.add_get("/whoami", who_am_i)
    app.router.add_get("/authority", authority)
    app.router.add_static("/files", ".")
    runner = web.AppRunner(app)
    await runner.setup()
    await ProxySite(runner, "127.0.0.1", 0).start()
    await ProxySite(runner, "127.0.0.1", 0, ssl_context=server_context(certificate)).start()
    tell_ports(runner.addresses)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main, PLAIN)
