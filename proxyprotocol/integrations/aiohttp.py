"""Floor 5: aiohttp. A site whose connections begin with a header, so that ``request.remote`` is the client."""

from __future__ import annotations

import os
import ssl
from typing import Any

from aiohttp import web

from proxyprotocol.asyncio.server import create_server, create_unix_server

__all__ = ["ProxySite"]


class ProxySite(web.BaseSite):
    """A site of an aiohttp runner, in the place of its own ``TCPSite``, ``UnixSite`` and ``SockSite``.

    ``request.remote`` is the client, in the access log too. The header itself, TLVs and all, is
    ``request.transport.get_extra_info("proxy_protocol")``.

    Args:
        runner: The ``AppRunner`` or ``ServerRunner``, set up already.
        host: Where to listen, as ``loop.create_server`` takes it.
        port: Likewise. Unless given it is 8080, and 8443 with TLS, as of a ``TCPSite``.
        path: The UNIX socket to listen on, in place of host and port.
        ssl_context: What TLS *behind* the header is done with.
        keywords: All others of :func:`.create_server`: ``receiver``, or ``pp``, ``policy``, ``timeout`` (seconds) and
            ``max_header`` (bytes); ``backlog``, ``reuse_port``, ``sock`` in place of host and port.

    Raises:
        RuntimeError: The runner is not set up.
        TypeError: There is more than one place to listen.
    """

    # a class with slots, which says what it adds
    __slots__ = ("_host", "_keywords", "_path", "_port")

    def __init__(
        self,
        runner: web.BaseRunner,
        host: str | None = None,
        port: int | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context)
        places = [(host, port) != (None, None), path is not None, keywords.get("sock") is not None]
        if sum(places) > 1:
            raise TypeError("A site listens in one place: at a host and port, on a path, or on sock")
        if port is None and not any(places[1:]):
            port = 8080 if ssl_context is None else 8443
        self._host, self._port, self._path = host, port, path
        self._keywords: dict[str, Any] = {"ssl": ssl_context, "backlog": 128, **keywords}

    @property
    def name(self) -> str:
        """Where it listens, as a URL for people."""
        scheme = "http" if self._keywords["ssl"] is None else "https"
        sock = self._keywords.get("sock")
        place = sock.getsockname() if sock is not None else self._path
        if isinstance(place, tuple):
            host, port = place[:2]
        elif place is not None:
            return f"{scheme}://unix:{place}:"
        else:
            host, port = self._host or "0.0.0.0", self._port  # noqa: S104  # as a TCPSite has it
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            RuntimeError: It does so already.
            OSError: The place cannot be listened on.
            Exception: As :func:`.create_server`.
        """
        await super().start()
        factory: Any = self._runner.server
        # not to be had otherwise: runner.addresses and stop() ask for this, and aiohttp's own sites assign to it
        if self._path is not None:
            self._server = await create_unix_server(factory, self._path, **self._keywords)
        else:
            self._server = await create_server(factory, self._host, self._port, **self._keywords)
