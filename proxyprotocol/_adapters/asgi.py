"""The header for ASGI applications, as ``scope["extensions"]["proxy_protocol"]``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from proxyprotocol.result import ProxyResult


def extend(scope: dict[str, Any], result: ProxyResult | None) -> dict[str, Any]:
    """Return a scope with the header of its connection; the same scope if there was none."""
    if result is None:
        return scope
    return {**scope, "extensions": {**(scope.get("extensions") or {}), "proxy_protocol": {"result": result}}}


def extended(application: Callable[..., Awaitable[Any]], result: ProxyResult | None) -> Callable[..., Awaitable[Any]]:
    """Return an application that finds the header of its connection in its scope."""
    if result is None:
        return application

    async def extending(scope: dict[str, Any], *arguments: Any) -> Any:
        return await application(extend(scope, result), *arguments)

    return extending
