"""The addresses of a destination's host."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from typing import Any, Final

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.server._process.program import describe_error
from proxyprotocol.server.address import Address

# Seconds until a name is looked up again. A service that moves is expected to keep its old address for longer.
_FRESH: Final = 10.0


class Places:
    """The addresses of a destination.

    A connection that needs the name starts a look-up if the last answer is ten seconds old. All waiting connections
    share it. If the name server does not answer, the old answer counts.

    Args:
        address: The destination.
        both: Whether ``localhost`` always has both of its addresses, whatever the system's own list says.

    Attributes:
        found: The family and the address of each place.
        fresh_until: When the caller must use :meth:`find` again, by the loop's time.
    """

    def __init__(self, address: Address, both: bool = False) -> None:
        self._host, self._port = address.host, address.port
        self.found: list[tuple[int, Any]] = []
        self.fresh_until: float = -math.inf
        self._asking: asyncio.Task[None] | None = None
        self._problem = ""  # of the last look-up
        if address.path is not None:
            self._keep([(AF_UNIX, address.path)], math.inf)
        else:
            with contextlib.suppress(OSError, ValueError):  # not an IP address
                hosts = ("127.0.0.1", "::1") if both and self._host.lower() == "localhost" else (self._host,)
                numeric = {"type": socket.SOCK_STREAM, "flags": socket.AI_NUMERICHOST}
                found = [place for host in hosts for place in socket.getaddrinfo(host, self._port, **numeric)]
                self._keep(found, math.inf)

    async def find(self, timeout: float) -> list[tuple[int, Any]]:
        """Look the name up if necessary, and wait so many seconds for the answer.

        Raises:
            OSError: No name server answered, and there is no old answer.
        """
        if asyncio.get_running_loop().time() < self.fresh_until:
            return self.found
        if self._asking is None:
            self._problem = ""
            self._asking = asyncio.create_task(self._ask())
        # asyncio.wait() does not cancel the task at the time-out: other connections wait for it too
        await asyncio.wait({self._asking}, timeout=timeout)
        if not self.found:
            raise OSError(self._problem or f"no name server answered within {timeout:g} seconds")
        return self.found

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._keep(found, loop.time() + _FRESH)
        except OSError as error:
            self._problem = describe_error(error)
        except ValueError as error:  # an empty label, one that is too long, or a NUL
            self._problem = f"{self._host!a} is not a valid host name: {error}"
        finally:
            self._asking = None

    def _keep(self, found: list[Any], fresh_until: float) -> None:
        self.found = list(dict.fromkeys((family, address) for family, *_, address in found))
        self.fresh_until = fresh_until
