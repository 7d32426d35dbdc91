"""One subject of ``servers.py``: a server in a process of its own. Not for running by hand.

The first argument says which server. Its port comes on standard output; then each line of standard input is a question
that is answered with one line: ``cpu`` (seconds used so far), ``memory`` (bytes resident). It ends with its input.

What every server does is the same: it counts what it is sent up to a line feed, and tells the number.
"""

# ruff: noqa: N802 (Twisted's interfaces prescribe these names)

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

__all__ = ["SERVERS"]

TIMEOUT = 300.0  # seconds for a header: the pending connections of a benchmark must outlive it


def answer(line: str) -> str:
    """Answer a question of ``servers.py``."""
    if line.strip() == "cpu":
        return repr(time.process_time())
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return str(pages * os.sysconf("SC_PAGE_SIZE"))


def run_twisted(wrap: Callable[[Any], Any]) -> None:
    """Serve with Twisted's epoll reactor, which is what runs on Linux."""
    from twisted.internet import epollreactor, protocol

    epollreactor.install()
    from twisted.internet import reactor

    class Count(protocol.Protocol):
        count = 0

        def dataReceived(self, data: bytes) -> None:
            self.count += len(data)
            if data.endswith(b"\n"):
                assert self.transport is not None
                self.transport.write(b"%d" % self.count)
                self.transport.loseConnection()

    class Questions(protocol.Protocol):
        def dataReceived(self, data: bytes) -> None:
            for line in data.decode().splitlines():
                print(answer(line), flush=True)

        def connectionLost(self, reason: Any = None) -> None:
            twisted_reactor.stop()

    from twisted.internet.stdio import StandardIO

    twisted_reactor: Any = reactor
    factory = protocol.Factory.forProtocol(Count)
    factory.noisy = False
    port = twisted_reactor.listenTCP(0, wrap(factory), backlog=1024, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    StandardIO(Questions())
    twisted_reactor.run()


def twisted_bare() -> None:
    """Twisted without a header."""
    run_twisted(lambda factory: factory)


def twisted_haproxy() -> None:
    """Twisted's own wrapper."""
    from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory

    run_twisted(HAProxyWrappingFactory)


def twisted_ours() -> None:
    """Our wrapper for Twisted."""
    from proxyprotocol.twisted import ProxyProtocolWrapperFactory

    run_twisted(lambda factory: ProxyProtocolWrapperFactory(factory, timeout=TIMEOUT))


async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: object = None) -> None:
    """Count what a connection brings, and tell the number."""
    received = 0
    while data := await reader.read(1 << 18):
        received += len(data)
        if data.endswith(b"\n"):
            writer.write(b"%d" % received)
            break
    writer.close()


def run_asyncio(start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Serve with asyncio's streams."""

    async def main() -> None:
        server = await start()
        print(server.sockets[0].getsockname()[1], flush=True)
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_reader(sys.stdin.fileno(), take_questions, ended)
        await ended
        server.close()

    asyncio.run(main())


def take_questions(ended: asyncio.Future[None]) -> None:
    """Answer what is asked on standard input."""
    questions = os.read(sys.stdin.fileno(), 1024).decode()
    for line in questions.splitlines():
        print(answer(line), flush=True)
    if not questions and not ended.done():
        ended.set_result(None)


def asyncio_bare() -> None:
    """Asyncio without a header."""
    run_asyncio(lambda: asyncio.start_server(count, "127.0.0.1", 0, backlog=1024))


def asyncio_callback() -> None:
    """The established way, ``get_callback``, of whichever package this interpreter has."""
    from proxyprotocol.detect import ProxyProtocolDetect
    from proxyprotocol.reader import ProxyProtocolReader

    callback = ProxyProtocolReader(ProxyProtocolDetect()).get_callback(count)
    run_asyncio(lambda: asyncio.start_server(callback, "127.0.0.1", 0, backlog=1024))


def asyncio_ours() -> None:
    """Our ``start_server``."""
    from proxyprotocol.asyncio import start_server

    run_asyncio(lambda: start_server(count, "127.0.0.1", 0, backlog=1024, timeout=TIMEOUT))


SERVERS: dict[str, Callable[[], None]] = {
    "twisted-bare": twisted_bare,
    "twisted-haproxy": twisted_haproxy,
    "twisted-ours": twisted_ours,
    "asyncio-bare": asyncio_bare,
    "asyncio-established": asyncio_callback,
    "asyncio-callback": asyncio_callback,
    "asyncio-ours": asyncio_ours,
}

if __name__ == "__main__":
    logging.disable()  # a line for each connection that was left in its header
    SERVERS[sys.argv[1]]()
