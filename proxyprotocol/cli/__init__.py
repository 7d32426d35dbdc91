"""Floor 6: the ``proxyprotocol`` command, also ``python -m proxyprotocol``; the subcommands are listed in ``_main``."""

from __future__ import annotations

from proxyprotocol._adapters import installation  # noqa: F401  # raises where proxy-protocol lies over us
from proxyprotocol.cli.main import main

__all__ = ["main"]
