"""An ASGI application on daphne that finds the header in its scope.

daphne -e proxyprotocol:tcp:8000:ppTrusted=10.0.0.0/8 daphne_app:app
"""

from __future__ import annotations

from fastapi_app import app  # type: ignore[import-not-found]

from proxyprotocol.integrations.daphne import add_extension

__all__ = ["app"]

add_extension()
