"""Receivers and senders from strings, as in endpoint strings, environment variables and the relay's addresses.

The options have the same names and values everywhere. Only the spelling differs: ``trusted`` is ``ppTrusted`` in an
endpoint string, and ``PROXYPROTOCOL_TRUSTED`` in the environment.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeAlias, TypeVar

from proxyprotocol._wire import fields, spec
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.messages import describe_unknown
from proxyprotocol.policy import ANY, HeaderPolicy, TrustedProxies, trusts_all
from proxyprotocol.receiver import Receiver
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6
from proxyprotocol.tlv import ProxyProtocolTLV, Type
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
    "parse_receiver",
    "parse_sender",
    "parse_tls_timeout",
    "parse_tlv",
    "parse_tlv_type",
    "read_environment",
    "spell_option",
    "spell_variable",
]

_T = TypeVar("_T")
_Number: TypeAlias = "tuple[re.Pattern[str], Callable[[str], float], float]"  # pattern, reader, least value

_VERSIONS: dict[str, ProxyProtocol] = {name: ProxyProtocolVersion.get(name) for name in ("detect", "v1", "v2")}
_SENT_VERSIONS = {name: _VERSIONS[name] for name in ("v1", "v2")}
_MIXED_V1 = ProxyProtocolV1(ipv4_in_tcp6=True)
_MIXED_VERSIONS = {"detect": ProxyProtocolDetect(ProxyProtocolV2(), _MIXED_V1), "v1": _MIXED_V1}
_POLICIES = {policy.value: policy for policy in (HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE)}
_UNTRUSTED = {"reject": HeaderPolicy.REJECT, "direct": HeaderPolicy.SKIP}
# Patterns, because int() and float() also accept signs, underscores and white space, and IPv6Address() a zone.
_SECONDS: _Number = (re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?"), float, 1e-9)  # 1e-9 is the least that the pattern allows
_BYTES: _Number = (re.compile(r"[0-9]{1,9}"), int, spec.V2_FIXED_LENGTH)
_NUMBERS = {"timeout": _SECONDS, "tls_timeout": _SECONDS, "max_header": _BYTES}
# For text like netns: the names in Type without PP2_TYPE_, and the labels of the rows.
_TLV_TYPES = {name[9:].lower(): int(kind) for name, kind in Type.__members__.items() if name[:9] == "PP2_TYPE_"}
_TLV_TYPES.update({field.label.lower(): field.number for field in fields.rows(ProxyProtocolTLV).values()})
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<ipv4>[0-9.]+)):(?P<port>0|[1-9][0-9]{0,4})")

#: The values of an option that is on or off.
YES_NO: Mapping[str, bool] = {"yes": True, "no": False}

#: The options of a server, each with its valid values. All except ``tls_timeout`` belong to the receiver.
OPTIONS: Mapping[str, str] = {
    "version": "detect, v1 or v2",
    "trusted": "networks, addresses and unix, with commas between them, @FILE, or any",
    "untrusted": "reject or direct",
    "policy": "require, optional or ignore",
    "timeout": "a number of seconds above 0",
    "max_header": "a number of bytes, at least 16",
    "ipv4_in_tcp6": "yes or no",
    "tls_timeout": "a number of seconds above 0",
}

#: The options of a client, each with its valid values.
SENDER_OPTIONS: Mapping[str, str] = {
    "version": "v1 or v2",
    "source": "an IP address and a port, such as 203.0.113.7:5678 or [2001:db8::1]:443",
    "dest": "an IP address and a port, such as 198.51.100.9:443 or [2001:db8::2]:443",
}


#: The beginning of every environment variable of this package.
PREFIX: Final = "PROXYPROTOCOL_"
# Kubernetes sets these in each pod beside a service called proxyprotocol or proxy-protocol.
_KUBERNETES: Final = re.compile(r"PROXY_?PROTOCOL_(SERVICE_(HOST|PORT)(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.+)?)")
_KUBERNETES_PORT: Final = re.compile(r"PROXY_?PROTOCOL_PORT=(tcp|udp|sctp)://.*")
_SIMILAR: Final = 0.9  # how similar whole names are, for difflib: a slip or two


def spell_option(option: str) -> str:
    """Return the command-line option of an option: ``max_header`` is ``--max-header``."""
    return "--" + option.replace("_", "-")


def spell_variable(option: str) -> str:
    """Return the environment variable of an option: ``max_header`` is ``PROXYPROTOCOL_MAX_HEADER``."""
    return PREFIX + option.upper()


def _plain(name: str) -> str:
    return name.upper().replace("_", "").replace("-", "")


def read_environment(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Return the values of our environment variables, by the names of :data:`OPTIONS`.

    Args:
        environment: All environment variables.
        more: The names of more options.

    Raises:
        ValueError: A variable looks like one of these and is not. We must not ignore it: after a slip in the name of
            ``PROXYPROTOCOL_TRUSTED`` everybody would be trusted.
    """
    options = {spell_variable(option): option for option in (*OPTIONS, *more)}
    known = {_plain(name): name for name in options}
    for name, value in environment.items():
        if name in options or _KUBERNETES.fullmatch(name) or _KUBERNETES_PORT.fullmatch(f"{name}={value}"):
            continue
        if _plain(name).startswith(_plain(PREFIX)):
            raise ValueError(describe_unknown("environment variable", name, options, "proxyprotocol"))
        for similar in difflib.get_close_matches(_plain(name), known, 1, _SIMILAR):  # the slip may be in the prefix
            raise ValueError(f"unknown environment variable {name}; did you mean {known[similar]}?")
    return {option: environment[name] for name, option in options.items() if name in environment}


def parse_receiver(options: Mapping[str, str], spell: Callable[[str], str] = str) -> Receiver:
    """Make a receiver.

    Args:
        options: Values by the names of :data:`OPTIONS`. An option that is not there has its default. ``tls_timeout`` is
            ignored: it is for :func:`parse_tls_timeout`.
        spell: Returns the name of an option as the user wrote it, for messages.

    Raises:
        ValueError: A value is wrong, or ``untrusted`` is there without ``trusted``. The message names the option and
            its valid values.
    """
    policy = choose(spell("policy"), options.get("policy", "require"), _POLICIES)
    otherwise = choose(spell("untrusted"), options.get("untrusted", "reject"), _UNTRUSTED)
    keywords: dict[str, Any] = {"policy": policy, "spell": spell}
    if "trusted" in options:
        trusted = options["trusted"].strip()
        if trusts_all(trusted):
            keywords["trusted"] = ANY
            if "untrusted" in options:
                raise ValueError(f"{spell('untrusted')} means nothing with {spell('trusted')}={ANY}")
        else:
            if "@" in trusted and not trusted.startswith("@"):
                alone = f"{spell('trusted').removesuffix('=')}=@FILE"
                raise ValueError(f"{spell('trusted')}: a list in a file stands alone, as {alone}, not {trusted[:60]!r}")
            kind, networks = (TrustedProxiesFile, trusted[1:]) if trusted.startswith("@") else (TrustedProxies, trusted)
            try:
                keywords["policy"] = kind(networks, trusted=policy, otherwise=otherwise)
            except (OSError, ValueError) as error:
                raise ValueError(f"{spell('trusted')} takes {OPTIONS['trusted']}: {error}") from None
    elif "untrusted" in options:
        raise ValueError(f"{spell('untrusted')} needs {spell('trusted')}, which names the proxies to trust")
    if "version" in options:
        if options["version"].lower() == "spp":
            raise ValueError(
                f"{spell('version')} takes {OPTIONS['version']}: spp is only for datagrams, which take "
                "pp=ProxyProtocolSPP() in code"
            )
        keywords["pp"] = choose(spell("version"), options["version"], _VERSIONS)
    if choose(spell("ipv4_in_tcp6"), options.get("ipv4_in_tcp6", "no"), YES_NO):
        version = options.get("version", "detect").lower()
        if version not in _MIXED_VERSIONS:
            raise ValueError(f"{spell('ipv4_in_tcp6')} is only for version 1, but {spell('version')} is {version}")
        keywords["pp"] = _MIXED_VERSIONS[version]
    keywords |= {name: _number(options, name, spell) for name in ("timeout", "max_header") if name in options}
    return Receiver(**keywords)


def parse_tls_timeout(options: Mapping[str, str], spell: Callable[[str], str] = str) -> float:
    """Return how many seconds a TLS handshake may take, from the arguments of :func:`parse_receiver`."""
    return _number(options, "tls_timeout", spell) if "tls_timeout" in options else spec.DEFAULT_TLS_TIMEOUT


def _number(options: Mapping[str, str], name: str, spell: Callable[[str], str]) -> float:
    pattern, read, least = _NUMBERS[name]
    if pattern.fullmatch(options[name]) and read(options[name]) >= least:
        return read(options[name])
    raise ValueError(f"{spell(name)} takes {OPTIONS[name]}, not {options[name]!r}")


def parse_sender(
    options: Mapping[str, str], spell: Callable[[str], str] = str
) -> tuple[ProxyProtocol, ProxyResult | None]:
    """Return what a client sends at the start of its connections.

    Args:
        options: Values by the names of :data:`SENDER_OPTIONS`. An option that is not there has its default.
        spell: As for :func:`parse_receiver`.

    Returns:
        The codec, and what the header says: None for a client that speaks for itself.

    Raises:
        ValueError: A value is wrong, an address is missing, or the addresses are of different families.
    """
    codec = choose(spell("version"), options.get("version", "v2"), _SENT_VERSIONS)
    missing = [name for name in ("source", "dest") if name not in options]
    if len(missing) == 2:
        return codec, None
    if missing:
        raise ValueError(
            f"{spell('source')} and {spell('dest')} need each other: {spell(missing[0])} is missing. It takes "
            f"{SENDER_OPTIONS[missing[0]]}"
        )
    ends: list[tuple[Any, int]] = []
    for name in ("source", "dest"):
        parts = _ADDRESS.fullmatch(options[name])
        try:
            if parts is None or int(parts["port"]) > spec.MAX_PORT:
                raise ValueError
            host = IPv6Address(parts["ipv6"]) if parts["ipv6"] else IPv4Address(parts["ipv4"])
        except ValueError:
            raise ValueError(f"{spell(name)} takes {SENDER_OPTIONS[name]}, not {options[name]!r}") from None
        ends.append((host, int(parts["port"])))
    families = {type(host) for host, _ in ends}
    if len(families) > 1:
        raise ValueError(
            f"{spell('source')} and {spell('dest')} take addresses of one family, not {options['source']!r} and "
            f"{options['dest']!r}"
        )
    return codec, (ProxyResultIPv4 if IPv4Address in families else ProxyResultIPv6)(*ends)


def parse_tlv_type(text: str) -> int:
    """Return the type of a TLV that *text* names: a number such as ``0xE2``, or a name such as ``netns``.

    Raises:
        ValueError: There is no such type. The message names the most similar one.
    """
    kind = _TLV_TYPES.get(text.lower().replace("-", "_"))
    try:
        return fields.number(8).parse(text) if kind is None else kind
    except ValueError:
        sentence = describe_unknown("type", text, _TLV_TYPES).partition("; known")[0]
        raise ValueError(f"expected a number of 0 to 255, such as 0xE2, or a name: {sentence}") from None


def parse_tlv(kind: str, value: str) -> tuple[int, bytes]:
    """Return the type and the bytes of a TLV.

    Args:
        kind: The type, as for :func:`parse_tlv_type`.
        value: Text, or ``0x`` and hexadecimal digits.

    Raises:
        ValueError: One of them is wrong. The message says what it takes.
    """
    number = parse_tlv_type(kind)
    try:
        return number, bytes.fromhex(value[2:]) if value.startswith("0x") else value.encode()
    except ValueError:
        raise ValueError(f"expected pairs of hexadecimal digits after 0x, not {value[2:]!r}") from None


def choose(option: str, value: str, choices: Mapping[str, _T]) -> _T:
    """Return the choice that *value* names, in upper or lower case.

    Raises:
        ValueError: No choice has this name. The message says what *option* takes.
    """
    try:
        return choices[value.lower()]
    except KeyError:
        *most, last = choices
        takes = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{option} takes {takes}, not {value!r}") from None
