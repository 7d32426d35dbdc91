"""What all commands share: an error is one sentence on standard error, never a traceback.

The exit status is 0 for a good answer, 1 for a bad one (a wrong header), 2 if the command could not do its work (a
wrong argument, a missing file), and the shell's own value for a command that was interrupted.
"""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Any, Final, NoReturn

BAD_ANSWER: Final = 1
TROUBLE: Final = 2
# what a shell reports for a program that SIGINT or SIGPIPE ended
_INTERRUPTED: Final = 128 + 2
_BROKEN_PIPE: Final = 128 + 13


class ProgramError(Exception):
    """The command cannot continue. The text is a sentence for the user."""


class ArgumentParser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, without the usage that argparse prints before it."""

    def error(self, message: str) -> NoReturn:
        """Raise a :class:`ProgramError` with what argparse found wrong."""
        raise ProgramError(f"{message} (see {self.prog} --help)")


def escape(text: str) -> str:
    """Escape the control characters of foreign text: a terminal would obey them, and a log would break its lines."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def run_program(name: str, command: Callable[[], int]) -> int:
    """Run a command to its end, and return the exit status; *name* is what the user calls it."""
    # Open the null device for each closed standard stream: a socket must not get its descriptor, and its text.
    # sys.stdin stays None: a command that reads it can tell a closed stream from an empty one.
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
    for stream_name in ("stdout", "stderr"):
        if getattr(sys, stream_name) is None:
            place = os.open(os.devnull, os.O_WRONLY)
            # open until the process ends, like the real streams
            setattr(sys, stream_name, open(place, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # a terminal that lacks a character must not cause a traceback
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            status = command()
        except SystemExit as end:  # argparse's --help and --version
            status = end.code if isinstance(end.code, int) else 0
        # here, where an error still gets its sentence and its exit status
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _INTERRUPTED
    except ProgramError as error:
        sentence = str(error)
    except OSError as error:
        # drop what standard output holds: Python flushes it again at its end, and would report the error
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        sentence = describe_error(error)
    print(f"{name}: {escape(sentence)}", file=sys.stderr)
    return TROUBLE


def run_parser(
    name: str,
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    arguments: Sequence[str] | None,
) -> int:
    """Run a command that is also a subcommand of another, with the process's own arguments for None."""

    def command() -> int:
        parser = ArgumentParser(prog=name, description=description, allow_abbrev=False)
        add_arguments(parser)
        return run(parser.parse_args(arguments))

    return run_program(name, command)


def number(convert: Callable[[str], float], least: float, most: float, what: str) -> Callable[[str], Any]:
    """Return a type for argparse: a number from *least* to *most*, never NaN; *what* begins the error message."""

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
    """Describe an error of the system or of OpenSSL in part of one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is invalid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "the peer closed the connection" if isinstance(error, ssl.SSLEOFError) else error.reason or str(error)
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"
