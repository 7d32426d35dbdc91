"""One JSON object a line in Twisted's log: ``twistd -n --logger=json_logging_twisted.observer web``."""

from __future__ import annotations

import sys

from twisted.logger import FilteringLogObserver, ILogObserver, LogLevel, LogLevelFilterPredicate, jsonFileLogObserver


def observer() -> ILogObserver:
    """Make the observer that writes events of level info and above to standard output."""
    return FilteringLogObserver(jsonFileLogObserver(sys.stdout), [LogLevelFilterPredicate(LogLevel.info)])
