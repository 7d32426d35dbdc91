"""What all commands share: an error is one sentence on standard error, never a traceback.

The exit status is 0 for a good answer, 1 for a bad one (a wrong header), 2 if the command could not do its work (a
wrong argument, a missing file), and the shell's own value for a command that was interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import ssl
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any, Final, NoReturn

from proxyprotocol.messages import describe_unknown
from proxyprotocol.release import read_version

BAD_ANSWER: Final = 1
TROUBLE: Final = 2
# what a shell reports for a program that SIGINT or SIGPIPE ended
_INTERRUPTED: Final = 128 + 2
_BROKEN_PIPE: Final = 128 + 13
_SHELLS: Final = ("bash", "zsh", "tcsh")
_NO_CHOICE: Final = re.compile(r"COMMAND: invalid choice: '(?P<name>.*?)'.* \(choose from (?P<known>.*)\)")
_WORDS: Final = {
    ": expected ": " takes ",
    ": it takes ": " takes ",
    ": ignored explicit argument ": " takes no value, not ",
    ": not allowed with argument ": " excludes ",
}
#: The `complete` of an argument that names a file, for shtab.
FILE: Final = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}


class ProgramError(Exception):
    """The command cannot continue. The text is a sentence for the user, and *status* the exit status."""

    def __init__(self, sentence: str, status: int = TROUBLE) -> None:
        super().__init__(sentence)
        self.status: int = status


class ArgumentParser(argparse.ArgumentParser):
    """Reports a mistake in one sentence, with the nearest right name, and has the options that all commands share."""

    def __init__(self, prog: str, **keywords: Any) -> None:
        # raw, so that the examples keep their lines
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, allow_abbrev=False, formatter_class=form, **keywords)
        self.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version, and exit")
        if " " not in prog:  # not a subcommand
            text = "print the code that completes this command in a shell, and exit"
            self.add_argument("--print-completion", action=_PrintCompletion, choices=_SHELLS, help=text)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse the arguments; an unknown one is an error here, where the options of its subcommand are known."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = next((word for word in unknown if word.startswith("-")), None)
            if word is None:
                self.error(f"unexpected argument {unknown[0]!r}")
            sentence = describe_unknown("option", word.partition("=")[0], self._metavars(), "--")
            self.error(sentence.partition("; known")[0])  # encode alone has thirty
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Raise a :class:`ProgramError` with what argparse found wrong."""
        message = message.removeprefix("argument ")
        if choice := _NO_CHOICE.fullmatch(message):
            known = [name.strip("'") for name in choice["known"].split(", ")]
            message = describe_unknown("command", choice["name"], known)
        elif missing := re.fullmatch("(.*): expected .* arguments?", message):
            option = missing[1].rpartition("/")[2]
            message = f"{missing[1]} needs {self._metavars().get(option, 'a value')} after it"
        for argparse_says, we_say in _WORDS.items():
            message = message.replace(argparse_says, we_say, 1)
        raise ProgramError(f"{message} (see {self.prog} --help)")

    def _metavars(self) -> dict[str, str]:
        """Return what each option takes, by its name: only the help shows both in public."""
        self.color = False  # Python 3.14 and later would colour the help on a terminal
        lines = re.findall(r"^  (-.*?)(?:  |$)", self.format_help(), re.MULTILINE)
        return {name: takes for line in lines for name, takes in re.findall(r"(--?[\w-]+)(?: ([^-,][^,]*))?", line)}


class _PrintVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(parser.prog.split()[0], read_version())
        parser.exit()


class _PrintCompletion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, _: Any, shell: Any, __: Any = None) -> None:
        try:
            import shtab
        except ImportError as error:
            raise ProgramError(
                f"--print-completion needs shtab ({error}): pip install 'proxyprotocol[completion]'"
            ) from None
        print(shtab.complete(parser, shell))
        parser.exit()


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
        sentence, trouble = str(error), error.status
    except OSError as error:
        # drop what standard output holds: Python flushes it again at its end, and would report the error
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        sentence, trouble = describe_error(error), TROUBLE
    print(f"{name}: {escape(sentence)}", file=sys.stderr)
    return trouble


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
