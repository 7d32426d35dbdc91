"""``proxyprotocol demo``: see it work, in a few seconds and without a proxy."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the subcommand takes.

    Args:
        parser: The subcommand's.
    """
    parser.description = (
        "Start two echo servers that read headers, one by Twisted and one by asyncio, play the proxy in front of them, "
        "and show what they saw of the client."
    )
    parser.add_argument("--keep", action="store_true", help="leave the servers running, and say what to type")


def run(options: argparse.Namespace) -> int:
    """Demonstrate.

    Args:
        options: The arguments.

    Returns:
        0.
    """
    # here, because it brings in Twisted, which the other subcommands have no use for
    from proxyprotocol.cli._demo.processes import demonstrate

    demonstrate(options.keep)
    return 0
