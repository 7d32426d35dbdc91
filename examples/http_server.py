"""The standard library's HTTP server behind a proxy on this machine: ``python examples/http_server.py [PORT]``.

It serves the files of this directory, and its log names the real clients.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from proxyprotocol import Receiver
from proxyprotocol.sync import ProxyProtocolMixIn


class Server(ProxyProtocolMixIn, ThreadingHTTPServer):
    """The server, with a header in front of each connection."""

    receiver = Receiver(trusted=["127.0.0.0/8", "::1"], timeout=5)


if __name__ == "__main__":
    logging.basicConfig()  # for the line about a connection that is refused
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    with Server(("127.0.0.1", port), SimpleHTTPRequestHandler) as server:
        print("Listening on", *server.socket.getsockname(), flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
