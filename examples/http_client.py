"""An HTTP client that names another client: ``python examples/http_client.py URL``.

http.client reconnects when it has to, and each connection must begin with a header: so ``connect`` sends it.
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPSConnection
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from proxyprotocol import ProxyResultIPv4
from proxyprotocol.sync import send_header

CLIENT = ProxyResultIPv4((IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 443))


class Connection(HTTPConnection):
    """A connection that begins with a header."""

    def connect(self) -> None:
        """Connect, and send the header."""
        super().connect()
        send_header(self.sock, CLIENT)


class SecureConnection(HTTPSConnection, Connection):
    """A connection that begins with a header and TLS after it: HTTPSConnection comes first, and calls the other."""


if __name__ == "__main__":
    url = urlsplit(sys.argv[1])
    kind = SecureConnection if url.scheme == "https" else Connection
    connection = kind(url.netloc, timeout=10)
    try:
        connection.request("GET", url.path)
        response = connection.getresponse()
        print(response.status, response.read().decode(), flush=True)
    finally:
        connection.close()
