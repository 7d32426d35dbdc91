"""Floor 5: addresses as Twisted has them, and as the socket module has them."""

from __future__ import annotations

import os
from typing import Any, Literal

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from proxyprotocol.typing import SockAddr

__all__ = ["from_client", "from_sockaddr", "to_sockaddr"]


def to_sockaddr(address: IAddress) -> SockAddr:
    """Give an address as the socket module gives it; None for one that is no socket's.

    Args:
        address: What a transport's ``getPeer`` or ``getHost`` gave.
    """
    if isinstance(address, IPv4Address):
        return address.host, address.port
    if isinstance(address, IPv6Address):
        return address.host, address.port, address.flowInfo, address.scopeID
    if isinstance(address, UNIXAddress):
        return "" if address.name is None else os.fsdecode(address.name)
    return None


def from_sockaddr(address: Any, kind: Literal["TCP", "UDP"] = "TCP") -> IAddress:
    """Give a header's address as Twisted has it.

    Args:
        address: What a result's ``peername`` or ``sockname`` gave, not None.
        kind: The kind of the real transport, which the answer has too.
    """
    if type(address) is str:
        return UNIXAddress(os.fsencode(address) or None)
    if len(address) == 2:
        return IPv4Address(kind, address[0], address[1])
    return IPv6Address(kind, *address)


def from_client(client: tuple[Any, ...]) -> IAddress:
    """Give the address of what a transport of Twisted's servers has as its ``client``."""
    return from_sockaddr(os.fsdecode(client[0]) if client[1] is None else client)
