"""The command and its subcommands.

A subcommand is a module with ``add_arguments(parser)`` and ``run(options)``, which gives the exit status, and one line
in the table here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NamedTuple, Protocol

from proxyprotocol.cli import check, decode, demo, encode
from proxyprotocol.server import echo as echo_command
from proxyprotocol.server import main as relay_command
from proxyprotocol.server._process.program import ArgumentParser, run_program

__all__ = ["main"]

_NAME: Final = "proxyprotocol"


class _Subcommand(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


class _Entry(NamedTuple):
    module: _Subcommand
    help: str


_SUBCOMMANDS: Final = {
    "decode": _Entry(decode, "say what a header says, or what is wrong with it"),
    "encode": _Entry(encode, "write a header"),
    "check": _Entry(check, "find out whether a server wants a header, and which"),
    "echo": _Entry(echo_command, "run an echo server that wants a header, as proxyprotocol-echo does"),
    "relay": _Entry(relay_command, "run a relay that sends a header, as proxyprotocol-server does"),
    "demo": _Entry(demo, "see the library at work"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those behind the command's name; the process's own unless given.

    Returns:
        The exit status: 0 for a good answer, 1 for a bad one, 2 where the command could not do its work.
    """
    return run_program(_NAME, lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def _version() -> str:
    try:
        return version(_NAME)
    except PackageNotFoundError:
        return "(from a checkout, not installed)"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog=_NAME, description="The PROXY protocol, versions 1 and 2.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{_NAME} {_version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, entry in _SUBCOMMANDS.items():
        subparser = subparsers.add_parser(name, help=entry.help, allow_abbrev=False)
        subparser.set_defaults(run=entry.module.run)
        entry.module.add_arguments(subparser)
    return parser
