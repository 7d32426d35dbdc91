"""Floor 3: a Receiver from strings, as endpoint strings and environment variables give them.

The options have the same names and values everywhere, only their spelling differs: ``trusted`` is ``ppTrusted`` in an
endpoint string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ._base import ProxyProtocol
from .policy import HeaderPolicy, PolicyCallable, TrustedProxies
from .receiver import Receiver
from .version import ProxyProtocolVersion

__all__ = ["OPTIONS", "choose", "parse_receiver"]

_T = TypeVar("_T")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")

_VERSIONS: dict[str, ProxyProtocol] = {name: ProxyProtocolVersion.get(name) for name in ("detect", "v1", "v2")}
_POLICIES = {policy.value: policy for policy in (HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE)}
_UNTRUSTED = {"reject": HeaderPolicy.REJECT, "direct": HeaderPolicy.SKIP}

#: The options of a receiver, each with what it takes.
OPTIONS: Mapping[str, str] = {
    "version": "detect, v1 or v2",
    "trusted": "networks, addresses and unix, with commas between them",
    "untrusted": "reject or direct",
    "policy": "require, optional or ignore",
    "timeout": "a number of seconds above 0",
    "max_header": "a number of bytes, 16 at least",
}


def parse_receiver(options: Mapping[str, str], spell: Callable[[str], str] = str) -> Receiver:
    """Make a receiver.

    Args:
        options: Values by the names of :data:`OPTIONS`; what is not there has its default.
        spell: Gives the name of an option as its user wrote it, for messages.

    Raises:
        ValueError: A value is wrong, or untrusted peers are spoken of where nobody is trusted. The message names the
            option and what it takes.
    """
    keywords: dict[str, Any] = {"policy": _policy(options, spell)}
    if "version" in options:
        keywords["pp"] = choose(spell("version"), options["version"], _VERSIONS)
    if "timeout" in options:
        keywords["timeout"] = _number(options, "timeout", float, spell)
    if "max_header" in options:
        keywords["max_header"] = _number(options, "max_header", int, spell)
    return Receiver(**keywords)


def _policy(options: Mapping[str, str], spell: Callable[[str], str]) -> HeaderPolicy | PolicyCallable:
    policy = choose(spell("policy"), options.get("policy", "require"), _POLICIES)
    otherwise = choose(spell("untrusted"), options.get("untrusted", "reject"), _UNTRUSTED)
    if "trusted" not in options:
        if "untrusted" in options:
            raise ValueError(f"{spell('untrusted')} means nothing without {spell('trusted')}: who is trusted?")
        return policy
    networks = [network.strip() for network in options["trusted"].split(",")]
    try:
        return TrustedProxies(networks, trusted=policy, otherwise=otherwise)
    except ValueError as error:
        raise ValueError(f"{spell('trusted')} takes {OPTIONS['trusted']}: {error}") from None


def _number(
    options: Mapping[str, str], name: str, convert: Callable[[str], float], spell: Callable[[str], str]
) -> float:
    try:
        # int() and float() alone take underscores, white space, and more
        if not _NUMBER.fullmatch(options[name]):
            raise ValueError
        number = convert(options[name])
        Receiver(**{name: number})  # type: ignore[arg-type]  # knows the range
    except ValueError:
        raise ValueError(f"{spell(name)} takes {OPTIONS[name]}, not {options[name]!r}") from None
    return number


def choose(option: str, value: str, choices: Mapping[str, _T]) -> _T:
    """Give what a value stands for.

    Args:
        option: The name of the option, for the message.
        value: The value, in upper or lower case.
        choices: What the values stand for.

    Raises:
        ValueError: The value is none of the choices. The message names the option and what it takes.
    """
    try:
        return choices[value.lower()]
    except KeyError:
        *most, last = choices
        takes = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{option} takes {takes}, not {value!r}") from None
