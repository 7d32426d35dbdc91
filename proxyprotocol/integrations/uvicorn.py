"""Floor 5: uvicorn. The header for ASGI applications, as ``scope["extensions"]["proxy_protocol"]``.

For the client's address nothing of this is needed: that is in ``scope["client"]`` already. This is for the rest of the
header, such as its TLVs, which uvicorn has no place for: ``uvicorn --loop proxyprotocol.asyncio:new_event_loop --http
proxyprotocol.integrations.uvicorn:auto app:app``.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ["auto", "h11", "httptools"]

_Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


def auto(config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> asyncio.Protocol:
    """Make the protocol of a connection, that of httptools if it is there, else that of h11.

    Its applications, also that of a WebSocket, are told the header: ``scope["extensions"]["proxy_protocol"]`` is
    ``{"result": ...}`` with the :class:`.ProxyResult`; it is not there where there was no header.

    Args:
        config: What uvicorn calls this with.
        server_state: Likewise.
        app_state: Likewise.
        _loop: Likewise.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    return _Beginning(AutoHTTPProtocol, config, server_state=server_state, app_state=app_state, _loop=_loop)


def h11(config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> asyncio.Protocol:
    """Make the protocol of a connection, that of h11; for the rest as :func:`auto`.

    Args:
        config: What uvicorn calls this with.
        server_state: Likewise.
        app_state: Likewise.
        _loop: Likewise.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return _Beginning(H11Protocol, config, server_state=server_state, app_state=app_state, _loop=_loop)


def httptools(
    config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
) -> asyncio.Protocol:
    """Make the protocol of a connection, that of httptools; for the rest as :func:`auto`.

    Args:
        config: What uvicorn calls this with.
        server_state: Likewise.
        app_state: Likewise.
        _loop: Likewise.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    return _Beginning(HttpToolsProtocol, config, server_state=server_state, app_state=app_state, _loop=_loop)


class _Beginning(asyncio.Protocol):
    """Gives a connection's protocol an application of its own, that knows the header, and is gone.

    uvicorn's protocols take their application from the configuration, those of WebSockets too, and hand it nothing of
    the connection but the two addresses. Tried instead: a context variable. uvloop calls the protocols of all
    connections in one and the same context.

    Args:
        kind: The class of the protocol.
        config: The configuration.
        arguments: What else the protocol is made with.
    """

    def __init__(self, kind: Callable[..., asyncio.Protocol], config: Config, **arguments: Any) -> None:
        self._kind, self._config, self._arguments = kind, config, arguments

    def connection_made(self, transport: Any) -> None:
        config = self._config
        result = transport.get_extra_info("proxy_protocol")
        if result is not None:
            config = copy.copy(config)
            config.loaded_app = _told(config.loaded_app, {"result": result})
        protocol = self._kind(config=config, **self._arguments)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _told(application: _Application, extension: dict[str, Any]) -> _Application:
    async def told(scope: Any, receive: Any, send: Any) -> None:
        extensions = {**scope.get("extensions", {}), "proxy_protocol": extension}
        await application({**scope, "extensions": extensions}, receive, send)

    return told
