"""``proxyprotocol run``: the launcher."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from proxyprotocol._adapters.settings import Settings
from proxyprotocol.options import (
    OPTIONS,
    parse_receiver,
    parse_tls_timeout,
    read_environment,
    spell_option,
    spell_variable,
)
from proxyprotocol.run.programs import CommandError, check_program, put_first
from proxyprotocol.server._process.program import ProgramError

__all__ = ["add_arguments", "run"]

_DESCRIPTION: Final = """\
Run a Python server whose listeners read PROXY protocol headers, with no change
to the server: its application sees the clients' addresses. The worker
processes that the server starts do the same.
"""
_EXAMPLES: Final = """\
examples:
  %(prog)s --trusted 10.0.0.0/8 -- gunicorn app:app
  %(prog)s --trusted 10.0.0.0/8 -- uvicorn app:app --workers 4
  %(prog)s --trusted @/etc/proxies --ports 8000 -- python server.py
"""
_MORE: Final = {
    "ports": "port numbers and unix, with commas between them: the listeners that read headers; all by default",
    "metrics": "a port of 127.0.0.1, or HOST:PORT, on which Prometheus finds counters",
    "uncovered": "refuse or allow: what becomes of connections to listeners on which nothing reads headers (refuse)",
}
_SETTINGS: Final = (*_MORE, "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to a parser."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    for name, takes in {**OPTIONS, **_MORE}.items():
        required = name == "trusted"  # never by default: everybody could name a client
        parser.add_argument(spell_option(name), required=required, metavar="VALUE", help=takes)
    parser.add_argument(
        "command", nargs="+", metavar="COMMAND", help="the server's command, with its arguments, after --"
    )


def run(options: argparse.Namespace) -> int:
    """Become the server.

    Raises:
        ProgramError: An option is wrong, or the command cannot be run.
    """
    if sys.platform == "win32":
        raise ProgramError("run needs a system where a program can replace itself, such as Linux or macOS")
    given = {name: value for name in (*OPTIONS, *_MORE) if (value := getattr(options, name)) is not None}
    environment = {**os.environ, **{spell_variable(name): value for name, value in given.items()}}

    def spell(name: str) -> str:
        return spell_option(name) if name in given else spell_variable(name)

    try:
        values = read_environment(environment, _SETTINGS)
        Settings(parse_receiver(values, spell), parse_tls_timeout(values, spell), values.get("ports"))
        if values.get("uncovered", "refuse") not in ("refuse", "allow"):
            raise ValueError(f"{spell('uncovered')} takes refuse or allow, not {values['uncovered']!r}")
        if "metrics" in values:
            from proxyprotocol.metrics import parse_address

            parse_address(values["metrics"], spell("metrics"))
        import wrapt  # noqa: F401

        file = check_program(options.command)
    except CommandError as problem:
        raise ProgramError(str(problem), problem.status) from None
    except ValueError as error:
        raise ProgramError(str(error)) from None
    except ImportError as error:
        extra = "run" if error.name == "wrapt" else "metrics"
        raise ProgramError(f"{error}: pip install 'proxyprotocol[{extra}]'") from None
    put_first(environment)
    environment[spell_variable("run")] = "on"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(file, options.command, environment)  # noqa: S606
