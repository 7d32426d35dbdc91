"""What the tests of other projects' servers share."""

from __future__ import annotations

import pytest

from tests.interop._certificates import Certificates, make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and the certificates that it has signed."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))
