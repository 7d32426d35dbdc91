"""A FastAPI application that answers with its client's address, and with the header.

PROXYPROTOCOL_TRUSTED=10.0.0.0/8 uvicorn --loop proxyprotocol.asyncio:new_event_loop \
        --http proxyprotocol.integrations.uvicorn:auto fastapi_app:app
proxyprotocol run --trusted 10.0.0.0/8 -- fastapi run fastapi_app.py
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

app = FastAPI()


@app.get("/", response_class=PlainTextResponse)
async def who_am_i(request: Request) -> str:
    """Answer with the client's address and the header."""
    assert request.client is not None
    header = request.scope.get("extensions", {}).get("proxy_protocol")
    return f"{request.client.host} {request.client.port} {header['result'] if header else '-'}"
