"""A resource for ``twistd web --class``."""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import Request


class WhoAmI(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        client = request.getClientAddress()
        return f"{client.host} {client.port}".encode()
