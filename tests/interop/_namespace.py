"""A network namespace of our own, with the routes that transparent connections need."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ._programs import find_program

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, which Python names from 3.12 on


class Namespace:
    """A network namespace, which ends when nothing uses it any more. Only root can make one.

    Args:
        commands: What to run in it, each with its arguments.
    """

    def __init__(self, commands: list[list[str]]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        ip = find_program("ip")
        with _own() as own:
            if self._libc.unshare(_NEW_NETWORK):
                pytest.skip(f"only root can make a network namespace: {os.strerror(ctypes.get_errno())}")
            try:
                self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
                for _, *arguments in [["ip", "link", "set", "lo", "up"], *commands]:
                    subprocess.run([ip, *arguments], check=True)
            finally:
                self._enter(own)

    def _enter(self, descriptor: int) -> None:
        assert self._libc.setns(descriptor, _NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Create sockets, threads and processes in the namespace; they stay there."""
        with _own() as own:
            self._enter(self._descriptor)
            try:
                yield
            finally:
                self._enter(own)

    def close(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def _own() -> Iterator[int]:
    with open("/proc/thread-self/ns/net") as file:
        yield file.fileno()


def documented_routes(page: Path) -> list[list[str]]:
    """Return the commands of iproute2 that a page of the documentation shows."""
    return [line.split() for line in re.findall(r"^ +# (ip .*)$", page.read_text(), re.MULTILINE)]
