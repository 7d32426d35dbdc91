"""A klein application: ``klein_app.py <endpoint description>``."""

from __future__ import annotations

import sys

from klein import Klein
from twisted.web.server import Request

app = Klein()


@app.route("/whoami")
def who_am_i(request: Request) -> str:
    client = request.getClientAddress()
    return f"{client.host} {client.port}"


if __name__ == "__main__":
    app.run(endpoint_description=sys.argv[1])
