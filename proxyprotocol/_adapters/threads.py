"""What the integrations of servers with threads, greenlets or a loop of their own share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from proxyprotocol._adapters.listener import Listener, ThreadClock, logging_to
from proxyprotocol._adapters.settings import Settings, covered
from proxyprotocol.receiver import Receiver

_log = logging.getLogger("proxyprotocol.sync")


def own_settings(receiver: Receiver | None, keywords: Mapping[str, Any], tls_timeout: float | None) -> Settings:
    """Return the rules that a program gives its server, from the arguments of ``read_headers()``; for every port."""
    return Settings(Receiver.of(receiver, keywords, ["receiver", "tls_timeout"]), tls_timeout, None)


def cover(sock: Any, receiver: Receiver) -> Listener:
    """Return the log of a listening socket on which an integration reads headers from now on, after its start line."""
    covered.add(sock)
    listener = Listener(receiver, logging_to(_log), ThreadClock())
    listener.start(sock.getsockname())
    return listener
