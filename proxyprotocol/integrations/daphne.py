"""daphne: the header for ASGI applications, as ``scope["extensions"]["proxy_protocol"]``.

The client's address does not need this: ``daphne -e proxyprotocol:tcp:8000 app:app`` has it in ``scope["client"]``.
"""

from __future__ import annotations

import functools
from typing import Any

from twisted.logger import LogEvent, STDLibLogObserver, globalLogPublisher

from proxyprotocol._adapters.asgi import extend
from proxyprotocol.twisted import proxy_result

__all__ = ["add_extension", "switch_on"]


@functools.cache
def add_extension() -> None:
    """Let the applications of daphne's servers find the header of their connection, for WebSockets too.

    Call it once, such as in the module of the application. It also shows what listeners read and refuse: without
    ``-v 2``, daphne discards Twisted's log.

    Raises:
        AttributeError, ImportError: This daphne lacks what the integration needs.
    """
    from daphne.server import Server  # type: ignore[import-untyped]

    begin, run = Server.create_application, Server.run

    @functools.wraps(begin)
    def create_application(self: Any, protocol: Any, scope: dict[str, Any]) -> Any:
        # the streams of HTTP/2 have no transport: their connection has it
        connection = getattr(getattr(protocol, "channel", None), "_conn", protocol)
        return begin(self, protocol, extend(scope, proxy_result(connection.transport)))

    @functools.wraps(run)
    def run_with_log(self: Any) -> None:
        if self.verbosity <= 1:
            globalLogPublisher.addObserver(_observe)  # type: ignore[arg-type]
        run(self)

    Server.create_application, Server.run = create_application, run_with_log


_show = STDLibLogObserver("proxyprotocol.twisted")


def _observe(event: LogEvent) -> None:
    if event.get("log_namespace", "").startswith("proxyprotocol."):
        _show(event)


#: For ``proxyprotocol run``; the listeners are Twisted's.
switch_on = add_extension
