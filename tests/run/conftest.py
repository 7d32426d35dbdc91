from __future__ import annotations

from tests.servers.conftest import certificates

__all__ = ["certificates"]
