"""The ``proxyprotocol`` command, also ``python -m proxyprotocol``; ``main.py`` has the table of subcommands."""

from __future__ import annotations

from proxyprotocol._adapters import installation  # noqa: F401  # raises if proxy-protocol has replaced our files
from proxyprotocol.cli.main import main

__all__ = ["main"]
