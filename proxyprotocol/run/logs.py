"""Shows the log of this package on standard error, whatever logging the application configures."""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

__all__ = ["keep_logs", "show_logs", "show_twisted_logs"]

_NAME = "proxyprotocol"


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
    logger = logging.getLogger(_NAME)
    logger.setLevel(logging.INFO)
    logger.addHandler(_Fallback())


def keep_logs(module: Any) -> None:
    """Let the functions of the module ``logging.config`` disable no logger of this package, as they do by default."""

    def keep(configure: Any) -> Any:
        @functools.wraps(configure)
        def configured(*args: Any, **keywords: Any) -> None:
            configure(*args, **keywords)
            for name, logger in logging.root.manager.loggerDict.copy().items():
                if name.partition(".")[0] == _NAME and isinstance(logger, logging.Logger):
                    logger.disabled = False

        return configured

    module.dictConfig, module.fileConfig = keep(module.dictConfig), keep(module.fileConfig)


def show_twisted_logs(module: Any) -> None:
    """Make our lines in Twisted's log visible, given ``twisted.logger``, which holds them back until it begins."""

    def show(event: Any) -> None:
        ours = str(event.get("log_namespace", "")).startswith(_NAME)
        waiting = module.globalLogBeginner._temporaryObserver is not None  # nothing public tells
        if ours and waiting and event["log_level"] >= module.LogLevel.info:
            _write(module.formatEvent(event))

    module.globalLogPublisher.addObserver(show)
