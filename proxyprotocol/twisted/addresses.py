"""Convert addresses between Twisted's objects and the socket module's values."""

from __future__ import annotations

import os
from typing import Any, Literal

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from proxyprotocol.typing import SockAddr

__all__ = ["from_client", "from_sockaddr", "to_sockaddr"]


def to_sockaddr(address: IAddress) -> SockAddr:
    """Convert a Twisted address to a socket address.

    Args:
        address: An address from a transport's ``getPeer`` or ``getHost``.

    Returns:
        The address in the form of the socket module; None for any other kind of address.
    """
    if isinstance(address, IPv4Address):
        return address.host, address.port
    if isinstance(address, IPv6Address):
        return address.host, address.port, address.flowInfo, address.scopeID
    if isinstance(address, UNIXAddress):
        return "" if address.name is None else os.fsdecode(address.name)
    return None


def from_sockaddr(address: Any, kind: Literal["TCP", "UDP"] = "TCP") -> IAddress:
    """Convert a socket address to a Twisted address.

    Args:
        address: A result's ``peername`` or ``sockname``, not None.
        kind: The kind of the real transport, which becomes the kind of the returned address.
    """
    if type(address) is str:
        return UNIXAddress(os.fsencode(address) or None)
    if len(address) == 2:
        return IPv4Address(kind, address[0], address[1])
    return IPv6Address(kind, *address)


def from_client(client: tuple[Any, ...]) -> IAddress:
    """Convert the ``client`` attribute of a Twisted server transport to a Twisted address."""
    return from_sockaddr(os.fsdecode(client[0]) if client[1] is None else client)
