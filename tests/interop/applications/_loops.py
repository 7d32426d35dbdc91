"""Runs the asyncio applications, on a loop of either kind, and prints their ports."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeAlias

import uvloop

from proxyprotocol.asyncio import new_event_loop, new_uvloop_event_loop

_NewLoop: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

#: Loops that read a header on every listener, for servers without support for it.
READING: Mapping[str, _NewLoop] = {"asyncio": new_event_loop, "uvloop": new_uvloop_event_loop}
#: Ordinary loops, for servers that use one of our helpers.
PLAIN: Mapping[str, _NewLoop] = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


def server_context(certificate: str) -> ssl.SSLContext:
    """Return a server's TLS context, from a file of key and certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def tell_ports(addresses: Iterable[tuple[Any, ...]]) -> None:
    """Print the ports of an application, in the words of Twisted's log."""
    for address in addresses:
        print("An application starting on", address[1], flush=True)


def run(main: Callable[[str], Coroutine[Any, Any, None]], loops: Mapping[str, _NewLoop]) -> None:
    """Run an application until it is ended: ``<application> <kind of loop> <file of key and certificate>``."""
    kind, certificate = sys.argv[1:]
    loop = loops[kind]()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main(certificate))
