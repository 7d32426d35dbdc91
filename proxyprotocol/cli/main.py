"""The command and its subcommands.

A subcommand is a module with ``add_arguments(parser)`` and ``run(options)``, which returns the exit status, and one row
in the table here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from proxyprotocol.cli import check, decode, demo, encode
from proxyprotocol.server import echo as echo_command
from proxyprotocol.server import main as relay_command
from proxyprotocol.server._process.program import ArgumentParser, run_program

__all__ = ["main"]

_NAME: Final = "proxyprotocol"


_SUBCOMMANDS: Final = {
    "decode": (decode, "show what a header says, or what is wrong with it"),
    "encode": (encode, "write a header"),
    "check": (check, "find out whether a server wants a header, and which versions it takes"),
    "echo": (echo_command, "run an echo server that wants a header, like proxyprotocol-echo"),
    "relay": (relay_command, "run a relay that sends a header, like proxyprotocol-server"),
    "demo": (demo, "show the library at work"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The arguments after the command's name; None for those of the process.

    Returns:
        The exit status: 0 for a good answer, 1 for a bad one, 2 if the command could not do its work.
    """
    try:
        installed = version(_NAME)
    except PackageNotFoundError:
        installed = "(from a checkout, not installed)"

    def command() -> int:
        parser = ArgumentParser(prog=_NAME, description="The PROXY protocol, versions 1 and 2.", allow_abbrev=False)
        parser.add_argument("--version", action="version", version=f"{_NAME} {installed}")
        subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
        for name, (module, use) in _SUBCOMMANDS.items():
            subparser = subparsers.add_parser(name, help=use, allow_abbrev=False)
            subparser.set_defaults(run=module.run)
            module.add_arguments(subparser)
        options = parser.parse_args(arguments)
        status: int = options.run(options)
        return status

    return run_program(_NAME, command)
