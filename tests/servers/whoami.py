"""The applications of these tests. Each answers with ``HOST PORT HEADER``: what it knows of its client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """A WSGI application; any path."""
    result = environ.get("proxy_protocol", "-")
    body = f"{environ.get('REMOTE_ADDR')} {environ.get('REMOTE_PORT', '?')} {result}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application; any path."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    host, port = (scope.get("client") or ("-", "?"))[:2]
    result = (scope.get("extensions") or {}).get("proxy_protocol", {}).get("result", "-")
    body = f"{host} {port} {result}".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def aiohttp() -> Any:
    """Make an aiohttp application; any path."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        host, port = request.transport.get_extra_info("peername")[:2]
        result = request.transport.get_extra_info("proxy_protocol", "-")
        assert host == request.remote
        return web.Response(text=f"{host} {port} {'-' if result is None else result}")

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    return application
