"""The fixtures of the tests of deadlines."""

from __future__ import annotations

from tests.sockets.conftest import certificates

__all__ = ["certificates"]
