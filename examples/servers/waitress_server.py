"""waitress: ``create_server()`` makes the server, and :func:`read_headers` lets it read headers."""

from __future__ import annotations

import sys

from app import app
from waitress import create_server

from proxyprotocol.integrations.waitress import read_headers

server = create_server(app, listen=f"127.0.0.1:{sys.argv[1]}")
read_headers(server, trusted=["127.0.0.1"])
server.run()
