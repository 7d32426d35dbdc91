"""tornado: python tornado_server.py PORT [FILE OF KEY AND CERTIFICATE]."""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from proxyprotocol.integrations.tornado import add_sockets, proxy_result


class WhoAmI(RequestHandler):
    """Answers with the client's address and the header."""

    def get(self) -> None:
        connection: Any = self.request.connection
        self.write(f"{self.request.remote_ip} ? {proxy_result(connection.stream)}")


async def main(port: str, *certificate: str) -> None:
    """Serve until the end."""
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate[0])
    server = HTTPServer(Application([("/", WhoAmI)]), ssl_options=context)
    sockets = bind_sockets(int(port), "127.0.0.1", reuse_port=True)
    add_sockets(server, sockets, trusted=["127.0.0.1"])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
