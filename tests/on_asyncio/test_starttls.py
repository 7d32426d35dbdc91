"""TLS that begins later on a connection: ``start_tls`` of loops and of streams."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys

# As aiosmtpd does, which begins TLS by itself.
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from proxyprotocol.asyncio import (
    create_connection,
    create_server,
    new_event_loop,
    new_uvloop_event_loop,
    open_connection,
    start_server,
)
from tests.interop._certificates import SERVER_NAME, Certificates
from tests.on_asyncio.loops import (
    CLIENT,
    HEADER,
    LOOPS,
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

pytestmark = pytest.mark.usefixtures("log")

both_kinds = pytest.mark.parametrize("kind", [App, BufferedApp])

OURS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "our asyncio": new_event_loop,
    "our uvloop": new_uvloop_event_loop,
}


@pytest.fixture(params=OURS.values(), ids=list(OURS))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's story, once on each of our loops."""
    return Run(request.param)


# asyncio's own loop takes our transport, because that asks the real transport for _start_tls_compatible
taken = pytest.mark.parametrize("run", [Run(asyncio.SelectorEventLoop), *map(Run, OURS.values())], ids=["bare", *OURS])


@contextlib.asynccontextmanager
async def asking_for_tls(apps: Apps, certificates: Certificates) -> AsyncIterator[tuple[Any, Peer]]:
    """Connect, ask an application to begin TLS, and yield that application and the client's end."""
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
    """An application that answers nothing before TLS."""
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
def test_tls_may_begin_with_bytes_that_came_before(run: Run, certificates: Certificates) -> None:
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
    """The application has begun, so it gets connection_lost, and once. asyncio forgets that after a reset."""
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


def test_start_tls_on_a_closed_connection_is_an_error(run: Run, certificates: Certificates) -> None:
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
def test_a_wrong_argument_of_start_tls_leaves_the_connection_open(
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


def test_start_tls_leaves_other_transports_to_the_loop(run: Run, certificates: Certificates) -> None:
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


def test_start_tls_of_a_plain_uvloop_refuses_our_transport(certificates: Certificates) -> None:
    async def story() -> None:
        async with asking_for_tls(silent(), certificates) as (app, peer):
            with pytest.raises(TypeError, match="not supported by start_tls"):
                await start_tls(app, certificates)
            await peer.send(b"data\n")
            await until(lambda: app.received == b"data\n")

    Run(uvloop.new_event_loop)(story)


# Bytes that come in the clear before TLS must never look as if they came through TLS. Each front is a way to begin TLS
# on a stream, on each loop where our code does it.

COMMAND = b"STARTTLS\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Upgrade = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Any], Awaitable[Streams]]
TIMES: dict[str, Any] = {
    "ssl_handshake_timeout": 3
}  # seconds; a handshake that has lost its ClientHello would otherwise wait for a minute


async def by_writer(reader: asyncio.StreamReader, writer: Any, tls: dict[str, Any]) -> Streams:
    tls = {name: value for name, value in tls.items() if name != "server_side"}
    await writer.start_tls(**tls, **TIMES)
    return reader, writer


async def by_loop(reader: asyncio.StreamReader, writer: Any, tls: dict[str, Any]) -> Streams:
    loop, protocol = asyncio.get_running_loop(), writer.transport.get_protocol()
    transport: Any = await loop.start_tls(writer.transport, protocol, **tls, **TIMES)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def by_hand(reader: asyncio.StreamReader, writer: Any, tls: dict[str, Any]) -> Streams:
    """Begin TLS as aiosmtpd does, without a loop's start_tls."""
    loop, protocol = asyncio.get_running_loop(), writer.transport.get_protocol()
    done = loop.create_future()
    layer = SSLProtocol(loop, protocol, tls["sslcontext"], done, True, call_connection_made=False, **TIMES)
    writer.transport.set_protocol(layer)
    layer.connection_made(writer.transport)
    await done
    return reader, asyncio.StreamWriter(layer._app_transport, protocol, reader, loop)


def create_stream_server(serve: Any, *address: Any, limit: int = 2**16) -> Awaitable[Any]:
    def make() -> asyncio.BaseProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit), serve)

    return create_server(make, *address)


async def create_stream_connection(*address: Any, **keywords: Any) -> Streams:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await create_connection(lambda: protocol, *address, **keywords)
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


BARE: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    f"bare {name}": new_loop for name, new_loop in LOOPS.items()
}
BARE_ASYNCIO = {"bare asyncio": BARE["bare asyncio"]}
EVERY = {**BARE, **OURS}
SERVERS: dict[str, tuple[Any, Upgrade, dict[str, Any]]] = {
    "loop.start_tls under create_server": (create_stream_server, by_loop, {**BARE_ASYNCIO, **OURS}),
    "loop.start_tls under asyncio.start_server": (asyncio.start_server, by_loop, OURS),
    "SSLProtocol under start_server": (start_server, by_hand, EVERY),
}
CLIENTS: dict[str, tuple[Any, Upgrade, dict[str, Any]]] = {
    "loop.start_tls above create_connection": (create_stream_connection, by_loop, OURS),
    "loop.start_tls above asyncio.open_connection": (asyncio.open_connection, by_loop, OURS),
}
if sys.version_info >= (3, 11):  # before it there is no StreamWriter.start_tls
    SERVERS["StreamWriter.start_tls of start_server"] = start_server, by_writer, EVERY
    SERVERS["StreamWriter.start_tls of asyncio.start_server"] = asyncio.start_server, by_writer, OURS
    CLIENTS["StreamWriter.start_tls of open_connection"] = open_connection, by_writer, EVERY
    CLIENTS["StreamWriter.start_tls of asyncio.open_connection"] = asyncio.open_connection, by_writer, OURS


def each_front(fronts: dict[str, tuple[Any, Upgrade, dict[str, Any]]]) -> pytest.MarkDecorator:
    """Each front, on each loop that it is for."""
    rows = [
        pytest.param(Run(new_loop), begin, upgrade, id=f"{front}, {loop}")
        for front, (begin, upgrade, loops) in fronts.items()
        for loop, new_loop in loops.items()
    ]
    return pytest.mark.parametrize(("run", "begin", "upgrade"), rows)


async def converse(streams: Streams, upgrade: Upgrade, tls: dict[str, Any], heard: list[Any]) -> None:
    """Read a line in the clear, begin TLS, then answer a line."""
    reader, writer = streams
    heard.append(await reader.readline())
    try:
        reader, writer = await upgrade(reader, writer, tls)
        heard.append(await reader.readline())
        writer.write(b"answer\n")
        await writer.drain()
    except OSError as error:
        heard.append(type(error))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(
    begin: Any, upgrade: Upgrade, certificates: Certificates, heard: list[Any], **keywords: Any
) -> AsyncIterator[Peer]:
    """Serve with a front, and yield the client's end of a connection."""

    async def serve(*streams: Any) -> None:
        await converse(streams, upgrade, {"sslcontext": certificates.server_context(), "server_side": True}, heard)

    server = await begin(serve, "127.0.0.1", 0, **keywords)
    async with server, connected(server, context=certificates.client_context()) as peer:
        yield peer


async def shake_hands_in_vain(peer: Peer) -> None:
    """Begin TLS as if nothing had been sent in the clear, and check that the server drops us."""
    with contextlib.suppress(OSError):
        await peer.shake_hands()
        await peer.say(b"data\n")
        await peer.hear_all()


@each_front(SERVERS)
def test_a_command_before_tls_fails_the_handshake(
    run: Run, begin: Any, upgrade: Upgrade, certificates: Certificates
) -> None:
    """STARTTLS injection: an attacker in the middle adds a command that shall look like the client's own."""
    heard: list[Any] = []

    async def story() -> None:
        async with serving(begin, upgrade, certificates, heard) as peer:
            await peer.send(HEADER + COMMAND + b"INJECTED\n")
            await shake_hands_in_vain(peer)
            await until(lambda: len(heard) == 2)

    run(story)
    assert heard == [COMMAND, ssl.SSLError]


@each_front(SERVERS)
@pytest.mark.parametrize("limit", [2**16, 16], ids=["", "the reader pauses the transport"])
def test_a_client_hello_in_one_segment_with_the_command_begins_tls(
    run: Run, begin: Any, upgrade: Upgrade, certificates: Certificates, limit: int
) -> None:
    heard: list[Any] = []

    async def story() -> None:
        async with serving(begin, upgrade, certificates, heard, limit=limit) as peer:
            await peer.shake_hands(HEADER + COMMAND)
            await peer.say(b"data\n")
            assert await peer.hear(b"\n") == b"answer\n"

    run(story)
    assert heard == [COMMAND, b"data\n"]


@each_front({name: row for name, row in SERVERS.items() if row[1] is by_loop})
def test_a_task_may_wait_for_data_while_tls_begins(
    run: Run, begin: Any, upgrade: Upgrade, certificates: Certificates
) -> None:
    heard: list[Any] = []

    async def upgrade_meanwhile(reader: asyncio.StreamReader, writer: Any, tls: dict[str, Any]) -> Streams:
        waiting = asyncio.create_task(reader.readline())
        await turns()
        waits.append(waiting)
        _, writer = await upgrade(reader, writer, tls)
        heard.append(await waiting)
        return reader, writer

    waits: list[Any] = []

    async def story() -> None:
        async with serving(begin, upgrade_meanwhile, certificates, heard) as peer:
            await peer.send(HEADER + COMMAND)
            await until(lambda: waits)
            await peer.shake_hands()
            await peer.say(b"data\n")
            await peer.say(b"more\n")
            await peer.hear(b"\n")

    run(story)
    assert heard == [COMMAND, b"data\n", b"more\n"]


@pytest.mark.parametrize("lost", [False, True], ids=["closing", "lost"])
@each_front({name: (row[0], by_loop, OURS) for name, row in SERVERS.items() if row[1] is by_loop})
def test_start_tls_on_a_closed_stream_is_an_error(
    run: Run, begin: Any, upgrade: Upgrade, certificates: Certificates, lost: bool
) -> None:
    heard: list[Any] = []

    async def close_first(reader: asyncio.StreamReader, writer: Any, tls: dict[str, Any]) -> Streams:
        protocol = writer.transport.get_protocol()
        writer.transport.abort()
        if lost:
            await turns()
            writer.transport.set_protocol(protocol)  # asyncio's transport forgets it as the connection ends
        return await upgrade(reader, writer, tls)

    async def story() -> None:
        async with serving(begin, close_first, certificates, heard) as peer:
            await peer.send(HEADER + COMMAND + b"INJECTED\n")
            await until(lambda: len(heard) == 2)

    run(story)
    assert heard == [COMMAND, ConnectionAbortedError]


@each_front({name: row for name, row in SERVERS.items() if row[1] is by_hand})
def test_tls_on_a_closing_transport_gets_no_data(
    run: Run, begin: Any, upgrade: Upgrade, certificates: Certificates
) -> None:
    heard: list[Any] = []

    async def close_first(reader: asyncio.StreamReader, writer: Any, tls: dict[str, Any]) -> Streams:
        writer.transport.abort()
        loop = asyncio.get_running_loop()
        layer = SSLProtocol(loop, asyncio.Protocol(), tls["sslcontext"], loop.create_future(), True)
        writer.transport.set_protocol(layer)
        await turns(3)
        raise ConnectionAbortedError

    async def story() -> None:
        async with serving(begin, close_first, certificates, heard) as peer:
            await peer.send(HEADER + COMMAND + b"INJECTED\n")
            await until(lambda: len(heard) == 2)

    run(story)
    assert heard == [COMMAND, ConnectionAbortedError]


@contextlib.asynccontextmanager
async def asking(
    begin: Any, upgrade: Upgrade, tls: dict[str, Any], heard: list[Any], **keywords: Any
) -> AsyncIterator[Peer]:
    """Connect with a front, and yield the server's end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        streams = await begin(*listener.getsockname())
        talking = asyncio.create_task(converse(streams, upgrade, tls, heard))
        sock, _ = listener.accept()
        with sock:
            if begin is not asyncio.open_connection:
                assert len(sock.recv(16)) == 16  # the header, LOCAL
            sock.setblocking(False)
            yield Peer(sock, server_side=not tls.get("server_side"), **keywords)
            await talking


@each_front(CLIENTS)
def test_an_answer_before_tls_fails_the_handshake(
    run: Run, begin: Any, upgrade: Upgrade, certificates: Certificates
) -> None:
    """The attacker may add an answer of the server too."""
    heard: list[Any] = []
    tls = {"sslcontext": certificates.client_context(), "server_hostname": SERVER_NAME}

    async def story() -> None:
        async with asking(begin, upgrade, tls, heard, context=certificates.server_context()) as peer:
            await peer.send(COMMAND + b"INJECTED\n")
            with contextlib.suppress(OSError):
                await peer.shake_hands()
                await peer.say(b"data\n")

    run(story)
    assert heard == [COMMAND, ssl.SSLError]


@each_front({name: row for name, row in CLIENTS.items() if row[1] is by_loop})
def test_a_tcp_client_may_be_the_tls_server(run: Run, begin: Any, upgrade: Upgrade, certificates: Certificates) -> None:
    """Then the ClientHello may come in one segment with the answer."""
    heard: list[Any] = []
    tls = {"sslcontext": certificates.server_context(), "server_side": True}

    async def story() -> None:
        async with asking(begin, upgrade, tls, heard, context=certificates.client_context()) as peer:
            await peer.shake_hands(COMMAND)
            await peer.say(b"data\n")
            assert await peer.hear(b"\n") == b"answer\n"

    run(story)
    assert heard == [COMMAND, b"data\n"]


if sys.version_info >= (3, 11):  # before it there is no StreamWriter.start_tls, and no TLS in TLS
    # the loop that our streams get takes our transports on any loop
    every_loop = pytest.mark.parametrize(
        "run", [*map(Run, LOOPS.values()), *map(Run, OURS.values())], ids=[*LOOPS, *OURS]
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
        """Its transport is asyncio's TLS transport by then, which uvloop does not take."""

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
        """The lower transport is then asyncio's own TLS after the header."""
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
