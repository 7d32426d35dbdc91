"""uvloop: every listener of every event loop reads headers, for ``proxyprotocol run``.

In code of your own, use :func:`proxyprotocol.asyncio.new_uvloop_event_loop`.
"""

from __future__ import annotations

import functools

import uvloop

from proxyprotocol.integrations.asyncio import hook_loops

__all__ = ["switch_on"]


@functools.cache
def switch_on() -> None:
    """Let all later loops read headers, by the environment variables of :func:`.new_event_loop`."""
    hook_loops(uvloop.Loop)
