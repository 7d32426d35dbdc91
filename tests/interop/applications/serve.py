"""Listens, for applications that have no command of their own."""

from __future__ import annotations

import sys
from typing import cast

from twisted.application import strports
from twisted.internet import reactor
from twisted.internet.interfaces import IProtocolFactory, IReactorCore
from twisted.python import log


def serve(factory: IProtocolFactory) -> None:
    """Serve at the endpoints that the command line describes."""
    log.startLogging(sys.stdout)
    for description in sys.argv[1:]:
        strports.service(description, factory).startService()
    cast(IReactorCore, reactor).run()
