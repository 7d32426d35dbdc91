"""Connections that come from the client's own address (``transparent=yes``), by Linux's IP_TRANSPARENT."""

from __future__ import annotations

import errno
import socket
import sys
from ipaddress import IPv4Address, ip_address
from typing import Any, Final, NamedTuple

from proxyprotocol.server._process.program import describe_error

# Numbers of Linux, which Python does not have names for on every version.
_BIND_ADDRESS_NO_PORT: Final = 24
_OPTIONS: Final = {socket.AF_INET: (socket.IPPROTO_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}
#: The errors that concern the port to connect from: it is in use, or only root may use it. Another one is as good.
PORT_ERRORS: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})


class Origin(NamedTuple):
    """Where to connect from."""

    family: int
    host: str
    port: int


def check_transparent() -> None:
    """Raise ValueError if this process cannot connect from the address of another machine."""
    if sys.platform != "linux":
        raise ValueError(f"transparent=yes needs Linux and its IP_TRANSPARENT, which {sys.platform} does not have")
    try:
        with socket.socket() as probe:
            probe.setsockopt(*_OPTIONS[socket.AF_INET], 1)
    except OSError as error:
        raise ValueError(
            f"transparent=yes needs the capability CAP_NET_RAW or CAP_NET_ADMIN ({describe_error(error)}): start the "
            "relay as root, or with AmbientCapabilities=CAP_NET_RAW in its unit of systemd"
        ) from None


def find_origin(client: Any) -> Origin:
    """Return where to connect from for a client's address, as the socket module gives it.

    Raises:
        ValueError: It is not the address of one machine. The text is a sentence.
    """
    try:
        host, port = client[:2]
        address = ip_address(host.partition("%")[0])
    except (TypeError, ValueError):
        raise ValueError("transparent=yes needs a client with an IP address") from None
    address = getattr(address, "ipv4_mapped", None) or address
    # bound to 0.0.0.0, a socket would get an address of this machine, and the server would take the client for a local
    if address.is_unspecified or address.is_multicast or address == IPv4Address("255.255.255.255"):
        raise ValueError(f"transparent=yes cannot connect from {address}, which is not the address of one machine")
    return Origin(socket.AF_INET if address.version == 4 else socket.AF_INET6, str(address), port)


def bind_to(sock: socket.socket, origin: Origin, port: int) -> None:
    """Let a socket connect from an origin, and from this port; with port 0 from any that is free.

    Raises:
        OSError: The system does not allow it.
    """
    sock.setsockopt(*_OPTIONS[socket.AddressFamily(origin.family)], 1)
    # the last connection of the same client may be in TIME_WAIT
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if not port:
        # the system chooses the port in connect(), where it need only be free towards this destination
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
    sock.bind((origin.host, port))
