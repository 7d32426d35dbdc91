"""Which peers may name a client (section 5 of the specification): pure functions of two addresses.

A header is only as good as its sender. So a receiver must not guess whether a header comes, and must accept headers
only from trusted proxies.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from os import PathLike
from typing import Any, Final, TypeAlias

from proxyprotocol._wire import spec
from proxyprotocol.typing import SockAddr

__all__ = [
    "ANY",
    "HeaderPolicy",
    "Network",
    "PolicyCallable",
    "TrustedProxies",
    "combine",
    "describe_networks",
    "lets_plain_in",
    "parse_network",
    "trusts_a_family",
    "trusts_all",
]

#: The value of ``trusted`` options that trusts everybody who can connect.
ANY: Final = "any"
#: A network or an address, as :class:`TrustedProxies` takes it.
Network: TypeAlias = (
    "str | ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network"
)
# by the length of an address in bytes: by how many bits to shift an address right to get its network: networks
_Networks: TypeAlias = "dict[int, dict[int, set[int]]]"

# Trusted hosts that an object remembers, about 150 KiB; few sites have more proxies. Untrusted hosts are never
# remembered: anybody could fill the memory with them.
_REMEMBERED: Final = 1024
_SHOWN: Final = 5  # networks in a log line
_LONGEST: Final = 60  # characters of an entry: an IPv6 network with an exclamation mark has at most 50


class HeaderPolicy(Enum):
    """What to do with a connection."""

    #: A header must come, and the application sees its addresses. The default.
    REQUIRE = "require"
    #: A header may come. Only for peers that you trust by name: any other peer could claim any address.
    OPTIONAL = "optional"
    #: A header must come, but the application sees the real addresses.
    IGNORE = "ignore"
    #: No header comes. Bytes that look like one belong to the application.
    SKIP = "skip"
    #: The connection is dropped before a byte is read.
    REJECT = "reject"


_FOR_TRUSTED: Final = (HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE)
_FOR_OTHERS: Final = (HeaderPolicy.REJECT, HeaderPolicy.SKIP, HeaderPolicy.IGNORE)

#: A function of the peer's and the local address that chooses the policy of each connection.
PolicyCallable: TypeAlias = Callable[[SockAddr, SockAddr], HeaderPolicy]


class TrustedProxies:
    """A policy that trusts peers by their address.

    An IPv4-mapped peer (``::ffff:192.0.2.1``) matches IPv4 networks, and only those. Zones are ignored. A peer without
    a known address is not trusted. The cost of a look-up depends on how many different prefix lengths there are, not on
    how many networks.

    Args:
        networks: The trusted networks and addresses, such as ``"10.0.0.0/8"`` and ``"::1"``. ``"unix"`` trusts every
            peer on a UNIX socket, and ``"!10.9.0.0/16"`` excludes a network. A text may hold several, with commas
            between them.
        trusted: What to do with connections from them.
        otherwise: What to do with all others: REJECT, or SKIP to serve them as plain connections without a header.

    Raises:
        ValueError: A network is malformed, has host bits set, or has a zone; or networks are only excluded.
    """

    __slots__ = ("_lists", "networks", "otherwise", "trusted")

    #: The networks as text, those that are excluded with their exclamation mark.
    networks: tuple[str, ...]
    #: What happens to connections from these networks.
    trusted: HeaderPolicy
    #: What happens to all others.
    otherwise: HeaderPolicy

    def __init__(
        self,
        networks: str | Iterable[Network],
        *,
        trusted: HeaderPolicy = HeaderPolicy.REQUIRE,
        otherwise: HeaderPolicy = HeaderPolicy.REJECT,
    ) -> None:
        if trusted not in _FOR_TRUSTED:
            raise ValueError(f"trusted must be REQUIRE, OPTIONAL or IGNORE, not {trusted}: these peers send headers")
        if otherwise not in _FOR_OTHERS:
            raise ValueError(f"otherwise must be REJECT, SKIP or IGNORE, not {otherwise}: nobody trusts these peers")
        self.trusted, self.otherwise = trusted, otherwise
        self.replace(networks)

    def replace(self, networks: str | Iterable[Network]) -> None:
        """Trust other networks from now on.

        Args:
            networks: The new networks, in place of all old ones.

        Raises:
            ValueError: A network is wrong, and the old ones stay.
        """
        included: _Networks = {4: {}, 16: {}}
        excluded: _Networks = {4: {}, 16: {}}
        value: Any = networks
        if not isinstance(value, Iterable) or isinstance(value, (bytes, bytearray)):
            hint = "; give it as policy=" if callable(value) else ""
            if isinstance(value, PathLike):
                hint = "; for a list in a file, use policy=TrustedProxiesFile(path)"
            raise TypeError(f"trusted networks are a list such as ['10.0.0.0/8'], not {networks!r}{hint}")
        texts = []
        for given in networks.split(",") if isinstance(networks, str) else networks:  # a file must be read lazily
            texts.append(text := str(given).strip())
            if text == "unix":
                continue
            network = parse_network(text)
            # a network inside ::ffff:0:0/96 has at least its prefix length, for it has no host bits
            packed = network.network_address.packed.removeprefix(spec.IPV4_MAPPED)
            shift = network.max_prefixlen - network.prefixlen
            members = (excluded if text.startswith("!") else included)[len(packed)].setdefault(shift, set())
            members.add(int.from_bytes(packed, "big") >> shift)
        if texts and all(text.startswith("!") for text in texts):
            raise ValueError(f"Nothing is trusted: {describe_networks(texts)} only excludes networks")
        # One assignment, with a new memory: other threads look hosts up, and must not see half of a list.
        remembered: set[str] = set()
        self._lists = included, excluded, "unix" in texts, remembered
        self.networks = tuple(texts)

    def __call__(self, peer: SockAddr, local: SockAddr) -> HeaderPolicy:
        """Choose the policy of a connection, from the arguments of :meth:`trusts`."""
        return self.trusted if self.trusts(peer, local) else self.otherwise

    def trusts(self, peer: SockAddr, local: SockAddr = None) -> bool:
        """Return whether a peer is one of the trusted proxies.

        Args:
            peer: The address that connected, as the socket module gives it.
            local: The address that it connected to, in the same form. It tells whether this is a UNIX socket, where
                most peers have no address.
        """
        included, excluded, unix, remembered = self._lists
        # nearly every connection; type() is faster than isinstance()
        if type(local) is type(peer) is tuple and peer and type(peer[0]) is str and peer[0] in remembered:
            return True
        if isinstance(local, (str, bytes)) or (local is None and isinstance(peer, (str, bytes))):
            return unix
        if not isinstance(peer, (tuple, list)) or not peer or not isinstance(peer[0], str):
            return False
        name = peer[0]
        if "\0" in name:
            return False
        host = name.partition("%")[0]
        try:
            packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        except (OSError, ValueError):
            return False
        packed = packed.removeprefix(spec.IPV4_MAPPED)
        number = int.from_bytes(packed, "big")
        # loops, because any() and a generator took a third of the time of a look-up
        for shift, members in excluded[len(packed)].items():
            if number >> shift in members:
                return False
        for shift, members in included[len(packed)].items():
            if number >> shift in members:
                if len(remembered) >= _REMEMBERED:
                    remembered.clear()
                remembered.add(name)
                return True
        return False

    def __repr__(self) -> str:
        count = len([network for network in self.networks if network != "unix"])
        networks = "1 network" if count == 1 else f"{count} networks"
        unix = " and UNIX sockets" if "unix" in self.networks else ""
        trusted, otherwise = self.trusted.name, self.otherwise.name
        return f"<{type(self).__name__}: {networks}{unix}, trusted={trusted}, otherwise={otherwise}>"


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the network that one entry of a list names, without its exclamation mark.

    Raises:
        ValueError: The entry is wrong. The message says what was probably meant.
    """
    sign, plain = ("!", text[1:].lstrip()) if text.startswith("!") else ("", text)
    try:
        if not text:
            raise ValueError("an entry is empty")
        if len(text) > _LONGEST:
            raise ValueError(f"it has {len(text):,} characters")
        if trusts_all(text):
            raise ValueError("it means everybody, and stands alone")
        if text.startswith("@"):
            raise ValueError("for a list in a file, use policy=TrustedProxiesFile(path)")
        if "%" in text:
            raise ValueError("its zone would be ignored, which would trust the address on every link")
        if "\0" in text:  # where PyPy's inet_pton() stops reading
            raise ValueError("it contains a NUL")
        try:
            return ipaddress.ip_network(plain, strict=True)
        except ValueError:
            meant = ipaddress.ip_network(plain, strict=False)  # raises another ValueError if more is wrong
            raise ValueError(f"it has host bits set; did you mean {sign}{meant}?") from None
    except ValueError as error:
        raise ValueError(
            f"A trusted proxy is an address, a network without host bits, or 'unix', not {text[:_LONGEST]!a} ({error})"
        ) from None


def trusts_all(networks: object) -> bool:
    """Return whether a value of ``trusted`` is the word that trusts everybody."""
    return isinstance(networks, str) and networks.strip().lower() == ANY


def describe_networks(networks: Sequence[str]) -> str:
    """Return the first five networks for a log line, and how many more there are."""
    more = f" and {len(networks) - _SHOWN} more" if len(networks) > _SHOWN else ""
    return ", ".join(networks[:_SHOWN]) + more


def trusts_a_family(networks: Iterable[str]) -> bool:
    """Return whether one of the networks holds all addresses of IPv4, or of IPv6."""
    included = [network for network in networks if "/" in network and not network.startswith("!")]
    return any(not network.partition("/")[2].strip("0.") for network in included)


def lets_plain_in(policy: HeaderPolicy | PolicyCallable) -> bool:
    """Return whether *policy* may accept peers without a header; true for a function, which may return anything."""
    if isinstance(policy, TrustedProxies):
        return lets_plain_in(policy.trusted) or lets_plain_in(policy.otherwise)
    return not isinstance(policy, HeaderPolicy) or policy in (HeaderPolicy.OPTIONAL, HeaderPolicy.SKIP)


class _Given(tuple[str, ...]):
    """The networks of ``trusted=``. Copies of a receiver share it, so that none parses the networks again."""

    policies: dict[HeaderPolicy, TrustedProxies]


def combine(
    trusted: str | Iterable[Network] | None, policy: HeaderPolicy | PolicyCallable
) -> tuple[str | Iterable[Network] | None, HeaderPolicy | PolicyCallable]:
    """Return the value of ``trusted=`` as a receiver keeps it, and the policy that both arguments make.

    Raises:
        TypeError, ValueError: One of them is wrong, or they contradict each other.
    """
    _check_policy(policy)
    if trusted is None:
        return None, policy
    if not isinstance(policy, HeaderPolicy):
        raise TypeError("trusted= and a policy function both decide whom to trust: give one of the two")
    if trusts_all(trusted):
        return ANY, policy
    if policy not in _FOR_TRUSTED:
        raise ValueError(f"policy must be REQUIRE, OPTIONAL or IGNORE beside trusted=, not {policy.name}")
    if not isinstance(trusted, _Given):
        made = TrustedProxies(trusted, trusted=policy)
        trusted = _Given(made.networks)
        trusted.policies = {policy: made}
    elif policy not in trusted.policies:
        trusted.policies[policy] = TrustedProxies(trusted, trusted=policy)
    return trusted, trusted.policies[policy]


def _check_policy(policy: object) -> None:
    """Raise TypeError if *policy* is neither a policy nor a function that may return one."""
    if isinstance(policy, HeaderPolicy) or (callable(policy) and not isinstance(policy, type)):
        return
    hint = ""
    if isinstance(policy, str) and policy.upper() in HeaderPolicy.__members__:
        hint = f"; did you mean HeaderPolicy.{policy.upper()}?"
    elif isinstance(policy, Iterable) and not isinstance(policy, type):
        hint = f"; give networks as trusted={repr(policy) if isinstance(policy, (str, Collection)) else '[...]'}"
    raise TypeError(f"policy must be a HeaderPolicy or a function that returns one, not {policy!r}{hint}")
