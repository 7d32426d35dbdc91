"""TLS that begins later, on a connection that has begun without: ``start_tls`` of loops and of streams."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from proxyprotocol.asyncio import create_connection, new_event_loop, new_uvloop_event_loop
from tests import _loops
from tests._loops import (
    CLIENT,
    HEADER,
    App,
    Apps,
    BufferedApp,
    Peer,
    Record,
    Run,
    StreamApps,
    connected,
    listening,
    turns,
    until,
)
from tests.interop._certificates import SERVER_NAME, Certificates

certificates, log = _loops.certificates, _loops.log
pytestmark = pytest.mark.usefixtures("log")

both_kinds = pytest.mark.parametrize("kind", [App, BufferedApp])

OURS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio of ours": new_event_loop,
    "uvloop of ours": new_uvloop_event_loop,
}


@pytest.fixture(params=OURS.values(), ids=list(OURS))
def run(request: pytest.FixtureRequest) -> Run:
    """What runs a test's story, once on each of our loops."""
    return Run(request.param)


# asyncio's own takes our transport, because that of the connection below it says that it can be taken
taken = pytest.mark.parametrize("run", [Run(asyncio.SelectorEventLoop), *map(Run, OURS.values())], ids=["bare", *OURS])


@contextlib.asynccontextmanager
async def asking_for_tls(apps: Apps, certificates: Certificates) -> AsyncIterator[tuple[Any, Peer]]:
    """Connect, and ask an application to begin TLS; gives that application, and the other end."""
    async with listening(apps) as server, connected(server, context=certificates.client_context()) as peer:
        await peer.send(HEADER + b"STARTTLS\n")
        await until(lambda: apps.made and apps.app.received == b"STARTTLS\n")
        app = apps.app
        app.read, app.received = Record().read, b""
        yield app, peer


def start_tls(app: Any, certificates: Certificates, **keywords: Any) -> asyncio.Task[Any]:
    """Begin TLS below an application."""
    loop, context = asyncio.get_running_loop(), certificates.server_context()
    return asyncio.create_task(loop.start_tls(app.transport, app, context, server_side=True, **keywords))


def silent(kind: type[Record] = App) -> Apps:
    """An application that says nothing to what it is asked before TLS."""
    return Apps(kind, read=lambda app: None)


@taken
@both_kinds
def test_tls_may_begin_later(run: Run, certificates: Certificates, kind: type[Record]) -> None:
    async def story() -> None:
        async with asking_for_tls(silent(kind), certificates) as (app, peer):
            starting = start_tls(app, certificates)
            await turns()
            await peer.shake_hands()
            app.transport = await starting
            await peer.say(b"data\n")
            assert await peer.hear(b"\n") == b"answer to data\n"
            for name, fact in (("peername", CLIENT), ("proxy_peername", peer.sock.getsockname())):
                assert app.transport.get_extra_info(name) == fact
            assert app.transport.get_extra_info("cipher")
            assert app.transport.get_protocol() is app
            peer.sock.close()
            await until(lambda: app.lost)

    run(story)


@taken
def test_it_may_begin_with_bytes_that_waited(run: Run, certificates: Certificates) -> None:
    """A ClientHello in the header's own segment, for an application that begins TLS by itself."""
    apps = Apps(begin=lambda app: app.transport.pause_reading())

    async def story() -> None:
        async with listening(apps) as server, connected(server, context=certificates.client_context()) as peer:
            shaking = asyncio.create_task(peer.shake_hands(HEADER))
            await until(lambda: apps.made and apps.app.transport)
            app = apps.app
            app.transport = await start_tls(app, certificates)
            await shaking
            await peer.say(b"data\n")
            assert await peer.hear(b"\n") == b"answer to data\n"

    run(story)


async def say_what_is_no_tls(app: Any, peer: Peer, starting: Any) -> None:
    await peer.send(b"no ClientHello\n")


async def close(app: Any, peer: Peer, starting: Any) -> None:
    peer.sock.close()


async def reset(app: Any, peer: Peer, starting: Any) -> None:
    peer.reset()


async def abort(app: Any, peer: Peer, starting: Any) -> None:
    app.transport.abort()


async def cancel(app: Any, peer: Peer, starting: Any) -> None:
    starting.cancel()


async def nothing(app: Any, peer: Peer, starting: Any) -> None:
    pass


_End = Callable[[Any, Peer, Any], Awaitable[None]]
ENDS: dict[str, tuple[_End, type[BaseException]]] = {
    "no TLS": (say_what_is_no_tls, OSError),
    "closed": (close, ConnectionResetError),
    "reset": (reset, ConnectionError),
    "aborted": (abort, ConnectionAbortedError),
    "cancelled": (cancel, asyncio.CancelledError),
    "out of time": (nothing, ConnectionAbortedError),
}


@pytest.mark.parametrize(("end", "error"), ENDS.values(), ids=ENDS)
def test_a_handshake_that_fails_is_an_error_and_ends_the_connection(
    run: Run, certificates: Certificates, end: _End, error: type[BaseException]
) -> None:
    """The application, which has begun, is told of the end, and once. asyncio forgets that after a reset."""
    patience = 0.05 if end is nothing else 60.0

    async def story() -> None:
        async with asking_for_tls(silent(), certificates) as (app, peer):
            starting = start_tls(app, certificates, ssl_handshake_timeout=patience)
            await turns()
            await end(app, peer, starting)
            with pytest.raises(error):
                await starting
            assert app.transport.is_closing()
            await until(lambda: app.lost)
            await turns(5)
            assert (len(app.lost), app.received) == (1, b"")

    run(story)


def test_a_connection_that_is_closed_has_no_tls(run: Run, certificates: Certificates) -> None:
    async def story() -> None:
        async with asking_for_tls(silent(), certificates) as (app, _):
            app.transport.close()
            with pytest.raises(ConnectionAbortedError, match="before its TLS handshake"):
                await start_tls(app, certificates)
            await until(lambda: app.lost)

    run(story)


WRONG: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "a time": ({"ssl_handshake_timeout": 0}, ValueError),
    "another time": ({"ssl_shutdown_timeout": -1}, ValueError),
    "a keyword": ({"ssl_patience": 1}, TypeError),
    "no context": ({"sslcontext": None}, TypeError),
}


@pytest.mark.parametrize(("keywords", "error"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_leaves_the_connection_as_it_is(
    run: Run, certificates: Certificates, keywords: dict[str, Any], error: type[Exception]
) -> None:
    async def story() -> None:
        async with asking_for_tls(silent(), certificates) as (app, peer):
            arguments = {"sslcontext": certificates.server_context(), "server_side": True, **keywords}
            with pytest.raises(error):
                await asyncio.get_running_loop().start_tls(app.transport, app, **arguments)
            await peer.send(b"data\n")
            await until(lambda: app.received == b"data\n")

    run(story)


def test_transports_of_others_are_still_the_loop_s_own_matter(run: Run, certificates: Certificates) -> None:
    apps, client = silent(), App(begin=lambda app: app.transport.write(HEADER + b"STARTTLS\n"), read=lambda app: None)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with listening(apps) as server:
            await loop.create_connection(lambda: client, *server.sockets[0].getsockname())
            await until(lambda: apps.made and apps.app.received)
            app = apps.app
            app.read, app.received = Record().read, b""
            client.transport, app.transport = await asyncio.gather(
                loop.start_tls(client.transport, client, certificates.client_context(), server_hostname=SERVER_NAME),
                start_tls(app, certificates),
            )
            client.transport.write(b"data\n")
            await until(lambda: client.received == b"answer to data\n")
            client.transport.abort()

    run(story)


def test_uvloop_s_own_loop_takes_only_its_own_transports(certificates: Certificates) -> None:
    async def story() -> None:
        async with asking_for_tls(silent(), certificates) as (app, peer):
            with pytest.raises(TypeError, match="not supported by start_tls"):
                await start_tls(app, certificates)
            await peer.send(b"data\n")
            await until(lambda: app.received == b"data\n")

    Run(uvloop.new_event_loop)(story)


if sys.version_info >= (3, 11):  # before it there is no StreamWriter.start_tls, and no TLS in TLS
    # what a stream is told its loop is takes our transports on any loop
    every_loop = pytest.mark.parametrize(
        "run", [*map(Run, _loops.LOOPS.values()), *map(Run, OURS.values())], ids=[*_loops.LOOPS, *OURS]
    )

    class Upgrading(StreamApps):
        """Begins TLS when it is asked to, then answers one line."""

        def __init__(self, certificates: Certificates) -> None:
            super().__init__()
            self.certificates = certificates
            self.heard: list[Any] = []

        async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.heard.append(await reader.readline())
            await self.upgrade(writer)
            self.heard.append(await reader.readline())
            self.heard.append(writer.get_extra_info("peername"))
            writer.write(b"answer\n")
            await writer.drain()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        async def upgrade(self, writer: asyncio.StreamWriter) -> None:
            await writer.start_tls(self.certificates.server_context())

    async def begin_tls(peer: Peer, apps: Upgrading) -> None:
        await peer.send(HEADER + b"STARTTLS\n")
        await until(lambda: apps.heard)
        await peer.shake_hands()
        await peer.say(b"data\n")
        assert await peer.hear(b"\n") == b"answer\n"

    @every_loop
    def test_streams_may_begin_tls_later(run: Run, certificates: Certificates) -> None:
        apps = Upgrading(certificates)

        async def story() -> None:
            async with listening(apps) as server, connected(server, context=certificates.client_context()) as peer:
                await begin_tls(peer, apps)
                assert apps.heard == [b"STARTTLS\n", b"data\n", CLIENT]
                peer.sock.close()
                await turns(5)

        run(story)

    @every_loop
    def test_a_stream_is_told_of_a_handshake_that_fails(run: Run, certificates: Certificates) -> None:
        class Failing(Upgrading):
            async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self.heard.append(await reader.readline())
                with pytest.raises(OSError):
                    await self.upgrade(writer)
                with pytest.raises(OSError):
                    await writer.wait_closed()
                self.heard.append("closed")

        apps = Failing(certificates)

        async def story() -> None:
            async with listening(apps) as server, connected(server) as peer:
                await peer.send(HEADER + b"STARTTLS\n")
                await until(lambda: apps.heard)
                await peer.send(b"no ClientHello\n")
                await until(lambda: "closed" in apps.heard)

        run(story)

    def test_a_stream_in_tls_is_the_loop_s_own_matter(certificates: Certificates) -> None:
        """What it writes to is asyncio's transport by then, and uvloop takes that from nobody."""

        class Twice(Upgrading):
            async def upgrade(self, writer: asyncio.StreamWriter) -> None:
                await super().upgrade(writer)
                with pytest.raises(TypeError, match="not supported by start_tls"):
                    await super().upgrade(writer)

        apps = Twice(certificates)

        async def story() -> None:
            async with listening(apps) as server, connected(server, context=certificates.client_context()) as peer:
                await begin_tls(peer, apps)
                peer.sock.close()
                await turns(5)

        Run(uvloop.new_event_loop)(story)

    def test_tls_may_begin_within_tls(certificates: Certificates) -> None:
        """The connection below is asyncio's own TLS then, behind the header."""
        apps, client = silent(), App(begin=lambda app: app.transport.write(b"STARTTLS\n"), read=lambda app: None)

        async def story() -> None:
            loop, context = asyncio.get_running_loop(), certificates.client_context()
            async with listening(apps, ssl=certificates.server_context()) as server:
                address = server.sockets[0].getsockname()
                outer, _ = await create_connection(lambda: client, *address, ssl=context, server_hostname=SERVER_NAME)
                await until(lambda: apps.made and apps.app.received)
                app = apps.app
                app.read, app.received = Record().read, b""
                client.transport, app.transport = await asyncio.gather(
                    loop.start_tls(outer, client, context, server_hostname=SERVER_NAME), start_tls(app, certificates)
                )
                client.transport.write(b"data\n")
                await until(lambda: client.received == b"answer to data\n")
                outer.abort()
                await until(lambda: client.lost and app.lost)

        Run(new_event_loop)(story)
