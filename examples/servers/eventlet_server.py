"""eventlet: ``wsgi.server()``, also with TLS after the header."""

from __future__ import annotations

import sys

import eventlet
from app import app
from eventlet import wsgi

from proxyprotocol.integrations.eventlet import read_headers

port, *certificate = sys.argv[1:]
sock = eventlet.listen(("127.0.0.1", int(port)))
if certificate:
    sock = eventlet.wrap_ssl(sock, server_side=True, certfile=certificate[0], keyfile=certificate[0])
wsgi.server(sock, app, protocol=read_headers(sock, trusted=["127.0.0.1"]))
