"""A client with urllib3's pools that names somebody else as the client: ``python examples/urllib3_client.py URL``.

A pool is for one client: each of its connections begins with the same header, and serves any of its requests.
"""

from __future__ import annotations

import socket
import sys
from ipaddress import IPv4Address
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from proxyprotocol import ProxyResultIPv4
from proxyprotocol.sync import send_header

CLIENT = ProxyResultIPv4((IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 443))


class Connection(HTTPConnection):
    """A connection that begins with a header."""

    # urllib3 has no public hook for a caller's own sockets; its own SOCKS support overrides this method too
    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        send_header(sock, CLIENT)
        return sock


class SecureConnection(HTTPSConnection, Connection):
    """A connection that begins with a header and TLS after it."""


class Pool(HTTPConnectionPool):
    """Connections that begin with a header."""

    ConnectionCls: Any = Connection


class SecurePool(HTTPSConnectionPool):
    """Connections that begin with a header and TLS after it."""

    ConnectionCls: Any = SecureConnection


if __name__ == "__main__":
    with PoolManager(timeout=10) as manager:
        manager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
        response = manager.request("GET", sys.argv[1])
        print(response.status, response.data.decode(), flush=True)
