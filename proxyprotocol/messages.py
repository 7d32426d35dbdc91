"""The sentences about refusals and misspelt names. They name options as the user spelled them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, Final, TypeVar

from proxyprotocol.errors import ProxyProtocolError, RefusalCode, drop_tracebacks
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr

__all__ = [
    "check_keywords",
    "describe_refusal",
    "describe_unknown",
    "find_similar",
    "names_unknown_keywords",
    "spell_keyword",
]

_T = TypeVar("_T")

# What to do about a refusal. The braces hold names of options, to be spelled as the user wrote them.
_REMEDIES: Final[Mapping[RefusalCode, str]] = {
    RefusalCode.UNTRUSTED: "if it is your proxy, add it to {trusted}",
    RefusalCode.NO_HEADER: "if it is your proxy, let it send the header; see {policy}",
    RefusalCode.VERSION: "see {version}",
    RefusalCode.LIMIT: "see {max_header}",
    RefusalCode.TIMEOUT: "see {timeout}",
    RefusalCode.INVALID: "see {validate}",
}
_REMEDIED: Final = ("max_header", "policy", "timeout", "trusted", "validate", "version")


def spell_keyword(option: str) -> str:
    """Return the keyword of an option; endpoint strings and environment variables spell options in another way."""
    return "pp" if option == "version" else option


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
    remedy = _REMEDIES.get(error.code, "").format_map({option: spell(option) for option in _REMEDIED})
    return f"Refused {what} from {describe_address(peer)}{where}: {error}{remedy and '; '}{remedy}"


def find_similar(name: str, known: Collection[str], prefix: str = "") -> str | None:
    """Return the known name that is most similar to *name*, from the arguments of :func:`describe_unknown`."""

    def plain(text: str) -> str:
        return text.lower().replace("_", "").removeprefix(prefix)

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
