"""Floor 6: what all commands have in common: one sentence on standard error for a mistake, never a traceback.

The exit status is 0 for a good answer, 1 for a bad one (a header that is wrong), 2 where the command could not do its
work (an argument that is wrong, a file that is missing), and the shell's own for a command that was interrupted.
"""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Any, Final, NoReturn

__all__: list[str] = []

BAD_ANSWER: Final = 1
TROUBLE: Final = 2
# what a shell makes of a program that was ended by SIGINT and by SIGPIPE
_INTERRUPTED: Final = 128 + 2
_BROKEN_PIPE: Final = 128 + 13


class ProgramError(Exception):
    """The command cannot go on; its text is the sentence for the user, who wrote the argument or named the file."""


class ArgumentParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, where argparse prints the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        """Raise the sentence.

        Args:
            message: What argparse found to be wrong.

        Raises:
            ProgramError: Always.
        """
        raise ProgramError(f"{message} (see {self.prog} --help)")


def escape(text: str) -> str:
    """Make text harmless that others wrote: a terminal obeys control characters, and a log is read by lines.

    Args:
        text: The text.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def run_program(name: str, command: Callable[[], int]) -> int:
    """Run a command to its end.

    Args:
        name: What the user calls it, for messages.
        command: The command; it gives its exit status.

    Returns:
        The exit status.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # a terminal that knows no such character is no reason for a traceback
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(command)
        # here, where it can still be answered for
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_unwritten()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except ProgramError as error:
        return _complain(name, str(error))
    except OSError as error:
        _forget_unwritten()
        return _complain(name, describe_error(error))
    return status


def run_parser(
    name: str,
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    arguments: Sequence[str] | None,
) -> int:
    """Run a command that is also a subcommand of another.

    Args:
        name: What the user calls it.
        description: What it does, for its help.
        add_arguments: Says what arguments it takes.
        run: Runs it, and gives its exit status.
        arguments: Those behind its name; the process's own where None.

    Returns:
        The exit status.
    """

    def command() -> int:
        parser = ArgumentParser(prog=name, description=description, allow_abbrev=False)
        add_arguments(parser)
        return run(parser.parse_args(arguments))

    return run_program(name, command)


def number(convert: Callable[[str], float], least: float, most: float, what: str) -> Callable[[str], Any]:
    """Make a type for argparse: a number within bounds, which NaN is never.

    Args:
        convert: ``int`` or ``float``.
        least: The least that is taken.
        most: The most.
        what: What to say of others.
    """

    def read(text: str) -> float:
        try:
            value = convert(text)
            if least <= value <= most:
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{what}, not {text!r}")

    return read


def describe_error(error: OSError) -> str:
    """Put into words what the system said, or OpenSSL, for people who read one line of it.

    Args:
        error: The error.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not good: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "the connection ended in it" if isinstance(error, ssl.SSLEOFError) else error.reason or str(error)
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def _open_closed_streams() -> None:
    """Write to nowhere what a closed stream would take, which is None in Python.

    The places 0 to 2 are all taken, so that no file or socket that is opened later gets what is meant for a stream; but
    standard input stays None, so that a command that reads it can tell that from an empty one.
    """
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            place = os.open(os.devnull, os.O_WRONLY)
            # open to the end, as the real ones are
            setattr(sys, name, open(place, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _run(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as end:  # argparse's --help and --version
        return end.code if isinstance(end.code, int) else 0


def _complain(name: str, sentence: str) -> int:
    print(f"{name}: {escape(sentence)}", file=sys.stderr)
    return TROUBLE


def _forget_unwritten() -> None:
    """Let go what nobody takes: Python flushes at its end once more, and would complain of it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
