"""uvicorn: the header for ASGI applications, as ``scope["extensions"]["proxy_protocol"]``.

The client's address does not need this: it is in ``scope["client"]`` already. This is for the rest of the header, such
as its TLVs: ``uvicorn --loop proxyprotocol.asyncio:new_event_loop --http proxyprotocol.integrations.uvicorn:auto
app:app``.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from uvicorn.config import Config

__all__ = ["auto", "h11", "httptools"]

_Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


def _protocol(module: str, name: str, description: str) -> Callable[..., asyncio.Protocol]:
    """Return what uvicorn calls to make the protocol of a connection; the server imports uvicorn's own class."""

    def make(config: Config, **keywords: Any) -> asyncio.Protocol:
        kind = getattr(importlib.import_module(f"uvicorn.protocols.http.{module}"), name)
        return _Beginning(kind, config, **keywords)

    make.__doc__ = f"""Make a connection's protocol: {description}.

    Its applications, also that of a WebSocket, find the header in ``scope["extensions"]["proxy_protocol"]``:
    ``{{"result": ...}}`` with the :class:`.ProxyResult`. Without a header the scope has no such extension.

    Args:
        config: uvicorn's configuration.
        keywords: The other arguments of uvicorn's own class.
    """
    return make


auto = _protocol("auto", "AutoHTTPProtocol", "httptools if it is installed, else h11")
h11 = _protocol("h11_impl", "H11Protocol", "h11")
httptools = _protocol("httptools_impl", "HttpToolsProtocol", "httptools")


class _Beginning(asyncio.Protocol):
    """Makes a connection's protocol with an application of its own that knows the header, and hands over to it.

    uvicorn's protocols, those of WebSockets too, take their application from the configuration, and tell it nothing of
    the connection but the two addresses. We tried a context variable instead: uvloop calls the protocols of all
    connections in one and the same context.
    """

    def __init__(self, kind: Callable[..., asyncio.Protocol], config: Config, **keywords: Any) -> None:
        self._kind, self._config, self._keywords = kind, config, keywords

    def connection_made(self, transport: Any) -> None:
        config = self._config
        result = transport.get_extra_info("proxy_protocol")
        if result is not None:
            config = copy.copy(config)
            config.loaded_app = _extended(config.loaded_app, {"proxy_protocol": {"result": result}})
        protocol = self._kind(config=config, **self._keywords)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _extended(application: _Application, extensions: dict[str, Any]) -> _Application:
    """Return an application whose scopes have these extensions too."""

    async def extended(scope: Any, receive: Any, send: Any) -> None:
        await application({**scope, "extensions": {**scope.get("extensions", {}), **extensions}}, receive, send)

    return extended
