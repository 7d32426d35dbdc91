"""Programs that know nothing of headers: ``python -m tests.servers.sync_programs NAME PORT [CERTIFICATE]``."""

from __future__ import annotations

import sys
from typing import Any

from .whoami import wsgi


def eventlet(port: int, *certificate: str) -> None:
    """``eventlet.wsgi.server()``."""
    import eventlet

    eventlet.monkey_patch()
    from eventlet import wsgi as server

    sock = eventlet.listen(("127.0.0.1", port))
    if certificate:
        sock = eventlet.wrap_ssl(sock, server_side=True, certfile=certificate[0], keyfile=certificate[0])
    server.server(sock, wsgi)


def eventlet_serve(port: int) -> None:
    """``eventlet.serve()`` with a function that says who the client is."""
    import eventlet

    eventlet.serve(eventlet.listen(("127.0.0.1", port)), _greet)


def gevent(port: int, *certificate: str) -> None:
    """``gevent.pywsgi.WSGIServer``."""
    from gevent.pywsgi import WSGIServer

    tls = {"certfile": certificate[0], "keyfile": certificate[0]} if certificate else {}
    WSGIServer(("127.0.0.1", port), wsgi, **tls).serve_forever()


def gevent_serve(port: int) -> None:
    """``gevent.server.StreamServer`` with a function that says who the client is."""
    from gevent.server import StreamServer

    StreamServer(("127.0.0.1", port), _greet).serve_forever()


def _greet(sock: Any, address: Any) -> None:
    sock.sendall(f"{address[0]} {address[1]}".encode())
    sock.close()


def cherrypy(port: int, *certificate: str) -> None:
    """CherryPy."""
    import cherrypy

    cherrypy.config.update({"server.socket_port": port, "engine.autoreload.on": False})
    if certificate:
        names = ["server.ssl_certificate", "server.ssl_private_key"]
        cherrypy.config.update({"server.ssl_module": "builtin", **dict.fromkeys(names, certificate[0])})
    cherrypy.tree.graft(wsgi, "/")
    cherrypy.engine.start()
    cherrypy.engine.block()


def http_server(port: int, *certificate: str) -> None:
    """:mod:`http.server`, with TLS on the listening socket, as its documentation used to tell."""
    import ssl
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = "{} {} -".format(*self.client_address).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[0])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


def werkzeug_processes(port: int) -> None:
    """Werkzeug with a process for each connection."""
    from werkzeug.serving import run_simple

    run_simple("127.0.0.1", port, wsgi, processes=4)


def django(port: int) -> None:
    """Django's ``runserver``, with its reloader."""
    from django.conf import settings
    from django.core.management import execute_from_command_line

    name = "tests.servers.whoami"
    settings.configure(SECRET_KEY="-", ROOT_URLCONF=name, WSGI_APPLICATION=f"{name}.wsgi", ALLOWED_HOSTS=["*"])
    execute_from_command_line(["manage.py", "runserver", "--skip-checks", str(port)])


def flask_app() -> Any:
    """Return an application of Flask, for ``flask run``."""
    from flask import Flask

    app = Flask("app")
    app.wsgi_app = wsgi  # type: ignore[method-assign]
    return app


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
