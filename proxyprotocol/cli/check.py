"""``proxyprotocol check``: does a server want a header, and which versions does it take?"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from proxyprotocol._wire import spec
from proxyprotocol.cli._check.probe import Outcome, Target, ask
from proxyprotocol.cli._decode.hexdump import read_escapes
from proxyprotocol.cli._decode.show import bold, green, red
from proxyprotocol.result import ProxyResult, ProxyResultLocal, ProxyResultUnknown
from proxyprotocol.server._process.program import BAD_ANSWER, escape, number
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["add_arguments", "run"]

_DESCRIPTION: Final = """\
Find out whether a server wants a PROXY protocol header, and which versions it
takes: connect to it a few times, with headers that name this machine itself,
and compare its answers. Exit status 0: it takes a header of at least one
version; 1: it takes none, or its answers do not show it; 2: nothing answers.
"""
_EXAMPLES: Final = """\
examples:
  %(prog)s app.example:8080
  %(prog)s --tls app.example:443
  %(prog)s --send 'PING\\r\\n' '[::1]:6379'
"""
_SEND_HELP: Final = (
    "what to send after the header so that the server answers, with escapes such as \\r\\n; by default an HTTP "
    "request, or nothing to a server that speaks first"
)
# Seconds in which a server that speaks first must begin, within the time-out.
_FIRST_WORD: Final = 1.0
_LONGEST: Final = 10_000  # seconds; a socket cannot wait for more than a month
_ADDRESS: Final = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[0-9]{1,5})")
# How often to ask a server again that speaks first: its greeting may come before or after it reads the header.
_ROUNDS: Final = 3
_VARIES: Final = "It answers the same bytes differently each time: no conclusion is possible."

_V1: Final = ProxyProtocolV1()
_V2: Final = ProxyProtocolV2()


def _wrong_v2(own: ProxyResult) -> bytes:
    header = bytearray(_V2.pack(own))
    # Another version number, which every receiver must check. It is ASCII too: to other servers it makes no difference.
    header[spec.V2_COMMAND_AT] ^= 0x60
    return bytes(header)


_WITHOUT: Final = "without a header"
_VERSIONS: Final = ("version 1", "version 2")
_WRONG: Final = {version: f"{version}, wrong" for version in _VERSIONS}
_UNKNOWN: Final = "version 1, UNKNOWN"
_LOCAL: Final = "version 2, LOCAL"
# each takes the ends of the connection
_PROBES: Final[Mapping[str, Callable[[ProxyResult], bytes]]] = {
    _WITHOUT: lambda own: b"",
    "version 1": _V1.pack,
    _UNKNOWN: lambda own: _V1.pack(ProxyResultUnknown()),
    _WRONG["version 1"]: lambda own: _V1.pack(own).replace(b"TCP", b"TCX", 1),
    "version 2": _V2.pack,
    _LOCAL: lambda own: _V2.pack(ProxyResultLocal()),
    _WRONG["version 2"]: _wrong_v2,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to a parser."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    parser.add_argument(
        "server", metavar="HOST:PORT", type=_server, help="the server; write an IPv6 address in brackets"
    )
    parser.add_argument(
        "--tls", action="store_true", help="start TLS after the header, without a check of certificates"
    )
    parser.add_argument("--send", metavar="TEXT", type=read_escapes, help=_SEND_HELP)
    seconds = number(float, 0.001, _LONGEST, f"expected a number of seconds above 0, up to {_LONGEST}")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=3.0, help="how long each connection may take (3)"
    )


def run(options: argparse.Namespace) -> int:
    """Check a server, and return 0 if it takes a header, else 1."""
    host, port = options.server
    target = Target(host, port, options.send or b"", options.tls, options.timeout)
    silent = target._replace(message=b"", tls=False, timeout=min(_FIRST_WORD, target.timeout))
    first = ask(silent, _PROBES[_WITHOUT])
    print(bold(escape(f"{host}, port {port}{first.peer and f' ({first.peer})'}")), flush=True)
    target = target._replace(greets=bool(first.answer))
    if not (options.tls or options.send is not None or first.answer):
        name = f"[{host}]" if ":" in host else host
        request = f"GET / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: proxyprotocol\r\nConnection: close\r\n\r\n"
        target = target._replace(message=request.encode("ascii", "replace"))
    outcomes: dict[str, Outcome] = {}
    for name, header in _PROBES.items():
        outcomes[name] = ask(target, header)
        print(f"  {name:<20}{outcomes[name].describe(outcomes[_WITHOUT])}", flush=True)
    taken = [version for version in _VERSIONS if _takes(outcomes[version], outcomes[_WRONG[version]])]
    changed = _changed(target, outcomes, taken)
    if changed:
        taken = []
    # A server that greets a silent client does not wait for a header. If only its answers to headers vary, it reads
    # them as client data, sometimes before its greeting and sometimes after.
    varies = bool(changed) and (_WITHOUT in changed or not target.greets)
    print()
    for sentence in [red(_VARIES)] if varies else _conclude(first, outcomes, taken):
        print(sentence)
    return 0 if taken else BAD_ANSWER


def _takes(outcome: Outcome, wrong: Outcome) -> bool:
    """Return whether the server read the header as one: only then does it answer a wrong header differently."""
    return outcome.answered and not (wrong.answered and wrong.shape == outcome.shape)


def _changed(target: Target, outcomes: Mapping[str, Outcome], taken: list[str]) -> set[str]:
    """Repeat the decisive probes. Return those with another answer: a server may limit connections, or race."""
    without = outcomes[_WITHOUT]
    if not (taken and without.answered) or (without.shape == outcomes[taken[0]].shape and not target.greets):
        return set()
    again = [_WITHOUT, taken[0], _WRONG[taken[0]]] * (_ROUNDS if target.greets else 1)
    return {name for name in again if ask(target, _PROBES[name]).shape != outcomes[name].shape}


def _conclude(first: Outcome, outcomes: Mapping[str, Outcome], taken: list[str]) -> Iterator[str]:
    without = outcomes[_WITHOUT]
    if taken:
        yield from _conclude_taken(outcomes, taken)
    elif not any(outcome.answered for outcome in outcomes.values()):
        yield red("It answered nothing, whatever was sent: no conclusion is possible.")
        if any(outcome.reason for outcome in outcomes.values()):
            yield "It does not seem to speak TLS: try without --tls."
        elif first.ending:
            yield "It closes connections before it reads. If it trusts only its proxies, run this on one of them."
        else:
            yield "It may want other bytes after the header (--send, --tls), or trust only its proxies."
    elif without.answered and all(outcome.shape == without.shape for outcome in outcomes.values()):
        yield red("It answers everything the same: no conclusion is possible. Try to send something else with --send.")
    elif without.answered:
        yield red("It wants no header: it answers without one, and treats a header as client data.")
    else:
        yield red("It takes no header: its answers show that it treats headers as client data.")


def _conclude_taken(outcomes: Mapping[str, Outcome], taken: list[str]) -> Iterator[str]:
    without, served = outcomes[_WITHOUT], outcomes[taken[0]]
    versions = "versions 1 and 2" if len(taken) == 2 else f"{taken[0]} only"
    if without.answered and without.shape == served.shape:
        yield green(f"It takes a header, {versions}, and connections without one too.")
        yield "Anyone who can reach it can claim to be any client: it should trust only its proxies."
    else:
        yield green(f"It wants a header, and takes {versions}. Without one it {without.describe(served)}.")
    for special, version, meaning in (
        (_LOCAL, "version 2", "LOCAL, which health checks send"),
        (_UNKNOWN, "version 1", "UNKNOWN, for clients without an IP address"),
    ):
        if version in taken:
            answer, proxied = outcomes[special], outcomes[version]
            is_served = answer.shape == proxied.shape
            yield f"{meaning}: {'served too' if is_served else f'not served, it {answer.describe(proxied)}'}."
    for version in taken:
        yield f"A wrong header of {version}: it {outcomes[_WRONG[version]].describe(outcomes[version])}."


def _server(text: str) -> tuple[str, int]:
    for written in (text, _repair(text)):
        match = _ADDRESS.fullmatch(written)
        if match is None or not 0 < int(match["port"]) <= spec.MAX_PORT:
            continue
        if written != text:
            raise argparse.ArgumentTypeError(
                f"expected a name or an address and a port, not {text!r}; did you mean {written}?"
            )
        return match["ipv6"] or match["host"], int(match["port"])
    raise argparse.ArgumentTypeError(
        f"expected a name or an address and a port, such as localhost:8080 or [::1]:8080, not {text!r}"
    )


def _repair(text: str) -> str:
    """Return what the user may have meant: the text without the rest of a URL, and with the brackets of IPv6."""
    scheme, _, rest = text.rpartition("://")
    host, colon, port = rest.partition("/")[0].rpartition(":")
    if not colon:
        host, port = port, {"http": "80", "https": "443"}.get(scheme, "")
    return f"[{host}]:{port}" if ":" in host.strip("[]") and host[0] != "[" else f"{host}:{port}"
