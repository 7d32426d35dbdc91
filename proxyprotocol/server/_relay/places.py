"""The addresses of a destination's host."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from copy import copy
from typing import Any, Final

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.server.address import Address

__all__: list[str] = []

# Seconds that an answer counts. An administrator who moves a service keeps the old address up for at least as long.
_FRESH: Final = 10.0


class Places:
    """The addresses of a destination.

    A connection that needs the name has it looked up if the last answer is ten seconds old. All connections that wait
    share one look-up. If the name server does not answer, the old answer counts.
    """

    def __init__(self, address: Address) -> None:
        self._host, self._port = address.host, address.port
        self._found: list[tuple[int, Any]] = []
        self._fresh_until = 0.0
        self._asking: asyncio.Task[None] | None = None
        if address.path is not None:
            self._keep([(int(AF_UNIX or 0), address.path)])
        elif _is_literal(self._host):
            self._keep(_list(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)))

    def known(self, now: float) -> list[tuple[int, Any]] | None:
        """Return the family and the address of each place; None if the caller must use :meth:`find`.

        Args:
            now: The loop's time.
        """
        return self._found if now < self._fresh_until else None

    async def find(self, timeout: float) -> list[tuple[int, Any]]:
        """Look the name up, and wait so many seconds for the answer.

        Raises:
            OSError: There is no answer, nor an old one.
        """
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        # asyncio.wait() does not cancel the task at the time-out: other connections wait for it too
        done, _ = await asyncio.wait({self._asking}, timeout=timeout)
        if not self._found:
            for task in done:
                if (error := task.exception()) is not None:
                    raise copy(error)  # the traceback of the original would refer to the waiting connections
            raise OSError(f"no name server answered within {timeout:g} seconds")
        return self._found

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = _list(await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
        except UnicodeError as error:  # Python raises this for an empty label, or one that is too long
            raise OSError(f"{self._host!a} is not a valid host name: {error}") from None
        self._found, self._fresh_until = found, loop.time() + _FRESH

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # those who wait have it; asyncio must not report it again

    def _keep(self, found: list[tuple[int, Any]]) -> None:
        self._found, self._fresh_until = found, float("inf")


def _list(found: list[Any]) -> list[tuple[int, Any]]:
    return list(dict.fromkeys((family, address) for family, *_, address in found))


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
