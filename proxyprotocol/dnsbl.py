"""Asking a DNS block list (RFC 5782) about a client, for the relay.

Addresses of IPv4, also mapped into IPv6, and of IPv6 are looked up; for a client without one the answer is None, as for
a list that cannot be reached: a block list that is down blocks nobody.

With dnspython (``pip install 'proxyprotocol[dnsbl]'``) a time-out ends the question too. Without it the resolver of the
system is asked, in a thread that no time-out can stop.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, SOCK_STREAM
from typing import Final

from proxyprotocol.sock import SocketInfo

try:
    from dns import asyncresolver
    from dns.exception import DNSException
except ImportError:
    _HAS_DNSPYTHON = False
else:
    _HAS_DNSPYTHON = True

__all__ = ["BasicDnsbl", "Dnsbl", "NoopDnsbl", "SpamhausDnsbl"]

# What Spamhaus's return codes mean, as its documentation tells them: SBL, its CSS part, XBL (four codes), PBL (two).
_SPAMHAUS_LISTS: Final = {
    IPv4Address(f"127.0.0.{code}"): f"https://www.spamhaus.org/{name}/"
    for name, codes in {"sbl": (2,), "css": (3,), "xbl": (4, 5, 6, 7), "pbl": (10, 11)}.items()
    for code in codes
}


class Dnsbl(ABC):
    """A DNS block list, or the lack of one. :meth:`load` makes the right kind."""

    __slots__ = ()

    @classmethod
    def load(cls, host: str | None, *, timeout: float | None = None) -> Dnsbl:
        """Make the kind that fits a host.

        Args:
            host: The domain of the block list, such as ``"zen.spamhaus.org"``, or None to ask nobody.
            timeout: How long to wait for an answer, in seconds, or None to wait as long as the resolver does: 5 seconds
                with dnspython.
        """
        if host is None:
            return NoopDnsbl()
        return (SpamhausDnsbl if host.endswith(".spamhaus.org") else BasicDnsbl)(host, timeout)

    @abstractmethod
    async def lookup(self, sock_info: SocketInfo, *, loop: AbstractEventLoop | None = None) -> str | None:
        """Ask the list about the client of a connection.

        Args:
            sock_info: The connection.
            loop: A loop whose own resolver is asked, with or without dnspython. Best left out.

        Returns:
            Under what the client is listed, or None if it is not, or if that could not be found out.
        """


class NoopDnsbl(Dnsbl):
    """The lack of a block list: nobody is listed."""

    __slots__ = ()

    async def lookup(self, sock_info: SocketInfo, *, loop: AbstractEventLoop | None = None) -> str | None:
        """Answer None without asking anybody.

        Args:
            sock_info: Not looked at.
            loop: Not looked at.
        """
        return None


class BasicDnsbl(Dnsbl):
    """Any DNS block list: a client is listed if there is an answer at all.

    Args:
        host: The domain of the block list.
        timeout: How long to wait for an answer, in seconds, or None to wait as long as the resolver does.

    Attributes:
        host: The argument.
        timeout: The argument.
    """

    __slots__ = ("host", "timeout")

    def __init__(self, host: str, timeout: float | None) -> None:
        self.host = host
        self.timeout = timeout

    async def lookup(self, sock_info: SocketInfo, *, loop: AbstractEventLoop | None = None) -> str | None:
        """Ask the list about the client of a connection.

        No failure to get an answer raises: the client then counts as not listed. Only a cancellation goes through.

        By dnspython the default resolver is asked, ``dns.asyncresolver.get_default_resolver()``, which reads the
        system's name servers when it is first used; it asks for no other name than this one, and nothing is left of a
        question when its time-out is over.

        Without dnspython, and where *loop* is given, the time-out bounds the wait and not the look-up: a loop's own
        resolver runs in a thread, which cannot be stopped and stays busy until the resolver of the system gives up.
        With a name server that is down, and many clients, all threads of the loop's default executor may be busy that
        way, and later look-ups then time out in its queue.

        Args:
            sock_info: The connection.
            loop: A loop whose own resolver is asked, with or without dnspython. Best left out.

        Returns:
            What :meth:`map_results` makes of the answer.
        """
        ip = sock_info.peername_ip
        if ip is None:
            return None
        name = f"{_reversed(ip)}.{self.host}"
        if _HAS_DNSPYTHON and loop is None:
            addresses = await self._resolve(name)
        else:
            addresses = await self._resolve_in_thread(name, loop or asyncio.get_running_loop())
        return None if addresses is None else self.map_results(addresses)

    async def _resolve(self, name: str) -> list[IPv4Address] | None:
        try:
            resolver = asyncresolver.get_default_resolver()
            answer = await resolver.resolve(name, "A", search=False, lifetime=self.timeout)
        except (DNSException, OSError, ValueError):
            # In this order: not listed, no answer, too slow, or a host that is no name; no socket; no name either.
            return None
        return [IPv4Address(record.address) for record in answer]

    async def _resolve_in_thread(self, name: str, loop: AbstractEventLoop) -> list[IPv4Address] | None:
        try:
            answers = await asyncio.wait_for(loop.getaddrinfo(name, 0, family=AF_INET, type=SOCK_STREAM), self.timeout)
        except (asyncio.TimeoutError, OSError, RuntimeError, ValueError):
            # In this order: too slow; not listed, or no answer; the executor is shutting down; a host that is no name.
            return None
        # a loop may leave the family out
        return [IPv4Address(address[0]) for family, *_, address in answers if family in (AF_INET, None)]

    def map_results(self, addresses: Sequence[IPv4Address]) -> str | None:
        """Say what an answer means; a subclass may know better.

        Args:
            addresses: The addresses in the answer.

        Returns:
            Under what the client is listed: the host of the list; None without an address.
        """
        return self.host if addresses else None


def _reversed(ip: IPv4Address | IPv6Address) -> str:
    """Return the labels before the list's domain: the numbers or, for IPv6, the hexadecimal digits, last first."""
    # As for the look-up of the address itself, whose domain is taken away. Anew from its bytes, because a zone, which
    # no list knows, is more than reverse_pointer can take.
    return ip_address(ip.packed).reverse_pointer.rsplit(".", 2)[0]


class SpamhausDnsbl(BasicDnsbl):
    """A list of Spamhaus, which tells by the address in its answer which of its lists the client is on.

    Args:
        host: The domain of the block list.
        timeout: How long to wait for an answer, in seconds, or None to wait as long as the resolver does.
    """

    __slots__ = ()

    def map_results(self, addresses: Sequence[IPv4Address]) -> str | None:
        """Say which list an answer means.

        Spamhaus answers with an address in 127.255.255.0/24 where it refuses to answer, such as to the public
        resolvers; as in `proxy-protocol` that counts as listed. Use a resolver of your own.

        Args:
            addresses: The addresses in the answer, of which the first counts.

        Returns:
            The address of the list's page, the host for an answer that is not known; None without an address.
        """
        return _SPAMHAUS_LISTS.get(addresses[0], self.host) if addresses else None
