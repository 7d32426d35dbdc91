"""asyncio: every listener of every event loop reads headers, for ``proxyprotocol run``.

In code of your own, use :mod:`proxyprotocol.asyncio`.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

__all__ = ["hook_loops", "switch_on"]


@functools.cache
def switch_on() -> None:
    """Let all later loops read headers, by the environment variables of :func:`.new_event_loop`."""
    hook_loops(asyncio.SelectorEventLoop)


def hook_loops(kind: Any) -> None:
    """Let each later loop of a class, and of the classes derived from it, read headers on its listeners."""
    begin = kind.__init__

    @functools.wraps(begin)
    def init(loop: Any, *args: Any, **keywords: Any) -> None:
        begin(loop, *args, **keywords)
        # not before: most programs that import asyncio make no loop
        from proxyprotocol.asyncio.loop import read_headers

        read_headers(loop)

    kind.__init__ = init
