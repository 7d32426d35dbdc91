"""The integrations that ``proxyprotocol run`` switches on, and the servers that it cannot serve: one row each."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["INTEGRATIONS", "NATIVE", "SOCKETS", "Integration", "Native"]


class Integration(NamedTuple):
    """A server whose listeners read headers once ``switch_on()`` of its integration was called.

    Attributes:
        trigger: The module of the server after whose import the integration is switched on.
        name: The integration's module in ``proxyprotocol.integrations``.
        distribution: What to install for it; empty for Python's own servers.
        oldest: The oldest version of the distribution that was tested.
        newest: The newest.
    """

    trigger: str
    name: str
    distribution: str = ""
    oldest: str = ""
    newest: str = ""


class Native(NamedTuple):
    """A server that accepts its connections outside Python, where no integration can read a header for it.

    Attributes:
        trigger: A module of the server.
        function: What begins the server there, with the name of its class.
        server: What the user calls it.
    """

    trigger: str
    function: str
    server: str


INTEGRATIONS: Final = (
    Integration("aiosmtpd.controller", "aiosmtpd", "aiosmtpd", "1.4.4", "1.4"),
    Integration("anyio", "anyio", "anyio", "4.4", "4.16"),
    Integration("asyncio", "asyncio"),
    Integration("cheroot.server", "cheroot", "cheroot", "9.0", "11.1"),
    Integration("daphne.server", "daphne", "daphne", "4.0", "4.2"),
    Integration("eventlet", "eventlet", "eventlet", "0.33.3", "0.41"),
    Integration("gevent.server", "gevent", "gevent", "22.10", "26.9"),
    Integration("gunicorn.config", "gunicorn", "gunicorn", "21.2", "27.0"),
    Integration("hypercorn.protocol", "hypercorn", "hypercorn", "0.14", "0.18"),
    Integration("pyftpdlib.servers", "pyftpdlib", "pyftpdlib", "1.5.7", "2.2"),
    Integration("socketserver", "socketserver"),
    Integration("tornado.tcpserver", "tornado", "tornado", "6.2", "6.6"),
    Integration("trio", "trio", "trio", "0.22", "0.35"),
    Integration("twisted.internet.posixbase", "twisted", "Twisted", "22.4", "26.10"),
    Integration("uvicorn.config", "uvicorn", "uvicorn", "0.30", "0.54"),
    Integration("uvloop", "uvloop", "uvloop", "0.17", "0.23"),
    Integration("waitress.server", "waitress", "waitress", "2.1.2", "3.0"),
)

#: The classes of sockets that accept connections in Python: module and name.
SOCKETS: Final = (
    ("socket", "socket"),
    ("gevent._socket3", "_wrefsocket"),
    ("eventlet.greenio.base", "_original_socket"),
)

NATIVE: Final = (
    Native("bjoern", "server_run", "bjoern"),
    Native("granian.server.common", "AbstractServer.__init__", "granian"),
    Native("grpc", "server", "gRPC"),
    Native("grpc.aio", "server", "gRPC"),
    Native("rloop.loop", "RLoop.__init__", "rloop"),
    Native("robyn", "Robyn.start", "robyn"),
    Native("socketify.socketify", "App.listen", "socketify"),
)
