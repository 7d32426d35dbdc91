"""cheroot: a ``wsgi.Server``, also with TLS after the header."""

from __future__ import annotations

import sys

from app import app
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server

from proxyprotocol.integrations.cheroot import read_headers

port, *certificate = sys.argv[1:]
server = Server(("127.0.0.1", int(port)), app)
if certificate:
    server.ssl_adapter = BuiltinSSLAdapter(*certificate)
read_headers(server, trusted=["127.0.0.1"])
server.start()
