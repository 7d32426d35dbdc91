"""A list of trusted proxies in a file, which is read again when it changes; for networks that change, as clouds' do."""

from __future__ import annotations

import codecs
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final

from proxyprotocol.policy import HeaderPolicy, TrustedProxies, describe_networks
from proxyprotocol.typing import SockAddr

__all__ = ["TrustedProxiesFile"]

_log = logging.getLogger("proxyprotocol.trustfile")

_INTERVAL: Final = 1.0  # seconds between two looks at the file; a connection must not cost a system call each
_LARGEST: Final = 1 << 20  # bytes: over 50,000 networks, which take 0.3 seconds to read; AWS publishes about 10,000


class TrustedProxiesFile(TrustedProxies):
    """A :class:`.TrustedProxies` that takes its networks from the lines of a text file.

    A line holds one network, as :class:`.TrustedProxies` takes it: ``10.0.0.0/8``, ``!10.9.0.0/16``, ``unix``. Empty
    lines, and everything after a ``#``, are ignored. When the file changes, the next connection reads it again; it
    looks at the file once a second at most. If the new content is wrong, or the file is missing, the old list stays
    and the log says why.

    Replace the file in one step, as ``mv`` does. A file without a network counts as wrong, because a program may just
    be writing it.

    Args:
        path: The file, in UTF-8, of 1 MiB at most.
        trusted: What to do with connections from these networks.
        otherwise: What to do with all others.
        clock: Returns the time in seconds; it does not go back.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is wrong, or the whole file. The message names the file, and the line.
    """

    __slots__ = ("_clock", "_complaint", "_due", "_state", "path")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        trusted: HeaderPolicy = HeaderPolicy.REQUIRE,
        otherwise: HeaderPolicy = HeaderPolicy.REJECT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        #: The file. A relative path stays with the directory in which this object was made.
        self.path: str = os.path.abspath(path)
        self._clock = clock
        self._due = clock() + _INTERVAL
        self._state = _state_of(self.path)
        self._complaint = ""
        super().__init__((), trusted=trusted, otherwise=otherwise)
        self._read()

    def trusts(self, peer: SockAddr, local: SockAddr = None) -> bool:
        now = self._clock()
        if now >= self._due:
            self._due = now + _INTERVAL
            self._read_if_changed()
        return super().trusts(peer, local)

    def _read_if_changed(self) -> None:
        state, complaint = self._state, ""
        try:
            state = _state_of(self.path)
            if state != self._state:
                self._read()
                self._state = state
                _log.info("The trusted proxies in %s have changed: %s", self.path, describe_networks(self.networks))
        except ValueError as error:
            self._state, complaint = state, str(error)
        except OSError as error:  # it may be over soon, without another change of the file
            complaint = str(error)
        if complaint and complaint != self._complaint:
            _log.error("The list of trusted proxies stays as it was: %s", complaint)
        self._complaint = complaint

    def _read(self) -> None:
        place = self.path

        def read_lines() -> Iterator[str]:
            nonlocal place
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # opening a pipe could wait for ever
                raise ValueError("this is not a regular file")
            with open(self.path, "rb") as file:
                data = file.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                raise ValueError(f"the file has more than {_LARGEST:,} bytes")
            empty = True
            for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
                network = line.partition(b"#")[0].decode("utf-8", "backslashreplace").strip()
                if network:
                    place, empty = f"{self.path}, line {number}", False
                    yield network
            place = self.path
            if empty:
                raise ValueError("the file names no network")

        try:
            self.replace(read_lines())
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def _state_of(path: str) -> tuple[int, ...]:
    state = os.stat(path)
    # The time of change cannot be set back, as cp -p and rsync do with the time of modification.
    return state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino
