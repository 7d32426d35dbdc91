"""An ASGI application that answers with a TLV of the header, if the server passes one on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]


async def application(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] not in ("http", "websocket"):
        raise NotImplementedError
    told = scope.get("extensions", {}).get("proxy_protocol")
    answer = "not told" if told is None else f"told {told['result'].tlv.authority}"
    if scope["type"] == "http":
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.encode()})
        return
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "text": answer})
