"""The keywords of asyncio's own functions together with ours, for type checkers."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl as _ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypedDict, TypeVar

from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.receiver import Receiver, ReceiverKeywords
from proxyprotocol.result import ProxyResult

__all__ = [
    "ClientKeywords",
    "ConnectKeywords",
    "DatagramKeywords",
    "FactoryKeywords",
    "Hosts",
    "Path",
    "ProtocolT",
    "ServerKeywords",
    "StreamCallback",
    "TransportResult",
    "UnixServerKeywords",
]

#: The application's protocol.
ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)

#: Where to listen: a host, several, or None for all.
Hosts: TypeAlias = "str | Sequence[str] | None"

#: The path of a UNIX socket.
Path: TypeAlias = "str | os.PathLike[str] | None"

#: The *client_connected_cb* of a server for streams: a function or a coroutine function.
StreamCallback: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], "Awaitable[object] | None"]

#: What a client's header says: a result, a function of the transport that returns one, or None.
TransportResult: TypeAlias = "ProxyResult | Callable[[asyncio.Transport], ProxyResult | None] | None"


class FactoryKeywords(ReceiverKeywords, total=False):
    """The keywords of :class:`.ProxyProtocolFactory`, which every server takes."""

    ssl: _ssl.SSLContext | None
    tls_timeout: float | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
    receiver: Receiver | None


class UnixServerKeywords(FactoryKeywords, total=False):
    """The same, and those of ``loop.create_unix_server``."""

    sock: socket.socket | None
    backlog: int
    start_serving: bool
    cleanup_socket: bool


class ServerKeywords(FactoryKeywords, total=False):
    """The same, and those of ``loop.create_server``."""

    family: int
    flags: int
    sock: socket.socket | None
    backlog: int
    reuse_address: bool | None
    reuse_port: bool | None
    keep_alive: bool | None
    start_serving: bool


class DatagramKeywords(ReceiverKeywords, total=False):
    """The keywords of :class:`.Receiver`, and those of ``loop.create_datagram_endpoint``."""

    family: int
    proto: int
    flags: int
    reuse_address: bool | None
    reuse_port: bool | None
    allow_broadcast: bool | None
    sock: socket.socket | None


class ConnectKeywords(TypedDict, total=False):
    """The keywords of ``loop.create_connection``, except for those of TLS."""

    family: int
    proto: int
    flags: int
    sock: socket.socket | None
    local_addr: tuple[str, int] | None
    happy_eyeballs_delay: float | None
    interleave: int | None
    all_errors: bool


class ClientKeywords(ConnectKeywords, total=False):
    """The same, and ours for :func:`proxyprotocol.asyncio.create_connection`."""

    result: TransportResult
    pp: ProxyProtocol | None
    ssl: _ssl.SSLContext | bool | None
    server_hostname: str | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
