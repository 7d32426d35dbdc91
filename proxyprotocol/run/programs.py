"""Which commands start a Python interpreter that finds our ``sitecustomize``."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final

from proxyprotocol._adapters.settings import startup_failure
from proxyprotocol.options import PREFIX, spell_variable

__all__ = ["CommandError", "check_program", "put_first", "watch_exec"]

_SITE: Final = str(Path(__file__).parent / "_site")
_PYTHON: Final = re.compile(r"(python|pypy|graalpy)[0-9.]*[a-z]*(-[a-z0-9]+)?(\.exe)?")
# pip, uv and others write this where the path of Python is too long for a first line: sh starts it, and Python takes
# the same line for a string
_TRAMPOLINE: Final = re.compile(rb"#! ?/bin/sh\n(?:'''|\"\"\")?:?\s*'*exec' (.*) [\"']?\$0")
_HEAD: Final = 4096  # bytes of a script in which its first two lines end


class CommandError(Exception):
    """A command cannot be run. The text is a sentence for the user, and *status* what a shell would exit with."""

    def __init__(self, sentence: str, status: int = 2) -> None:
        super().__init__(sentence)
        self.status: int = status


def check_program(words: Sequence[str], path: str | None = None) -> str:
    """Return the file that a command runs; *path* is where to look for it.

    Raises:
        CommandError: There is no such program, or it would not load our ``sitecustomize``.
    """
    name = words[0]
    found = shutil.which(name, path=path)
    if found is None:
        if os.sep in name and os.path.exists(name):
            raise CommandError(f"{name} is not executable; if it is a Python program, run: python {name}", 126)
        raise CommandError(f"There is no program {name}", 127)
    interpreter = _interpreter(found, [found, *words[1:]])
    if interpreter is None:
        raise CommandError(
            f"{name} is not a Python program, and no header can be read for it. If it starts one, put `proxyprotocol "
            f"run` after it: {name} ... proxyprotocol run ... -- COMMAND. For other servers there is the relay: "
            "proxyprotocol-server with ?transparent=yes on the destination"
        )
    if (option := _isolating(interpreter[1:])) is not None:
        raise CommandError(
            f"{name} starts Python with the option {option}, which hides our integrations from it: run it without -I, "
            "-E and -S, such as: python -m MODULE"
        )
    return found


def _interpreter(file: str, words: Sequence[str]) -> list[str] | None:
    """Return the command line of the Python that a file is, or that its first lines start; None if it is another."""
    if any(_PYTHON.fullmatch(os.path.basename(name)) for name in (file, os.path.realpath(file))):
        return list(words)
    with open(file, "rb") as opened:
        head = opened.read(_HEAD)
    if trampoline := _TRAMPOLINE.match(head):
        line = re.sub(r"\$\([^)]*\)+\"?", "", os.fsdecode(trampoline[1]))
        started = shlex.split(line.replace('"/', "/") if line.count('"') % 2 else line)
    elif head.startswith(b"#!"):
        started = os.fsdecode(head[2:].partition(b"\n")[0]).split()
        if started and os.path.basename(started[0]) == "env":
            own = itertools.takewhile(lambda word: word == "-S" or "=" in word, started[1:])
            started = started[1 + len(list(own)) :]  # later words are Python's own options
    else:
        return None
    return started if started and _PYTHON.fullmatch(os.path.basename(started[0])) else None


def _isolating(words: Sequence[str]) -> str | None:
    """Return the option with which Python ignores PYTHONPATH or sitecustomize, if there is one among its arguments."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word in ("-", "--"):
            return None
        if word.startswith("--"):
            if word == "--check-hash-based-pycs":
                next(rest, None)
            continue
        for place, letter in enumerate(word[1:], 2):
            if letter in "IES":
                return f"-{letter}"
            if letter in "cm":
                return None
            if letter in "WX":
                if place == len(word):
                    next(rest, None)
                break
    return None


def put_first(environment: MutableMapping[str, str]) -> None:
    """Let our ``sitecustomize`` be the first that an interpreter with this environment finds."""
    others = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder not in ("", _SITE)]
    environment["PYTHONPATH"] = os.pathsep.join([_SITE, *others])


def watch_exec() -> None:
    """Keep ``proxyprotocol run`` in force when this process becomes another program.

    Other launchers, such as OpenTelemetry's, put a ``sitecustomize`` of theirs before ours, which never runs ours.
    """
    execv, execve, server = os.execv, os.execve, os.getpid()

    def check(file: Any, words: Any, environment: MutableMapping[str, str]) -> None:
        if os.getpid() == server and os.path.exists(file):  # execvp() tries one folder after the other
            try:
                check_program([os.fsdecode(file), *map(os.fsdecode, words[1:])])
            except CommandError as problem:
                raise startup_failure(f"proxyprotocol run: {problem}") from None
            for name in os.environ:
                if name.startswith(PREFIX):
                    environment.setdefault(name, os.environ[name])
        if spell_variable("run") in environment:  # a child that becomes a tool may have another environment
            put_first(environment)

    def our_execv(path: Any, argv: Any, /) -> Any:
        check(path, argv, os.environ)
        execv(path, argv)

    def our_execve(path: Any, argv: Any, env: Any) -> Any:
        changed = dict(env)
        check(path, argv, changed)
        execve(path, argv, changed)

    os.execv, os.execve = our_execv, our_execve
