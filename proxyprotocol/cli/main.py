"""The command and its subcommands.

A subcommand is a module with ``add_arguments(parser)`` and ``run(options)``, which returns the exit status, and one row
in the table here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from proxyprotocol.cli import check, decode, demo, encode
from proxyprotocol.run import main as run_command
from proxyprotocol.server import echo as echo_command
from proxyprotocol.server import main as relay_command
from proxyprotocol.server._process.program import TROUBLE, ArgumentParser, run_program

__all__ = ["main", "make_parser"]

_NAME: Final = "proxyprotocol"
_DESCRIPTION: Final = "Show, write and test headers of the PROXY protocol, versions 1 and 2."
_EXAMPLES: Final = """\
examples:
  proxyprotocol demo
  proxyprotocol check app.example:8080
  proxyprotocol encode --source 192.0.2.7:5678 --dest 192.0.2.9:443 --hex
  tcpdump -U -i lo -w - port 8080 | proxyprotocol decode

proxyprotocol COMMAND --help has examples of each command.
"""

_SUBCOMMANDS: Final = {
    "decode": (decode, "show what a header says, or what is wrong with it"),
    "encode": (encode, "write a header"),
    "check": (check, "find out whether a server wants a header, and which versions it takes"),
    "run": (run_command, "run a Python server whose listeners read headers, with no change to it"),
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

    def command() -> int:
        parser = make_parser()
        options = parser.parse_args(arguments)
        if options.run is None:
            # 2 and not 0: a script that has lost its argument must not go on
            parser.print_help(sys.stderr)
            return TROUBLE
        status: int = options.run(options)
        return status

    return run_program(_NAME, command)


def make_parser() -> ArgumentParser:
    """Return the command's parser, from which the manual page is made too."""
    parser = ArgumentParser(_NAME, description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for name, (module, use) in _SUBCOMMANDS.items():
        subparser = subparsers.add_parser(name, help=use, conflict_handler="resolve")
        subparser.set_defaults(run=module.run)
        module.add_arguments(subparser)
    return parser
