"""The sentences for what an adapter refuses, and the log lines of adapters that use :mod:`logging`."""

from __future__ import annotations

import logging
import ssl
from math import inf
from typing import Final

from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import describe_refusal
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr

__all__: list[str] = []

PAUSE: Final = 1.0  # seconds until it is tried again to accept where the system had no resources for it
_SILENCE: Final = 60.0  # seconds between two complaints about that


def describe_second_header(what: str, act: str = "reads", unit: str = "connection") -> str:
    """Return the sentence for an object that already reads or sends a header, and is now given a second one.

    Every adapter rejects that: the outer header would choose whom we trust for the inner one.
    """
    return f"{what} already {act} a header, and a {unit} has only one"


def log_refusal(log: logging.Logger, error: ProxyProtocolError, peer: SockAddr) -> None:
    """Log that a connection was refused, and why; what happens every day at debug level only.

    Args:
        log: The adapter's logger.
        error: Why.
        peer: Who connected, as the socket module gives it.
    """
    level = logging.DEBUG if error.routine else logging.WARNING
    log.log(level, "%s", describe_refusal(error, peer), stacklevel=2)  # the line is the adapter's


class Shortage:
    """Tells the log that the system has no resources for another connection, once a minute.

    Args:
        log: The adapter's logger.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._silent_until = -inf

    def tell(self, reason: str, now: float) -> None:
        """Log it, unless that was done within the last minute.

        Args:
            reason: What is missing.
            now: The time, by a clock that never goes back.
        """
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE
            self._log.warning("No more connections are accepted for now: %s", reason)


def log_no_handshake(log: logging.Logger, error: BaseException, client: SockAddr, peer: SockAddr) -> None:
    """Log that a TLS handshake after the header failed; of a client that went away at debug level only."""
    failed = isinstance(error, (ssl.SSLError, TimeoutError)) or not isinstance(error, OSError)
    level = logging.WARNING if failed and not isinstance(error, ssl.SSLEOFError) else logging.DEBUG
    log.log(level, "%s", describe_no_handshake(str(error), client, peer), stacklevel=2)


def describe_no_handshake(reason: str, client: SockAddr, peer: SockAddr) -> str:
    """Return the line of a TLS handshake that failed, for the client that a peer has named."""
    relayed = "" if client == peer else f"{describe_address(client)}, relayed by "
    reason = reason or "the connection was lost"
    return f"Refused a connection from {relayed}{describe_address(peer)}: the TLS handshake failed: {reason}"


def describe_late_handshake(seconds: float) -> str:
    """Return the reason for which the deadline of a handshake refuses a connection."""
    return f"it was not done within {seconds:g} seconds"
