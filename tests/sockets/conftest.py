"""The fixtures of the tests of sockets and streams."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.interop._certificates import Certificates, make_certificates
from tests.on_asyncio.streams import collect_complaints


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificates, made once."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def no_complaints() -> Iterator[None]:
    """After the module's tests, no loop may have reported an error."""
    yield
    assert collect_complaints() == []


@pytest.fixture
def debug_log(caplog: pytest.LogCaptureFixture) -> None:
    """Records our log lines of every level."""
    caplog.set_level(logging.DEBUG, "proxyprotocol")
