"""A tornado application, plain and with TLS: who the client is, and a WebSocket."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from proxyprotocol.integrations.tornado import add_sockets, proxy_result

from ._loops import PLAIN, run, server_context, tell_ports


class WhoAmI(RequestHandler):
    def get(self) -> None:
        context: Any = self.request.connection.context  # type: ignore[union-attr]
        assert context.address[0] == self.request.remote_ip
        self.write(f"{self.request.remote_ip} {context.address[1]} {self.request.protocol}")


class Authority(RequestHandler):
    def get(self) -> None:
        connection: Any = self.request.connection
        result = proxy_result(connection.stream)
        self.write("" if result is None else result.tlv.authority or "")


class Socket(WebSocketHandler):
    def open(self, *args: str, **kwargs: str) -> None:
        connection: Any = self.request.connection
        self._client = "{} {}".format(*connection.context.address[:2])

    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(f"{self._client} {message!s}")


async def main(certificate: str) -> None:
    application = Application([("/", Socket), ("/whoami", WhoAmI), ("/authority", Authority)])
    # first, because the tests start when the last port is printed
    add_sockets(HTTPServer(application), [bind_unix_socket("site.sock")])
    for options in (None, server_context(certificate)):
        sockets = bind_sockets(0, "127.0.0.1")
        add_sockets(HTTPServer(application, ssl_options=options), sockets)
        tell_ports(sock.getsockname() for sock in sockets)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main, PLAIN)
