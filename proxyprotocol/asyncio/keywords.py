"""The keywords that are passed on to the loop: a misspelt one is named."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from typing import Any

from proxyprotocol.messages import describe_unknown

__all__ = ["call_loop"]


async def call_loop(method: Any, *args: Any, known: Iterable[str], **keywords: Any) -> Any:
    """Call a method of a loop. If that fails for a keyword that does not exist, say which one was probably meant.

    Args:
        method: The method.
        args: Its arguments.
        known: The keywords that the caller takes itself.
        keywords: The keywords of the method.

    Raises:
        TypeError: The loop and the caller do not know this keyword.
    """
    try:
        return await method(*args, **keywords)
    except TypeError:  # not before: another loop may know more keywords than asyncio's
        names = {*known, *inspect.signature(getattr(asyncio.SelectorEventLoop, method.__name__)).parameters} - {"self"}
        for name in keywords:
            if name not in names:
                raise TypeError(describe_unknown("keyword", name, sorted(names))) from None
        raise
