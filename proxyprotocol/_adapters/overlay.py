"""Objects that stand in front of others and show the client's addresses: transports, streams and sockets."""

from __future__ import annotations

import socket
from functools import cached_property
from operator import attrgetter
from typing import Any

from proxyprotocol._adapters.facts import AF_UNIX
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.typing import SockAddr


class Overlay:
    """Stands in front of another object, ``_below``, and takes from it whatever its own class does not define.

    That includes the public methods of its base classes: asyncio's only raise NotImplementedError.
    """

    _below: Any = None
    _effective: ProxyResult | None = None

    def __init_subclass__(cls) -> None:
        for name in {name for base in cls.__mro__[1:] for name in vars(base)} - vars(cls).keys():
            if not name.startswith("_"):
                below: Any = cached_property(attrgetter(f"_below.{name}"))  # cached: later calls cost nothing more
                below.__set_name__(cls, name)  # Python calls it only for attributes of the class statement
                setattr(cls, name, below)

    def __getattr__(self, name: str) -> Any:
        # asyncio uses private attributes of its transports too: in start_tls, in sendfile, and when TLS fails
        return getattr(self._below, name)

    def __repr__(self) -> str:
        client = "" if self._effective is None else f" for {describe_address(self._effective.peername)}"
        return f"<{type(self).__name__}{client} over {self._below!r}>"


class ClientSocket(Overlay):
    """A connection's socket with the client's addresses, for servers that ask the socket rather than the transport."""

    def __init__(self, sock: Any, effective: ProxyResult) -> None:
        self._below = sock
        self._effective: ProxyResult = effective
        self.family: socket.AddressFamily = effective.family

    def getpeername(self) -> SockAddr:
        """Return the client's address."""
        return self._effective.peername

    def getsockname(self) -> SockAddr:
        """Return the address that the client connected to."""
        return self._effective.sockname

    def setsockopt(self, level: int, *arguments: Any) -> None:
        """Set an option of the real socket. TCP options are ignored if the proxy connected over a UNIX socket."""
        if level != socket.IPPROTO_TCP or self._below.family != AF_UNIX:
            self._below.setsockopt(level, *arguments)
