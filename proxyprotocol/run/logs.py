"""Shows the log of this package on standard error, whatever logging the application configures."""

from __future__ import annotations

import logging
import sys

__all__ = ["show_logs"]

_NAME = "proxyprotocol"


class _Logger(logging.Logger):
    """A logger that ``disable_existing_loggers`` does not disable: nobody means ours with that."""

    @property
    def disabled(self) -> bool:
        """Never."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


class _Fallback(logging.Handler):
    """Writes to standard error what no handler of the application writes."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            sys.stderr.write(f"{_NAME}: {record.getMessage()}\n")
            sys.stderr.flush()


def show_logs() -> None:
    """Make the lines of this package visible."""
    for name in ("", ".asyncio", ".metrics", ".run", ".server", ".sync", ".trio", ".trustfile", ".twisted"):
        logging.getLogger(_NAME + name).__class__ = _Logger
    logger = logging.getLogger(_NAME)
    logger.setLevel(logging.INFO)
    logger.addHandler(_Fallback())
