"""uvicorn: the header for ASGI applications, as ``scope["extensions"]["proxy_protocol"]``.

The client's address does not need this: it is in ``scope["client"]`` already. This is for the rest of the header, such
as its TLVs: ``uvicorn --loop proxyprotocol.asyncio:new_event_loop --http proxyprotocol.integrations.uvicorn:auto
app:app``. The extension is ``{"result": ...}`` with the :class:`.ProxyResult`, for WebSockets too. Without a header the
scope has no such extension.
"""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from proxyprotocol._adapters.asgi import extended

if TYPE_CHECKING:
    from uvicorn.config import Config

__all__ = ["auto", "h11", "httptools", "switch_on"]


class _Beginning(asyncio.Protocol):
    """Makes a connection's protocol with an application of its own that knows the header, and hands over to it.

    uvicorn's protocols, those of WebSockets too, take their application from the configuration, and tell it only the
    two addresses of the connection. We tried a context variable instead: uvloop calls the protocols of all
    connections in one and the same context.
    """

    def __init__(self, protocol: Any, config: Config, **keywords: Any) -> None:
        self._protocol, self._config, self._keywords = protocol, config, keywords

    def connection_made(self, transport: Any) -> None:
        from uvicorn.importer import import_from_string  # only a server that uses this module needs uvicorn

        config, result = self._config, transport.get_extra_info("proxy_protocol")
        if result is not None:
            config = copy.copy(config)
            config.loaded_app = extended(config.loaded_app, result)
        kind = self._protocol
        make = import_from_string(f"uvicorn.protocols.http.{kind}") if isinstance(kind, str) else kind
        protocol = make(config=config, **self._keywords)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


#: For ``--http``: httptools if it is installed, else h11.
auto: Callable[..., asyncio.Protocol] = partial(_Beginning, "auto:AutoHTTPProtocol")
#: For ``--http``: h11.
h11: Callable[..., asyncio.Protocol] = partial(_Beginning, "h11_impl:H11Protocol")
#: For ``--http``: httptools.
httptools: Callable[..., asyncio.Protocol] = partial(_Beginning, "httptools_impl:HttpToolsProtocol")


@functools.cache
def switch_on() -> None:
    """Give every application of this process the extension, whatever ``--http`` says."""
    from uvicorn import config as module

    kind: Any = module.Config
    load = kind.load

    @functools.wraps(load)
    def extended_load(config: Any) -> None:
        load(config)
        if getattr(config.http_protocol_class, "func", None) is not _Beginning:
            config.http_protocol_class = partial(_Beginning, config.http_protocol_class)

    kind.load = extended_load
