"""Shows the log of this package on standard error, whatever logging the application configures."""

from __future__ import annotations

import logging
import sys
from typing import Any

__all__ = ["show_logs", "show_twisted_logs"]

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
            _write(record.getMessage())


def _write(line: str) -> None:
    if sys.stderr is not None:
        print(f"{_NAME}: {line}", file=sys.stderr, flush=True)


def show_logs() -> None:
    """Make the lines of this package visible."""
    for name in ("", ".asyncio", ".metrics", ".run", ".server", ".sync", ".trio", ".trustfile", ".twisted"):
        logging.getLogger(_NAME + name).__class__ = _Logger
    logger = logging.getLogger(_NAME)
    logger.setLevel(logging.INFO)
    logger.addHandler(_Fallback())


def show_twisted_logs(module: Any) -> None:
    """Do the same for Twisted's log, given the module ``twisted.logger``: it holds back all lines until it begins."""

    def show(event: Any) -> None:
        ours = str(event.get("log_namespace", "")).startswith(_NAME)
        waiting = module.globalLogBeginner._temporaryObserver is not None  # nothing public tells
        if ours and waiting and event["log_level"] >= module.LogLevel.info:
            _write(module.formatEvent(event))

    module.globalLogPublisher.addObserver(show)
