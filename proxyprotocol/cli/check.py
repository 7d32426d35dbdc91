"""``proxyprotocol check``: does a server want a header, and which versions does it take?"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from proxyprotocol._wire import spec
from proxyprotocol.cli._check.probe import Outcome, Target, connect, probe
from proxyprotocol.cli._decode.hexdump import read_escapes
from proxyprotocol.cli._decode.show import bold, green, red
from proxyprotocol.result import ProxyResult, ProxyResultLocal, ProxyResultUnknown
from proxyprotocol.server._process.program import BAD_ANSWER, escape, number
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["add_arguments", "run"]

_DESCRIPTION: Final = """\
Find out whether a server wants a PROXY protocol header, and which versions it takes: connect to it a few times, with
headers that name this machine itself, and compare its answers. Exit status 0: it takes a header of at least one
version;
1: it takes none, or its answers do not show it; 2: nobody answers there.
"""
_SEND_HELP: Final = (
    "what to send after the header so that the server answers, with escapes such as \\r\\n; by default an HTTP "
    "request, or nothing to a server that speaks first"
)
# Seconds in which a server that speaks first must begin, within the time-out.
_FIRST_WORD: Final = 1.0
_LONGEST: Final = 10_000  # seconds; a socket cannot wait for more than a month
_ADDRESS: Final = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[0-9]{1,5})")

_V1: Final = ProxyProtocolV1()
_V2: Final = ProxyProtocolV2()


class _Probe(NamedTuple):
    name: str
    header: Callable[[ProxyResult], bytes]


def _wrong_v1(own: ProxyResult) -> bytes:
    return _V1.pack(own).replace(b"TCP", b"TCX", 1)


def _wrong_v2(own: ProxyResult) -> bytes:
    header = bytearray(_V2.pack(own))
    # Another version number, which every receiver must check. It is ASCII too: to other servers it makes no difference.
    header[spec.V2_COMMAND_AT] ^= 0x60
    return bytes(header)


_WITHOUT: Final = _Probe("without a header", lambda own: b"")
_VERSION_1: Final = _Probe("version 1", _V1.pack)
_VERSION_2: Final = _Probe("version 2", _V2.pack)
_LOCAL: Final = _Probe("version 2, LOCAL", lambda own: _V2.pack(ProxyResultLocal()))
_UNKNOWN: Final = _Probe("version 1, UNKNOWN", lambda own: _V1.pack(ProxyResultUnknown()))
_WRONG_V1: Final = _Probe("version 1, wrong", _wrong_v1)
_WRONG_V2: Final = _Probe("version 2, wrong", _wrong_v2)
_PROBES: Final = (_WITHOUT, _VERSION_1, _UNKNOWN, _WRONG_V1, _VERSION_2, _LOCAL, _WRONG_V2)

_WRONG: Final = {_VERSION_1: _WRONG_V1, _VERSION_2: _WRONG_V2}
_VARIES: Final = "It answers the same bytes differently each time: no conclusion is possible."

# How often to ask a server again that speaks first: its greeting may come before or after it reads the header.
_ROUNDS: Final = 3

_Outcomes = dict[_Probe, Outcome]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to a parser."""
    parser.description = _DESCRIPTION
    parser.add_argument("server", metavar="HOST:PORT", type=_server, help="the server; an IPv6 address in brackets")
    parser.add_argument("--tls", action="store_true", help="speak TLS after the header; certificates are not checked")
    parser.add_argument("--send", metavar="TEXT", type=read_escapes, help=_SEND_HELP)
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=3.0, help="how long each connection may take (3)"
    )


def run(options: argparse.Namespace) -> int:
    """Check a server, and return 0 if it takes a header, else 1."""
    host, port = options.server
    target = Target(host, port, options.send or b"", options.tls, options.timeout)
    first = _listen_first(target)
    target = target._replace(greets=bool(first.answer))
    if not (options.tls or options.send is not None or first.answer):
        target = target._replace(message=_request(host))
    outcomes: _Outcomes = {}
    for each in _PROBES:
        outcomes[each] = _ask(target, each)
        print(f"  {each.name:<20}{outcomes[each].describe(outcomes[_WITHOUT])}", flush=True)
    taken = [version for version in _WRONG if _takes(version, outcomes)]
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


def _ask(target: Target, which: _Probe) -> Outcome:
    with connect(target) as connection:
        return probe(connection, target, which.header)


def _listen_first(target: Target) -> Outcome:
    """Return what the server says if the client says nothing."""
    silent = target._replace(message=b"", tls=False, timeout=min(_FIRST_WORD, target.timeout))
    with connect(target) as connection:
        address = "" if connection is None else f" ({connection.peer})"
        print(bold(escape(f"{target.host}, port {target.port}{address}")), flush=True)
        return probe(connection, silent, _WITHOUT.header)


def _request(host: str) -> bytes:
    name = f"[{host}]" if ":" in host else host
    return f"GET / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: proxyprotocol\r\nConnection: close\r\n\r\n".encode(
        "ascii", "replace"
    )


def _takes(version: _Probe, outcomes: _Outcomes) -> bool:
    """Return whether the server read the header as one: only then does it answer a wrong header differently."""
    outcome, wrong = outcomes[version], outcomes[_WRONG[version]]
    return outcome.answered and not (wrong.answered and wrong.shape == outcome.shape)


def _changed(target: Target, outcomes: _Outcomes, taken: list[_Probe]) -> set[_Probe]:
    """Ask again what decides, and return the probes with another answer: a server may limit connections, or race."""
    without = outcomes[_WITHOUT]
    if not (taken and without.answered) or (without.shape == outcomes[taken[0]].shape and not target.greets):
        return set()
    again = [_WITHOUT, taken[0], _WRONG[taken[0]]] * (_ROUNDS if target.greets else 1)
    return {each for each in again if _ask(target, each).shape != outcomes[each].shape}


def _conclude(first: Outcome, outcomes: _Outcomes, taken: list[_Probe]) -> Iterator[str]:
    without = outcomes[_WITHOUT]
    if taken:
        yield from _conclude_taken(without, outcomes, taken)
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


def _conclude_taken(without: Outcome, outcomes: _Outcomes, taken: list[_Probe]) -> Iterator[str]:
    versions = "versions 1 and 2" if len(taken) == 2 else f"{taken[0].name} only"
    served = outcomes[taken[0]]
    if without.answered and without.shape == served.shape:
        yield green(f"It takes a header, {versions}, and connections without one too.")
        yield "Anybody who reaches it can pretend to be any client: it should trust only its proxies."
    else:
        yield green(f"It wants a header, and takes {versions}. Without one it {without.describe(served)}.")
    for special, version, meaning in (
        (_LOCAL, _VERSION_2, "LOCAL, which health checks send"),
        (_UNKNOWN, _VERSION_1, "UNKNOWN, for clients without an IP address"),
    ):
        if version in taken:
            answer, proxied = outcomes[special], outcomes[version]
            yield f"{meaning}: " + (
                "served too." if answer.shape == proxied.shape else f"not served, it {answer.describe(proxied)}."
            )
    for version in taken:
        yield f"A wrong header of {version.name}: it {outcomes[_WRONG[version]].describe(outcomes[version])}."


def _server(text: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= spec.MAX_PORT:
        raise argparse.ArgumentTypeError(f"it takes HOST:PORT, such as localhost:8080 or [::1]:8080, not {text!r}")
    return match["ipv6"] or match["host"], int(match["port"])


_seconds = number(float, 0.001, _LONGEST, f"it takes a number of seconds above 0, up to {_LONGEST}")
