"""The sentences about refusals and misspelt names. They name options as the user spelled them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, Final, TypeVar

from proxyprotocol.errors import ProxyProtocolError, ProxyProtocolTimeoutError, RefusalCode, drop_tracebacks
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr

__all__ = [
    "check_keywords",
    "describe_refusal",
    "describe_unknown",
    "find_similar",
    "names_unknown_keywords",
    "printable",
    "spell_keyword",
]

_T = TypeVar("_T")

_SEND: Final = "if {peer} is your proxy, make it send the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on)"
_BROKEN: Final = "{peer} sends no header, or a broken one: see its bytes with tcpdump and proxyprotocol decode"
# What to do about a refusal. The braces hold the peer, and names of options, to be spelled as the user wrote them.
_REMEDIES: Final[Mapping[RefusalCode, str]] = {
    RefusalCode.UNTRUSTED: "if it is your proxy, add {entry} to {trusted}",
    RefusalCode.NO_HEADER: f"{_SEND}; see {{policy}}",
    RefusalCode.VERSION: "see {version}",
    RefusalCode.MALFORMED: _BROKEN,
    RefusalCode.LIMIT: _BROKEN,
    RefusalCode.CHECKSUM: "{peer}, or something on the way, damaged the header: see its bytes with tcpdump",
    RefusalCode.INCOMPLETE: "look into the log of {peer}: it ended the connection too early",
    RefusalCode.TIMEOUT: "see {timeout}",
    RefusalCode.INVALID: "see {validate}",
}
_REMEDIED: Final = ("ipv4_in_tcp6", "max_header", "policy", "timeout", "trusted", "validate", "version")
_MOST: Final = 800  # characters of a reason, which may quote the peer: a line of syslog has 1,024
_KEYWORDS: Final = {"version": "pp", "ipv4_in_tcp6": "pp=ProxyProtocolV1(ipv4_in_tcp6=True)"}


def spell_keyword(option: str) -> str:
    """Return the keyword of an option; endpoint strings and environment variables spell options in another way."""
    return _KEYWORDS.get(option, option)


def describe_refusal(
    error: ProxyProtocolError,
    peer: SockAddr,
    what: str = "a connection",
    *,
    listener: str = "",
    spell: Callable[[str], str] = spell_keyword,
) -> str:
    """Return the log line for a refused connection: why, and what to do. This drops the error's tracebacks.

    Args:
        error: The reason. The line shows the peer's bytes escaped.
        peer: The address that connected, as the socket module gives it.
        what: What was refused.
        listener: The address that the peer connected to.
        spell: Returns the name of an option as its user wrote it.
    """
    drop_tracebacks(error)
    where = f" on {listener}" if listener else ""
    remedy = _REMEDIES.get(error.code, "")
    if error.code is RefusalCode.MALFORMED and getattr(error, "offset", None) is None:
        remedy = ""  # no byte is wrong: the sentence is about this server
    if error.option:
        remedy = f"see {{{error.option}}}"
    elif isinstance(error, ProxyProtocolTimeoutError) and not error.received:
        remedy = _REMEDIES[RefusalCode.NO_HEADER]
    words = {
        "peer": str(peer[0]) if isinstance(peer, (tuple, list)) and peer else "the peer",
        "entry": "unix" if isinstance(peer, (str, bytes)) and "UNIX socket" in (listener or "UNIX socket") else "it",
    }
    remedy = remedy.format_map({**words, **{option: spell(option) for option in _REMEDIED}})
    return f"Refused {what} from {describe_address(peer)}{where}: {printable(str(error))}{remedy and '; '}{remedy}"


def printable(text: str) -> str:
    """Return a text for one log line: its first 800 characters, with control characters escaped."""
    shown = text[:_MOST]
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in shown)[:_MOST]
    return shown if len(text) <= _MOST else f"{shown}..."


def find_similar(name: str, known: Collection[str], prefix: str = "") -> str | None:
    """Return the known name that is most similar to *name*, from the arguments of :func:`describe_unknown`."""

    def plain(text: str) -> str:
        return text.lower().replace("_", "").replace("-", "").removeprefix(prefix)

    names = {plain(entry): entry for entry in known}
    similar = difflib.get_close_matches(plain(name), names, 1)
    return names[similar[0]] if similar else None


def describe_unknown(what: str, name: str, known: Collection[str], prefix: str = "") -> str:
    """Return the sentence for an unknown name, with the most similar known one, or with all of them.

    Args:
        what: What the name stands for, such as a keyword.
        name: The unknown name.
        known: The known names.
        prefix: What all names begin with; it makes no name more similar to another.
    """
    similar = find_similar(name, known, prefix)
    return f"unknown {what} {name}; " + (f"did you mean {similar}?" if similar else f"known are {', '.join(known)}")


def check_keywords(kind: Any, keywords: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raise TypeError for a keyword that neither the constructor of a dataclass takes, nor its caller."""
    names = [entry.name for entry in fields(kind) if entry.init]
    for name in keywords:
        if name not in names:
            raise TypeError(describe_unknown("keyword", name, [*names, *others]))


def names_unknown_keywords(kind: type[_T]) -> type[_T]:
    """Let the constructor of a dataclass say which keyword was probably meant."""
    construct: Any = kind.__init__

    @wraps(construct)
    def checked(self: Any, *arguments: Any, **keywords: Any) -> None:
        check_keywords(kind, keywords)
        construct(self, *arguments, **keywords)

    kind.__init__ = checked  # type: ignore[method-assign]
    return kind
