"""Floor 6: where a destination is, by its name."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from copy import copy
from typing import Any, Final

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.server.address import Address

__all__: list[str] = []

# Seconds. Whoever moves a service gives its name's old address as long at least.
_FRESH: Final = 10.0


class Places:
    """The addresses of a destination.

    A name is looked up when a connection needs it and the last answer is ten seconds old, once for all who wait. While
    the name server does not answer, the old answer counts.

    Args:
        address: The destination.
    """

    def __init__(self, address: Address) -> None:
        self._host, self._port = address.host, address.port
        self._found: list[tuple[int, Any]] = []
        self._fresh_until = 0.0
        self._asking: asyncio.Task[None] | None = None
        if address.path is not None:
            self._keep([(int(AF_UNIX or 0), address.path)])
        elif _is_literal(self._host):
            self._keep(self._list(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)))

    def known(self, now: float) -> list[tuple[int, Any]] | None:
        """Give family and address of each place; None where :meth:`find` has to be asked.

        Args:
            now: The loop's time.
        """
        return self._found if now < self._fresh_until else None

    async def find(self, timeout: float) -> list[tuple[int, Any]]:
        """Look the name up.

        Args:
            timeout: How long to wait for an answer, in seconds.

        Raises:
            OSError: There is no answer, and was none before.
        """
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        # shielded, because others wait for it as well
        done, _ = await asyncio.wait({self._asking}, timeout=timeout)
        if not self._found:
            for task in done:
                if (error := task.exception()) is not None:
                    raise copy(error)  # the task keeps its own, whose traceback would hold those who wait, and the task
            raise OSError(f"no name server has told an address of it within {timeout:g} seconds")
        return self._found

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = self._list(await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
        except UnicodeError as error:  # which is how Python says that a label is empty, or too long
            raise OSError(f"{self._host!a} is no name: {error}") from None
        self._found, self._fresh_until = found, loop.time() + _FRESH

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # whoever waits has been told

    def _keep(self, found: list[tuple[int, Any]]) -> None:
        self._found, self._fresh_until = found, float("inf")

    @staticmethod
    def _list(found: list[Any]) -> list[tuple[int, Any]]:
        return list(dict.fromkeys((family, address) for family, *_, address in found))


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
