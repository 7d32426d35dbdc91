"""The messages for what an adapter refuses, and the log line for a lack of resources."""

from __future__ import annotations

import logging
from math import inf
from typing import Final

from proxyprotocol._adapters.facts import is_foreign
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr

PAUSE: Final = 1.0  # seconds before accepting again, after the system ran out of resources for connections
_SILENCE: Final = 60.0  # seconds between two log lines about that


def describe_second_header(what: str, act: str = "reads", unit: str = "connection") -> str:
    """Return the message for an object that already reads or sends a header, and should get a second one.

    Every adapter rejects that: the outer header would choose whom we trust for the inner one.
    """
    return f"{what} already {act} a header, and a {unit} has only one"


class Shortage:
    """Logs at most once a minute that the system has no resources for another connection."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._silent_until = -inf

    def tell(self, reason: str, now: float) -> None:
        """Log the reason; *now* comes from a clock that never goes back."""
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE
            self._log.warning("No more connections are accepted for now: %s", reason)


def describe_no_handshake(reason: str, client: SockAddr, peer: SockAddr, listener: str = "") -> str:
    """Return the log line for a failed TLS handshake with a client that *peer* relays."""
    relayed = "" if client == peer else f"{describe_address(client)}, relayed by "
    reason = reason or "the connection was lost"
    where = f" on {listener}" if listener else ""
    return f"Refused a connection from {relayed}{describe_address(peer)}{where}: the TLS handshake failed: {reason}"


def describe_late_handshake(seconds: float) -> str:
    """Return the reason for a handshake that missed its deadline."""
    return f"it was not done within {seconds:g} seconds"


def describe_lost_answer(client: SockAddr, to: SockAddr, family: int | None) -> str | None:
    """Return why a datagram socket of *family* cannot send an answer to *to*; None if it can.

    Args:
        client: The client's address.
        to: The result of :meth:`.DatagramReceiver.reply_to` for this client.
        family: The socket's address family, if it is known.
    """
    if not to:  # None, or "" for an unnamed UNIX socket
        return f"No proxy is known for {describe_address(client)}: its answer is dropped"
    if family is not None and is_foreign(to, family):
        return f"No proxy is known for {describe_address(client)}, and its address family is not the socket's"
    return None
