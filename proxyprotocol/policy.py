"""Who may name a client (section 5 of the specification), as pure functions of two addresses.

A header is only as good as its sender. The specification wants a receiver not to guess whether there is a header, and
to take one from trusted proxies alone.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, TypeAlias

from proxyprotocol.typing import SockAddr

__all__ = ["ANY", "HeaderPolicy", "Network", "PolicyCallable", "TrustedProxies", "lets_plain_in"]

#: What ``trusted`` options take to say in so many words: everybody who can connect may name a client.
ANY: Final = "any"
#: A network or an address, as :class:`TrustedProxies` takes them.
Network: TypeAlias = (
    "str | ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network"
)

_IPV4_MAPPED = bytes(10) + b"\xff\xff"
_UNIX = "unix"
# where PyPy's inet_pton() stops: what follows would not be looked at
_NUL = "\0"
_Networks: TypeAlias = dict[int, dict[int, set[int]]]
_NETWORKS = (
    str,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)


class HeaderPolicy(Enum):
    """What to do with a connection."""

    #: A header must come; its addresses are the connection's. The default.
    REQUIRE = "require"
    #: A header may come. For sources that are named as trusted, and only for those: anybody else could name any client.
    OPTIONAL = "optional"
    #: A header must come; the real addresses stay the connection's.
    IGNORE = "ignore"
    #: No header comes: what looks like one is the application's.
    SKIP = "skip"
    #: The connection is dropped before a byte is read.
    REJECT = "reject"


#: What may stand in a policy's place: a function of the peer's and the local address.
PolicyCallable: TypeAlias = Callable[[SockAddr, SockAddr], HeaderPolicy]


class TrustedProxies:
    """A policy by the address that connected.

    An IPv4-mapped peer (``::ffff:192.0.2.1``) matches IPv4 networks, and those alone. A zone is ignored. A peer whose
    address cannot be had is trusted by nobody. A look-up takes as many steps as there are different prefix lengths,
    however many networks there are.

    Args:
        networks: The trusted networks and addresses, such as ``"10.0.0.0/8"`` and ``"::1"``, and ``"unix"`` for
            every peer on a UNIX socket. ``"!10.9.0.0/16"`` takes a network out again. In a text, commas stand between
            them.
        trusted: What to do with their connections.
        otherwise: What to do with all others: REJECT, or SKIP to serve them as what they are, plain connections.

    Raises:
        ValueError: A network is malformed, has host bits set, or has a zone, or nothing is trusted.
    """

    __slots__ = ("_excluded", "_included", "_otherwise", "_trusted", "_unix", "networks")

    #: The networks, as text.
    networks: tuple[str, ...]

    def __init__(
        self,
        networks: str | Iterable[Network],
        *,
        trusted: HeaderPolicy = HeaderPolicy.REQUIRE,
        otherwise: HeaderPolicy = HeaderPolicy.REJECT,
    ) -> None:
        self._trusted = trusted
        self._otherwise = otherwise
        self.replace(networks)

    def replace(self, networks: str | Iterable[Network]) -> None:
        """Trust other networks from now on.

        Args:
            networks: As the class takes them.

        Raises:
            ValueError: A network is wrong; the old ones stay.
        """
        networks = networks.split(",") if isinstance(networks, str) else list(networks)
        unix = False
        # By the length of the address in bytes, then by how far an address is shifted to the right to leave its
        # network: a set of networks.
        included: _Networks = {4: {}, 16: {}}
        excluded: _Networks = {4: {}, 16: {}}
        for network in networks:
            text = network.strip() if isinstance(network, str) else network
            if text == _UNIX:
                unix = True
            elif isinstance(text, str) and text.startswith("!"):
                _add(excluded, _parse_network(text[1:].lstrip()))
            else:
                _add(included, _parse_network(text))
        if any(excluded.values()) and not (unix or any(included.values())):
            raise ValueError(f"Nothing is trusted: {', '.join(map(str, networks))} only takes networks out")
        self._included, self._excluded, self._unix = included, excluded, unix
        self.networks = tuple(str(network).strip() for network in networks)

    @property
    def policies(self) -> frozenset[HeaderPolicy]:
        """What can be decided."""
        return frozenset({self._trusted, self._otherwise})

    def __call__(self, peer: SockAddr, local: SockAddr) -> HeaderPolicy:
        """Decide.

        Args:
            peer: The address that connected, as the socket module gives it.
            local: The address that it connected to, in the same form.
        """
        return self._trusted if self.trusts(peer, local) else self._otherwise

    def trusts(self, peer: SockAddr, local: SockAddr = None) -> bool:
        """Return whether a peer is one of the trusted proxies.

        Args:
            peer: The address that connected, as the socket module gives it.
            local: The address that it connected to, in the same form. It shows that this is a UNIX socket, where most
                peers have no address.
        """
        if isinstance(local, (str, bytes)) or (local is None and isinstance(peer, (str, bytes))):
            return self._unix
        packed = _packed_host(peer)
        if packed is None:
            return False
        number = int.from_bytes(packed, "big")
        for shift, members in self._excluded[len(packed)].items():
            if number >> shift in members:
                return False
        return any(number >> shift in members for shift, members in self._included[len(packed)].items())

    def __repr__(self) -> str:
        count = len([network for network in self.networks if network != _UNIX])
        networks = "1 network" if count == 1 else f"{count} networks"
        unix = " and UNIX sockets" if self._unix else ""
        trusted, otherwise = self._trusted.name, self._otherwise.name
        return f"<{type(self).__name__}: {networks}{unix}, trusted={trusted}, otherwise={otherwise}>"


def _add(networks: _Networks, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    packed, shift = network.network_address.packed, network.max_prefixlen - network.prefixlen
    if packed.startswith(_IPV4_MAPPED):  # then it is a /96 or narrower, or it had host bits
        packed = packed[len(_IPV4_MAPPED) :]
    networks[len(packed)].setdefault(shift, set()).add(int.from_bytes(packed, "big") >> shift)


def _parse_network(network: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    text = str(network)
    try:
        if not isinstance(network, _NETWORKS):
            raise ValueError(f"it is of type {type(network).__name__}")
        if text == ANY:
            raise ValueError(f"{ANY!r} stands alone, without networks, as the value of a trusted option")
        if "%" in text:
            raise ValueError("a zone would be ignored, and the address trusted on every link")
        if _NUL in text:
            raise ValueError("it has a NUL in it")
        wider = ipaddress.ip_network(text, strict=False)
        if str(wider) != text and "/" in text and ipaddress.ip_interface(text).ip != wider.network_address:
            raise ValueError(f"it has host bits set; did you mean {wider}?")
        return wider
    except ValueError as error:
        raise ValueError(
            f"A trusted proxy is an address, a network without host bits, or {_UNIX!r}, not {network!a} ({error})"
        ) from None


def _packed_host(peer: SockAddr) -> bytes | None:
    """Return the 4 or 16 bytes of an address, or None without an IP address. An IPv4-mapped one has 4."""
    if not isinstance(peer, (tuple, list)) or not peer or not isinstance(peer[0], str):
        return None
    if _NUL in peer[0]:
        return None
    host = peer[0].partition("%")[0]
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        packed = socket.inet_pton(socket.AF_INET6, host)
    except (OSError, ValueError):
        return None
    return packed[len(_IPV4_MAPPED) :] if packed.startswith(_IPV4_MAPPED) else packed


def lets_plain_in(policy: HeaderPolicy | PolicyCallable) -> bool:
    """Return whether a policy may accept peers without a header; true for a function, which may return anything.

    Args:
        policy: The policy.
    """
    if isinstance(policy, TrustedProxies):
        policies = policy.policies
    elif isinstance(policy, HeaderPolicy):
        policies = frozenset({policy})
    else:
        return True
    return not policies.isdisjoint({HeaderPolicy.OPTIONAL, HeaderPolicy.SKIP})
