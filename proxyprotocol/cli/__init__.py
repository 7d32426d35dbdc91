"""Floor 6: the ``proxyprotocol`` command, also ``python -m proxyprotocol``; the subcommands are listed in ``_main``."""

from __future__ import annotations

from ._main import main

__all__ = ["main"]
