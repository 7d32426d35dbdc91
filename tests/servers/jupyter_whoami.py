"""An extension of Jupyter Server: ``/`` answers with ``HOST ? HEADER``."""

from __future__ import annotations

from typing import Any

from tornado.web import RequestHandler

from proxyprotocol.integrations.tornado import proxy_result


class WhoAmI(RequestHandler):
    """Answers without a login."""

    def get(self) -> None:
        connection: Any = self.request.connection
        self.write(f"{self.request.remote_ip} ? {proxy_result(connection.stream)}")


def _load_jupyter_server_extension(server: Any) -> None:
    server.web_app.add_handlers(".*$", [("/", WhoAmI)])


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]
