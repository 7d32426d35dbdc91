"""A sanic application, plain and with TLS: who the client is, and a WebSocket."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from sanic import Request, Sanic, Websocket
from sanic.response import HTTPResponse, text

from ._loops import READING, run, server_context, tell_ports


async def who_am_i(request: Request) -> HTTPResponse:
    return text(f"{request.ip} {request.port} {request.scheme}")


async def authority(request: Request) -> HTTPResponse:
    assert request.transport is not None
    return text(request.transport.get_extra_info("proxy_protocol").tlv.authority)


async def websocket(request: Request, websocket: Websocket) -> None:
    while (message := await websocket.recv()) is not None:
        await websocket.send(f"{request.ip} {request.port} {message!s}")


async def main(certificate: str) -> None:
    app: Any = Sanic("site")
    app.add_route(who_am_i, "/whoami")
    app.add_route(authority, "/authority")
    app.add_websocket_route(websocket, "/")
    for context in (None, server_context(certificate)):
        sock = socket.create_server(("127.0.0.1", 0))  # a port of 0 would be 8000
        server = await app.create_server(sock=sock, ssl=context, return_asyncio_server=True)
        if context is None:  # the application starts once
            await server.startup()
        await server.start_serving()
        tell_ports([sock.getsockname()])
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main, READING)
