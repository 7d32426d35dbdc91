"""Asks a DNS block list (RFC 5782) about a client, for the relay.

The client's IPv4 or IPv6 address is looked up; an IPv4-mapped one counts as IPv4. If there is no IP address, or no
answer, the client counts as not listed: a block list that is down blocks no client.

With dnspython (``pip install 'proxyprotocol[dnsbl]'``) a time-out ends the query too. Without it, the system's resolver
runs in a thread, which no time-out can stop.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop
from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address
from socket import AF_INET, SOCK_STREAM
from typing import Final

from proxyprotocol.sock import SocketInfo

# A time-out; not listed, or no answer; the executor is shutting down; the host is not a valid name.
_NO_ANSWER: tuple[type[Exception], ...] = (asyncio.TimeoutError, OSError, RuntimeError, ValueError)
try:
    from dns import asyncresolver
    from dns.exception import DNSException
except ImportError:
    _HAS_DNSPYTHON = False
else:
    _HAS_DNSPYTHON = True
    _NO_ANSWER += (DNSException,)

__all__ = ["BasicDnsbl", "Dnsbl", "NoopDnsbl", "SpamhausDnsbl"]

# Spamhaus's return codes, as its documentation lists them.
_SPAMHAUS_LISTS: Final = {
    IPv4Address(f"127.0.0.{code}"): f"https://www.spamhaus.org/{name}/"
    for name, codes in {"sbl": (2,), "css": (3,), "xbl": (4, 5, 6, 7), "pbl": (10, 11)}.items()
    for code in codes
}


class Dnsbl(ABC):
    """A DNS block list. :meth:`load` makes the right kind."""

    __slots__ = ()

    @classmethod
    def load(cls, host: str | None, *, timeout: float | None = None) -> Dnsbl:
        """Make the kind of block list that fits a host.

        Args:
            host: The domain of the block list, such as ``"zen.spamhaus.org"``; None for no list.
            timeout: Seconds to wait for an answer; None to wait as long as the resolver does: 5 seconds with dnspython.
        """
        if host is None:
            return NoopDnsbl()
        return (SpamhausDnsbl if host.endswith(".spamhaus.org") else BasicDnsbl)(host, timeout)

    @abstractmethod
    async def lookup(self, sock_info: SocketInfo, *, loop: AbstractEventLoop | None = None) -> str | None:
        """Ask the list about the client of a connection.

        Args:
            sock_info: The connection.
            loop: A loop whose own resolver to ask, even if dnspython is installed. Better leave this out.

        Returns:
            The name of the list that the client is on. None if it is on none, or if we could not find out.
        """


class NoopDnsbl(Dnsbl):
    """No block list: no client is listed."""

    __slots__ = ()

    async def lookup(self, sock_info: SocketInfo, *, loop: AbstractEventLoop | None = None) -> str | None:
        return None


class BasicDnsbl(Dnsbl):
    """Any DNS block list: a client is listed if there is an answer at all.

    With dnspython we ask its default resolver, ``dns.asyncresolver.get_default_resolver()``, which reads the system's
    name servers when it is first used.

    Without dnspython, or with a *loop*, the time-out ends our wait but not the look-up: the resolver of a loop runs in
    a thread, which stays busy until the system's resolver gives up. If the name server is down and there are many
    clients, all threads of the loop's default executor may be busy like this. Later look-ups then time out in its
    queue.

    Args:
        host: The domain of the block list. It is also an attribute.
        timeout: Seconds to wait for an answer; None to wait as long as the resolver does. It is also an attribute.
    """

    __slots__ = ("host", "timeout")

    def __init__(self, host: str, timeout: float | None) -> None:
        self.host: str = host
        self.timeout: float | None = timeout

    async def lookup(self, sock_info: SocketInfo, *, loop: AbstractEventLoop | None = None) -> str | None:
        ip = sock_info.peername_ip
        if ip is None:
            return None
        # Take only the bytes: no list knows zones. The last two labels are the domain of reverse look-ups.
        name = f"{ip_address(ip.packed).reverse_pointer.rsplit('.', 2)[0]}.{self.host}"
        try:
            if _HAS_DNSPYTHON and loop is None:
                resolver = asyncresolver.get_default_resolver()
                records = await resolver.resolve(name, "A", search=False, lifetime=self.timeout)
                addresses = [IPv4Address(record.address) for record in records]
            else:
                resolving = (loop or asyncio.get_running_loop()).getaddrinfo(name, 0, family=AF_INET, type=SOCK_STREAM)
                answers = await asyncio.wait_for(resolving, self.timeout)
                # some loops leave the family out
                addresses = [IPv4Address(address[0]) for family, *_, address in answers if family in (AF_INET, None)]
        except _NO_ANSWER:
            return None
        return self.map_results(addresses)

    def map_results(self, addresses: Sequence[IPv4Address]) -> str | None:
        """Return what an answer means; a subclass may know more.

        Args:
            addresses: The addresses in the answer.

        Returns:
            The name of the list that the client is on; None if the answer has no address.
        """
        return self.host if addresses else None


class SpamhausDnsbl(BasicDnsbl):
    """A list of Spamhaus. The address in its answer tells which of its lists the client is on.

    The name of a list is the address of its web page, or *host* for an unknown answer. To public resolvers Spamhaus
    refuses to answer, by an address in 127.255.255.0/24. As in `proxy-protocol`, the client then counts as listed: use
    your own resolver.
    """

    __slots__ = ()

    def map_results(self, addresses: Sequence[IPv4Address]) -> str | None:
        return _SPAMHAUS_LISTS.get(addresses[0], self.host) if addresses else None
