"""A server of websockets, plain and with TLS, that answers every message with its client's address."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection, serve

from ._loops import READING, run, server_context, tell_ports


async def answer(websocket: ServerConnection) -> None:
    assert websocket.transport.get_extra_info("proxy_protocol") is not None
    host, port = websocket.remote_address[:2]
    async for message in websocket:
        await websocket.send(f"{host} {port} {message!s}")


async def main(certificate: str) -> None:
    for context in (None, server_context(certificate)):
        server = await serve(answer, "127.0.0.1", 0, ssl=context)
        tell_ports(sock.getsockname() for sock in server.sockets)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main, READING)
