"""The fixtures of the tests of asyncio's adapter; the tests of integrations in tests/interop use them too."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop._certificates import Certificates, make_certificates
from tests.on_asyncio.loops import LOOPS, Log, Run, Security


@pytest.fixture(params=LOOPS.values(), ids=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's story, once on each kind of loop."""
    return Run(request.param)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificates, made once."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def security(request: pytest.FixtureRequest, certificates: Certificates) -> Security:
    """Once without TLS, once with TLS after the header."""
    return Security(certificates if request.param else None)


@pytest.fixture
def log() -> Iterator[Log]:
    """The log. A line from asyncio above debug level, and every traceback, fails the test."""
    log, root = Log(), logging.getLogger()
    ours = logging.getLogger("proxyprotocol")
    root.addHandler(log)
    ours.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        root.removeHandler(log)
        ours.setLevel(logging.NOTSET)
    assert [r for r in log.records if r.exc_info] == []
    assert [r.getMessage() for r in log.records if r.name == "asyncio" and r.levelno > logging.INFO] == []


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for UNIX sockets: the path of ``tmp_path`` may be too long for one."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
def ipv6() -> None:
    """Skips a test on a machine that has no ::1."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"there is no ::1 on this machine: {error}")
