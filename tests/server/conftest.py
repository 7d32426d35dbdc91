"""The fixtures of the tests of the relay and the echo server."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop._certificates import Certificates, make_certificates
from tests.server.programs import Starter
from tests.server.relays import Relaying


@pytest.fixture
def relaying(caplog: pytest.LogCaptureFixture) -> Iterator[Relaying]:
    """Starts relays, and the servers that they connect to."""
    caplog.set_level(logging.INFO, "proxyprotocol.server")
    with contextlib.ExitStack() as stack:
        yield Relaying(stack)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificates, made once."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for UNIX sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
def start(relaying: Relaying, tmp_path: Path) -> Iterator[Starter]:
    """Starts the command."""
    with contextlib.ExitStack() as stack:
        yield Starter(stack, relaying, tmp_path)
