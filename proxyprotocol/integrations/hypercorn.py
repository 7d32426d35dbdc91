"""hypercorn: the header for ASGI applications, as ``scope["extensions"]["proxy_protocol"]``.

The client's address does not need this: ``hypercorn.asyncio.serve`` in a loop of :func:`.new_event_loop` has it in
``scope["client"]``.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from proxyprotocol._adapters.asgi import extended

__all__ = ["add_extension", "switch_on"]


@functools.cache
def add_extension() -> None:
    """Let the applications of hypercorn's servers find the header of their connection, on asyncio, uvloop and trio.

    Call it once, before a server begins, such as in the module of the application.

    Raises:
        AttributeError, ImportError, ValueError: This hypercorn lacks what the integration needs.
    """
    from hypercorn.protocol import ProtocolWrapper

    kind: Any = ProtocolWrapper
    begin = kind.__init__
    place = [*inspect.signature(begin).parameters].index("send") - 2  # without self and the application

    @functools.wraps(begin)
    def begin_extended(self: Any, app: Any, *arguments: Any) -> None:
        server = arguments[place].__self__  # the connection's: a method of it sends
        if hasattr(server, "writer"):
            result = server.writer.get_extra_info("proxy_protocol")
        else:  # trio's stream, or the one below its TLS
            result = getattr(getattr(server.stream, "transport_stream", server.stream), "result", None)
        begin(self, extended(app, result), *arguments)

    kind.__init__ = begin_extended


#: For ``proxyprotocol run``; the listeners are asyncio's, uvloop's or trio's.
switch_on = add_extension
