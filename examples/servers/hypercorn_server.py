"""hypercorn: python hypercorn_server.py PORT [FILE OF KEY AND CERTIFICATE]."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from fastapi_app import app  # type: ignore[import-not-found]
from hypercorn.asyncio import serve
from hypercorn.config import Config

from proxyprotocol.asyncio import new_event_loop
from proxyprotocol.integrations.hypercorn import add_extension

port, *certificate = sys.argv[1:]
config = Config()
config.bind = [f"127.0.0.1:{port}"]
if certificate:
    config.certfile = config.keyfile = certificate[0]
application: Any = app
add_extension()  # only for scope["extensions"]["proxy_protocol"]
loop = new_event_loop(trusted=["127.0.0.1"])  # or new_uvloop_event_loop
asyncio.set_event_loop(loop)
loop.run_until_complete(serve(application, config))
