"""Servers of the standard library: ``blocking.py <http|wsgi|xmlrpc> [file of key and certificate]``.

Each is started as its documentation says, and prints its port. What is ours is the mix-in, and TLS if it is asked for.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from xmlrpc.server import SimpleXMLRPCServer

from proxyprotocol.sync import ProxyProtocolMixIn


class Listening(ProxyProtocolMixIn):
    def server_activate(self) -> None:
        super().server_activate()
        assert isinstance(self.server_address, tuple)
        print(self.server_address[1], flush=True)


class WhoAmI(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = "{} {}".format(*self.client_address).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class HTTP(Listening, ThreadingHTTPServer):
    pass


def wsgi_application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [environ["REMOTE_ADDR"].encode()]


class WSGI(Listening, ThreadingMixIn, WSGIServer):
    pass


class XMLRPC(Listening, ThreadingMixIn, SimpleXMLRPCServer):
    pass


def upper(text: Any) -> Any:
    return text.upper()


def serve_http() -> None:
    HTTP(("127.0.0.1", 0), WhoAmI).serve_forever()


def serve_wsgi() -> None:
    server = WSGI(("127.0.0.1", 0), WSGIRequestHandler)
    server.set_app(wsgi_application)
    server.serve_forever()


def serve_xmlrpc() -> None:
    server = XMLRPC(("127.0.0.1", 0))
    server.register_function(upper)
    server.serve_forever()


if __name__ == "__main__":
    kind, *certificates = sys.argv[1:]
    if certificates:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates[0])
        Listening.tls_context = context
    {"http": serve_http, "wsgi": serve_wsgi, "xmlrpc": serve_xmlrpc}[kind]()
