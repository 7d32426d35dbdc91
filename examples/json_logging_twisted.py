"""One JSON object a line in Twisted's log: ``twistd -n --logger=json_logging_twisted.observer web``."""

from __future__ import annotations

import sys
from typing import Any

from twisted.logger import FilteringLogObserver, LogLevel, LogLevelFilterPredicate, jsonFileLogObserver


def observer() -> Any:
    """Make the observer that writes events of level info and above to standard output."""
    everything: Any = jsonFileLogObserver(sys.stdout)
    important: Any = LogLevelFilterPredicate(LogLevel.info)
    return FilteringLogObserver(everything, [important])
