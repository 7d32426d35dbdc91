"""A Receiver, and what a client sends, from strings, as endpoint strings and environment variables give them.

The options have the same names and values everywhere, only their spelling differs: ``trusted`` is ``ppTrusted`` in an
endpoint string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeVar

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.policy import ANY, HeaderPolicy, TrustedProxies
from proxyprotocol.receiver import Receiver, describe_unknown
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6
from proxyprotocol.trustfile import TrustedProxiesFile
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2
from proxyprotocol.version import ProxyProtocolVersion

__all__ = [
    "OPTIONS",
    "PREFIX",
    "SENDER_OPTIONS",
    "YES_NO",
    "choose",
    "describe_risk",
    "parse_receiver",
    "parse_sender",
    "parse_tls_timeout",
    "read_environment",
    "spell_variable",
]

_T = TypeVar("_T")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<ipv4>[0-9.]+)):(?P<port>0|[1-9][0-9]{0,4})")

_VERSIONS: dict[str, ProxyProtocol] = {name: ProxyProtocolVersion.get(name) for name in ("detect", "v1", "v2")}
_MIXED_V1 = ProxyProtocolV1(ipv4_in_tcp6=True)
# the versions that accept IPv4 in TCP6 lines
_MIXED_VERSIONS: dict[str, ProxyProtocol] = {
    "detect": ProxyProtocolDetect(ProxyProtocolV2(), _MIXED_V1),
    "v1": _MIXED_V1,
}
_SENT_VERSIONS = {name: _VERSIONS[name] for name in ("v1", "v2")}
_POLICIES = {policy.value: policy for policy in (HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE)}
_UNTRUSTED = {"reject": HeaderPolicy.REJECT, "direct": HeaderPolicy.SKIP}

#: The values of an option that is on or off.
YES_NO: Mapping[str, bool] = {"yes": True, "no": False}

#: The options of a server, each with what it takes. All but ``tls_timeout`` are its receiver's.
OPTIONS: Mapping[str, str] = {
    "version": "detect, v1 or v2",
    "trusted": "networks, addresses and unix, with commas between them, @FILE, or any",
    "untrusted": "reject or direct",
    "policy": "require, optional or ignore",
    "timeout": "a number of seconds above 0",
    "max_header": "a number of bytes, 16 at least",
    "ipv4_in_tcp6": "yes or no",
    "tls_timeout": "a number of seconds above 0",
}

#: The options of a client, each with what it takes.
SENDER_OPTIONS: Mapping[str, str] = {
    "version": "v1 or v2",
    "source": "an IP address and a port, such as 203.0.113.7:5678 or [2001:db8::1]:443",
    "dest": "an IP address and a port, such as 198.51.100.9:443 or [2001:db8::2]:443",
}


#: What every environment variable of this package begins with.
PREFIX: Final = "PROXYPROTOCOL_"
# Kubernetes sets these in each pod beside a service called proxyprotocol or proxy-protocol.
_KUBERNETES: Final = re.compile(r"PROXY_?PROTOCOL_(SERVICE_(HOST|PORT)(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.+)?)")
_KUBERNETES_PORT: Final = re.compile(r"(tcp|udp|sctp)://.*")


def spell_variable(option: str) -> str:
    """Return the environment variable of an option: ``max_header`` is ``PROXYPROTOCOL_MAX_HEADER``."""
    return PREFIX + option.upper()


def read_environment(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Return the values of our environment variables, by the names of :data:`OPTIONS`.

    Args:
        environment: All environment variables.
        more: The names of more options.

    Raises:
        ValueError: A variable looks like one of ours and is not. We must not ignore it: after a slip in the name of
            ``PROXYPROTOCOL_TRUSTED`` everybody would be trusted.
    """
    options = {spell_variable(option): option for option in (*OPTIONS, *more)}
    for name, value in environment.items():
        looks_ours = name.upper().replace("_", "").startswith(PREFIX.rstrip("_"))
        kubernetes = _KUBERNETES.fullmatch(name) or _KUBERNETES_PORT.fullmatch(value)
        if looks_ours and name not in options and not kubernetes:
            raise ValueError(describe_unknown("environment variable", name, options, "proxyprotocol"))
    return {option: environment[name] for name, option in options.items() if name in environment}


def parse_receiver(options: Mapping[str, str], spell: Callable[[str], str] = str) -> Receiver:
    """Make a receiver.

    Args:
        options: Values by the names of :data:`OPTIONS`; what is not there has its default, and ``tls_timeout`` is for
            :func:`parse_tls_timeout`.
        spell: Gives the name of an option as its user wrote it, for messages.

    Raises:
        ValueError: A value is wrong, or untrusted peers are spoken of where nobody is trusted. The message names the
            option and what it takes.
    """
    keywords: dict[str, Any] = {**_policy(options, spell), "spell": spell}
    if "version" in options:
        keywords["pp"] = choose(spell("version"), options["version"], _VERSIONS)
    if choose(spell("ipv4_in_tcp6"), options.get("ipv4_in_tcp6", "no"), YES_NO):
        version = options.get("version", "detect").lower()
        if version not in _MIXED_VERSIONS:
            raise ValueError(
                f"{spell('ipv4_in_tcp6')} is about lines of version 1, and {spell('version')} reads {version} alone"
            )
        keywords["pp"] = _MIXED_VERSIONS[version]
    if "timeout" in options:
        keywords["timeout"] = _number(options, "timeout", float, spell)
    if "max_header" in options:
        keywords["max_header"] = _number(options, "max_header", int, spell)
    return Receiver(**keywords)


def parse_tls_timeout(options: Mapping[str, str], spell: Callable[[str], str] = str) -> float:
    """Return how long a TLS handshake after the header may take, in seconds.

    Args:
        options: As :func:`parse_receiver` takes them.
        spell: Likewise.

    Raises:
        ValueError: The value is wrong. The message names the option and what it takes.
    """
    if "tls_timeout" not in options:
        return spec.DEFAULT_TLS_TIMEOUT
    return _number(options, "tls_timeout", float, spell)


def describe_risk(receiver: Receiver, spell: Callable[[str], str] = str) -> str | None:
    """Say what is dangerous about options of which none is wrong.

    That is an optional header from anybody: clients that connect directly are served, and may bring one of their own.
    It is no error, because a firewall may see to it that nobody else connects.

    Args:
        receiver: What :func:`parse_receiver` has made of them.
        spell: As it takes it.

    Returns:
        What the log is to say; None where there is nothing to say.
    """
    if receiver.policy is not HeaderPolicy.OPTIONAL:
        return None
    return (
        f"{spell('policy')} is optional without {spell('trusted')}: whoever connects may send a header, and claim any "
        f"address by it. Name the proxies in {spell('trusted')}."
    )


def _policy(options: Mapping[str, str], spell: Callable[[str], str]) -> dict[str, Any]:
    policy = choose(spell("policy"), options.get("policy", "require"), _POLICIES)
    otherwise = choose(spell("untrusted"), options.get("untrusted", "reject"), _UNTRUSTED)
    if "trusted" not in options:
        if "untrusted" in options:
            raise ValueError(f"{spell('untrusted')} means nothing without {spell('trusted')}: who is trusted?")
        return {"policy": policy}
    trusted = options["trusted"].strip()
    if trusted.lower() == ANY:
        if "untrusted" in options:
            raise ValueError(f"{spell('untrusted')} means nothing with {spell('trusted')}={ANY}: everybody is trusted")
        return {"policy": policy, "trusted": ANY}
    kind, networks = (TrustedProxiesFile, trusted[1:]) if trusted.startswith("@") else (TrustedProxies, trusted)
    try:
        return {"policy": kind(networks, trusted=policy, otherwise=otherwise)}
    except (OSError, ValueError) as error:
        raise ValueError(f"{spell('trusted')} takes {OPTIONS['trusted']}: {error}") from None


def _number(
    options: Mapping[str, str], name: str, convert: Callable[[str], float], spell: Callable[[str], str]
) -> float:
    try:
        # int() and float() alone take underscores, white space, and more
        if not _NUMBER.fullmatch(options[name]):
            raise ValueError
        number = convert(options[name])
        # knows the range; that of both time-outs is one
        Receiver(**{name.removeprefix("tls_"): number})  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(f"{spell(name)} takes {OPTIONS[name]}, not {options[name]!r}") from None
    return number


def parse_sender(
    options: Mapping[str, str], spell: Callable[[str], str] = str
) -> tuple[ProxyProtocol, ProxyResult | None]:
    """Say what a client sends in front of its connections.

    Args:
        options: Values by the names of :data:`SENDER_OPTIONS`; what is not there has its default.
        spell: Gives the name of an option as its user wrote it, for messages.

    Returns:
        The codec, and what the header says: None for a client that speaks for itself.

    Raises:
        ValueError: A value is wrong, or the two addresses are not both there and of one family. The message names the
            option and what it takes.
    """
    version = choose(spell("version"), options.get("version", "v2"), _SENT_VERSIONS)
    missing = [name for name in ("source", "dest") if name not in options]
    if len(missing) == 1:
        raise ValueError(
            f"{spell('source')} and {spell('dest')} are given together: {spell(missing[0])} is missing, which takes "
            f"{SENDER_OPTIONS[missing[0]]}"
        )
    return version, None if missing else _named_client(options, spell)


def _named_client(options: Mapping[str, str], spell: Callable[[str], str]) -> ProxyResult:
    (source, source_port), (dest, dest_port) = (_address(options, name, spell) for name in ("source", "dest"))
    if isinstance(source, IPv4Address) and isinstance(dest, IPv4Address):
        return ProxyResultIPv4((source, source_port), (dest, dest_port))
    if isinstance(source, IPv6Address) and isinstance(dest, IPv6Address):
        return ProxyResultIPv6((source, source_port), (dest, dest_port))
    raise ValueError(
        f"{spell('source')} and {spell('dest')} take addresses of one family, not {options['source']!r} and "
        f"{options['dest']!r}"
    )


def _address(
    options: Mapping[str, str], name: str, spell: Callable[[str], str]
) -> tuple[IPv4Address | IPv6Address, int]:
    try:
        parts = _ADDRESS.fullmatch(options[name])
        # IPv6Address() alone takes zones, which no header has room for
        if parts is None or int(parts["port"]) > spec.MAX_PORT:
            raise ValueError
        host = IPv6Address(parts["ipv6"]) if parts["ipv6"] else IPv4Address(parts["ipv4"])
    except ValueError:
        raise ValueError(f"{spell(name)} takes {SENDER_OPTIONS[name]}, not {options[name]!r}") from None
    return host, int(parts["port"])


def choose(option: str, value: str, choices: Mapping[str, _T]) -> _T:
    """Return what a value stands for.

    Args:
        option: The name of the option, for the message.
        value: The value, in upper or lower case.
        choices: What the values stand for.

    Raises:
        ValueError: The value is not one of the choices. The message names the option and what it takes.
    """
    try:
        return choices[value.lower()]
    except KeyError:
        *most, last = choices
        takes = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{option} takes {takes}, not {value!r}") from None
