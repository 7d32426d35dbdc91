"""gevent: a ``pywsgi.WSGIServer``, also with TLS after the header; a ``StreamServer`` works the same way."""

from __future__ import annotations

import ssl
import sys
from typing import Any

from app import app
from gevent.pywsgi import WSGIServer
from gevent.ssl import SSLContext

from proxyprotocol.integrations.gevent import read_headers

port, *certificate = sys.argv[1:]
tls: dict[str, Any] = {}
if certificate:
    tls["ssl_context"] = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls["ssl_context"].load_cert_chain(*certificate)

server = WSGIServer(("127.0.0.1", int(port)), app, **tls)
read_headers(server, trusted=["127.0.0.1"])
server.serve_forever()
