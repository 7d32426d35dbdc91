"""Floor 4: the one log line of a refused connection, for the adapters that log by :mod:`logging`."""

from __future__ import annotations

import logging

from ._errors import ProxyProtocolError
from .receiver import describe_refusal
from .typing import SockAddr

__all__: list[str] = []


def log_refusal(log: logging.Logger, error: ProxyProtocolError, peer: SockAddr) -> None:
    """Log that a connection was refused, and why; what happens every day at debug level only.

    Args:
        log: The adapter's logger.
        error: Why.
        peer: Who connected, as the socket module gives it.
    """
    level = logging.DEBUG if error.routine else logging.WARNING
    log.log(level, "%s", describe_refusal(error, peer), stacklevel=2)  # the line is the adapter's
