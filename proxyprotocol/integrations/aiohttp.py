"""aiohttp: a site whose connections begin with a header, so that ``request.remote`` is the client."""

from __future__ import annotations

import os
import ssl
from typing import Any

from aiohttp import web

from proxyprotocol.asyncio.server import create_server, create_unix_server

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

    # aiohttp's sites have slots
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
            host, port = self._host or "0.0.0.0", self._port  # noqa: S104  # as a TCPSite says
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            RuntimeError: The site listens already.
            Exception: As :func:`.create_server`.
        """
        await super().start()
        factory: Any = self._runner.server
        # aiohttp offers no other way: its own sites assign _server too, for runner.addresses and stop()
        if self._path is not None:
            self._server = await create_unix_server(factory, self._path, **self._keywords)
        else:
            self._server = await create_server(factory, self._host, self._port, **self._keywords)
