"""Headers for Twisted applications that call ``reactor.listenTCP`` or ``listenSSL``, and take no endpoint string."""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.posixbase import PosixReactorBase

from proxyprotocol._adapters.settings import UNIX, covered, process_settings, startup_failure
from proxyprotocol.twisted import ProxyProtocolWrapperFactory
from proxyprotocol.twisted.factory import reads_header
from proxyprotocol.twisted.transport import emit, local_address

__all__ = ["switch_on"]

_PORTS_SETTLE: Final = 5.0  # seconds after which an application has opened the ports that it opens at its start


@functools.cache
def switch_on() -> None:
    """Make Twisted's reactors read a header on each connection, by the environment variables ``PROXYPROTOCOL_*``.

    Call this before the application listens. From then on ``listenTCP``, ``listenUNIX`` and ``adoptStreamPort`` wrap
    the factory in a :class:`.ProxyProtocolWrapperFactory`, and ``listenSSL`` starts TLS after the header. Everything of
    Twisted that listens for connections calls these: endpoints, ``twisted.application.strports``, ``TCPServer``. A
    factory of this package keeps its own rules. ``PROXYPROTOCOL_PORTS`` limits the ports. A second call does nothing.

    Raises:
        SystemExit: A variable is wrong, or the installed reactor is not one of Twisted's for POSIX systems. A sentence
            on standard error says so.
    """
    reactor = sys.modules.get("twisted.internet.reactor")  # importing it would install one
    if reactor is not None and not isinstance(reactor, PosixReactorBase):
        kind = f"{type(reactor).__module__}.{type(reactor).__qualname__}"
        raise startup_failure(
            f"The reactor {kind} cannot read headers: choose another, such as twistd --reactor=select"
        )
    settings, base = process_settings(), cast(Any, PosixReactorBase)
    tcp, ssl, unix, adopt = base.listenTCP, base.listenSSL, base.listenUNIX, base.adoptStreamPort

    def covers(reactor: Any, listener: Any) -> bool:
        if settings.ports and not settings.heard:
            reactor.callLater(_PORTS_SETTLE, settings.check_ports, _Log)
        return settings.covers(listener)

    def listen(covered_port: bool, factory: Any, open_port: Callable[[Any], Any], tls: Any = None) -> Any:
        if reads_header(factory):
            port = open_port(factory)
        elif not covered_port:
            return open_port(factory)
        else:
            wrapper = ProxyProtocolWrapperFactory(
                factory, tls=tls, tls_timeout=settings.tls_timeout, receiver=settings.receiver
            )
            wrapper.startFactory = lambda: None  # type: ignore[method-assign]  # we know the port, so we log the start
            port = open_port(wrapper)
            wrapper.listener.start(local_address(port))
        covered.add(port.socket)
        return port

    def listenTCP(self: Any, port: Any, factory: Any, *rest: Any, **keywords: Any) -> Any:
        return listen(covers(self, port), factory, lambda wrapper: tcp(self, port, wrapper, *rest, **keywords))

    def listenSSL(self: Any, port: Any, factory: Any, contextFactory: Any, *rest: Any, **keywords: Any) -> Any:
        if reads_header(factory) or not covers(self, port):
            return ssl(self, port, factory, contextFactory, *rest, **keywords)  # which calls listenTCP
        return listen(True, factory, lambda wrapper: tcp(self, port, wrapper, *rest, **keywords), contextFactory)

    def listenUNIX(self: Any, address: Any, factory: Any, *rest: Any, **keywords: Any) -> Any:
        return listen(covers(self, UNIX), factory, lambda wrapper: unix(self, address, wrapper, *rest, **keywords))

    def adoptStreamPort(self: Any, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        with socket.socket(fileno=os.dup(fileDescriptor)) as listener:
            covered_port = covers(self, listener)
        return listen(covered_port, factory, lambda wrapper: adopt(self, fileDescriptor, addressFamily, wrapper))

    for method in (listenTCP, listenSSL, listenUNIX, adoptStreamPort):
        setattr(base, method.__name__, method)


class _Log:
    """Writes a warning, as a logger of the standard library takes it, to Twisted's log."""

    @staticmethod
    def warning(text: str, *values: object) -> None:
        emit(logging.WARNING, text % values, {})
