"""Werkzeug: ``make_server()`` makes the server, and :func:`read_headers` lets it read headers."""

from __future__ import annotations

import sys

from app import app
from werkzeug.serving import make_server

from proxyprotocol.integrations.socketserver import read_headers

server = make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True)
read_headers(server, trusted=["127.0.0.1"])
server.serve_forever()
