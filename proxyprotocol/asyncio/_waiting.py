"""Floor 5: the connections of a server that have not begun, and the time that their headers have."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from proxyprotocol._deadlines import part_late

__all__: list[str] = []


class Pending(Protocol):
    """A connection that waits for its header."""

    def time_out(self) -> None:
        """Take the end of the time that the header had."""

    def abort(self) -> None:
        """Drop the connection without a word."""


class Waiting:
    """All connections that wait for their header, or for the end of the TLS handshake behind it.

    One timer serves all headers, see :mod:`proxyprotocol._deadlines`.

    Args:
        timeout: How long a header may take, in seconds; None for no limit.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = math.inf if timeout is None else timeout
        self._headers: dict[Pending, float] = {}
        #: The transports in their TLS handshake, on which asyncio itself keeps a deadline.
        self.handshakes: set[asyncio.Transport] = set()
        #: Whether nobody is to begin any more.
        self.closed = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Pending) -> None:
        """Wait for a header.

        Args:
            connection: The connection.
        """
        loop = asyncio.get_running_loop()
        self._headers[connection] = deadline = loop.time() + self._timeout
        if self._timer is None and deadline < math.inf:
            self._timer = loop.call_at(deadline, self._expire, loop)

    def discard(self, connection: Pending) -> None:
        """Wait for a header no longer.

        Args:
            connection: The connection, which may not be among them.
        """
        self._headers.pop(connection, None)

    def close(self) -> None:
        """Drop them all, because the server has closed; and so whoever was accepted and did not come this far."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending: list[Pending | asyncio.Transport] = [*self._headers, *self.handshakes]
        for connection in pending:
            connection.abort()

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        late, following = part_late(self._headers, loop.time())
        self._timer = None if following is None else loop.call_at(following, self._expire, loop)
        for connection in late:
            try:
                connection.time_out()
            except Exception as error:
                # the application's: a server that speaks first begins here
                context = {"message": "An application has raised as it began", "exception": error}
                loop.call_exception_handler(context)
