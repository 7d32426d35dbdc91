"""Runs the command in this process, and returns its output and exit status."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import NamedTuple
from unittest.mock import patch

from proxyprotocol.cli import main


class Ran(NamedTuple):
    """A command that has ended."""

    status: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        return self.output.decode("utf-8")


def run(*arguments: str, stdin: bytes = b"") -> Ran:
    """Run the command as a shell would; exceptions are not caught."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    with patch.object(sys, "stdin", given), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(arguments)
    written = []
    for stream in (output, errors):
        stream.flush()
        assert isinstance(stream.buffer, io.BytesIO)
        written.append(stream.buffer.getvalue())
    return Ran(status, written[0], written[1].decode("utf-8"))
