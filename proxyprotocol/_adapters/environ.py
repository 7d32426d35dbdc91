"""The header in the environ of WSGI applications."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from proxyprotocol.result import ProxyResult


@functools.cache
def telling(handler: Any, name: str, find: Callable[[Any], ProxyResult | None]) -> Any:
    """Return a handler's class that also puts the header into the environ.

    Args:
        handler: The class of a server that makes an instance for each connection or request. It is returned
            unchanged if it is not a class, or lacks the method.
        name: The method that makes the environ.
        find: Returns the header of a handler's connection.
    """
    if not isinstance(handler, type) or not hasattr(handler, name):
        return handler

    def environ(self: Any) -> dict[str, Any]:
        made: dict[str, Any] = getattr(super(subclass, self), name)()
        result = find(self)
        if result is not None:
            made["proxy_protocol"] = result
        return made

    subclass: Any = type(handler.__name__, (handler,), {name: environ, "__module__": handler.__module__})
    return subclass
