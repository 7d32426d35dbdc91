"""The ASGI application on hypercorn, with TLS and, second, without."""

from __future__ import annotations

from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from ._loops import READING, run
from .asgi_app import application


async def main(certificate: str) -> None:
    config = Config()
    config.certfile = config.keyfile = certificate
    config.bind, config.insecure_bind = ["127.0.0.1:0"], ["127.0.0.1:0"]
    asgi: Any = application
    await serve(asgi, config)


if __name__ == "__main__":
    run(main, READING)
