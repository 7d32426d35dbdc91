"""aiohttp: a site whose connections begin with a header, so that ``request.remote`` is the client."""

from __future__ import annotations

import os
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxyprotocol.asyncio.server import create_server, create_unix_server
from proxyprotocol.asyncio.typing import ServerKeywords

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxySite"]


class ProxySite(web.BaseSite):
    """A site of an aiohttp runner, in place of aiohttp's own ``TCPSite``, ``UnixSite`` and ``SockSite``.

    ``request.remote`` is the client, in the access log too. ``request.transport.get_extra_info("proxy_protocol")`` is
    the whole header with its TLVs.

    Args:
        runner: The ``AppRunner`` or ``ServerRunner``, set up already.
        host: Where to listen, as ``loop.create_server`` takes it.
        port: The port to listen on. By default 8080, with TLS 8443, as a ``TCPSite`` does.
        path: The UNIX socket to listen on, in place of host and port.
        ssl_context: The context for TLS *after* the header.
        keywords: All others of :func:`.create_server`: ``receiver``, or ``pp``, ``policy``, ``timeout`` (seconds) and
            ``max_header`` (bytes); ``backlog``, ``reuse_port``, ``sock`` in place of host and port.

    Raises:
        RuntimeError: The runner is not set up.
        TypeError: There is more than one place to listen.
    """

    __slots__ = ("_listen", "_name")  # aiohttp's sites have slots

    def __init__(
        self,
        runner: web.BaseRunner,
        host: str | None = None,
        port: int | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **keywords: Unpack[ServerKeywords],
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context)
        factory: Any = runner.server
        sock = keywords.get("sock")
        if sum(((host, port) != (None, None), path is not None, sock is not None)) > 1:
            raise TypeError("A site listens in one place: at a host and port, on a path, or on sock")
        options: Any = {"ssl": ssl_context, "backlog": 128, **keywords}
        alike: web.BaseSite
        if path is not None:
            alike = web.UnixSite(runner, path, ssl_context=ssl_context)
            self._listen: Any = partial(create_unix_server, factory, path, **options)
        elif sock is not None:
            alike = web.SockSite(runner, sock, ssl_context=ssl_context)
            self._listen = partial(create_server, factory, **options)
        else:
            if port is None:
                port = 8080 if ssl_context is None else 8443
            alike = web.TCPSite(runner, host, port, ssl_context=ssl_context)
            self._listen = partial(create_server, factory, host, port, **options)
        self._name = alike.name

    @property
    def name(self) -> str:
        """Where it listens, as aiohttp's own site would say it."""
        return self._name

    async def start(self) -> None:
        """Listen. Raises a RuntimeError if the site listens already, else whatever :func:`.create_server` raises."""
        await super().start()
        # aiohttp offers no other way: its own sites assign _server too, for runner.addresses and stop()
        self._server = await self._listen()
