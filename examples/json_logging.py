"""A server with one JSON object a line in its log: ``python examples/json_logging.py PORT``."""

from __future__ import annotations

import asyncio
import logging.config
import sys
from asyncio import StreamReader, StreamWriter

from proxyprotocol.asyncio import start_server

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,  # otherwise the loggers of imported modules fall silent
    "formatters": {
        "json": {"()": "pythonjsonlogger.json.JsonFormatter", "format": "%(asctime)s %(levelname)s %(message)s"}
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
}


async def handle(reader: StreamReader, writer: StreamWriter) -> None:
    """Serve one client."""
    logging.info("Hello", extra={"client_address": writer.get_extra_info("peername")[0]})
    writer.close()


async def main() -> None:
    """Serve until the process is ended."""
    server = await start_server(handle, "127.0.0.1", int(sys.argv[1]), trusted=["127.0.0.1"])
    await server.serve_forever()


logging.config.dictConfig(LOGGING)
asyncio.run(main())
