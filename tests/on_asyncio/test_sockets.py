"""Listening sockets on our loops from which the application itself accepts: the loop reads headers there, or warns."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol.asyncio import ProxyProtocolTransport, new_event_loop, new_uvloop_event_loop, wrap_protocol_factory
from tests.interop._certificates import Certificates
from tests.on_asyncio.loops import (
    CLIENT,
    HEADER,
    PATIENCE,
    App,
    Apps,
    BufferedApp,
    Log,
    Run,
    Security,
    connected,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("log")

LOOPS = {"asyncio": new_event_loop, "uvloop": new_uvloop_event_loop}
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


@pytest.fixture(params=LOOPS.values(), ids=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's story, once on each of our loops."""
    return Run(request.param)


@pytest.fixture(params=["TCP", "UNIX"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket."""
    if request.param == "TCP":
        sock = socket.create_server(("127.0.0.1", 0))
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "app.sock"))
        sock.listen()
    sock.setblocking(False)
    with sock:
        yield sock


@pytest.mark.parametrize("kind", [App, BufferedApp])
def test_an_accepted_connection_shows_the_client(
    run: Run, listener: socket.socket, security: Security, kind: type[Any]
) -> None:
    """As anyio accepts it."""
    apps = Apps(kind)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with connected(listener.getsockname(), **security.client) as peer:
            asking = asyncio.create_task(peer.begin(HEADER, b"question\n"))
            connection, address = await loop.sock_accept(listener)
            assert address == CLIENT
            transport, app = await loop.connect_accepted_socket(apps, connection, **security.server)
            await asking
            assert await peer.hear(b"\n") == b"answer to question\n"
            assert isinstance(transport, ProxyProtocolTransport)
            assert (transport, app, app.facts.peername) == (app.transport, apps.app, CLIENT)
            assert bool(app.facts.sslcontext) == bool(security)
            transport.abort()
            await until(lambda: app.lost)

    run(story)


def test_connect_accepted_socket_reads_the_header(run: Run, listener: socket.socket, security: Security) -> None:
    apps = Apps()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with connected(listener.getsockname(), **security.client) as peer:
            connection, _ = listener.accept()
            connecting = asyncio.create_task(loop.connect_accepted_socket(apps, connection, **security.server))
            await turns(5)
            assert not apps.made
            await peer.begin(HEADER, b"question\n")
            transport, app = await connecting
            assert await peer.hear(b"\n") == b"answer to question\n"
            assert app.facts.peername == CLIENT
            transport.abort()
            await until(lambda: app.lost)

    run(story)


def test_connect_accepted_socket_refuses_a_connection_without_a_header(
    run: Run, listener: socket.socket, log: Log
) -> None:
    apps = Apps()

    async def story() -> None:
        async with connected(listener.getsockname()) as peer:
            connection, _ = listener.accept()
            await peer.send(b"GET / HTTP/1.1\r\n")
            with pytest.raises(ConnectionAbortedError, match="did not begin with a header"):
                await asyncio.get_running_loop().connect_accepted_socket(apps, connection)
            assert await peer.hear_all() == b""

    run(story)
    ((level, line),) = log.lines
    assert (level, apps.made) == ("WARNING", [])
    assert "There is no PROXY protocol header" in line


def test_a_handshake_after_it_has_the_time_of_the_environment(
    run: Run, listener: socket.socket, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYPROTOCOL_TLS_TIMEOUT", "0.05")

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with connected(listener.getsockname()) as peer:
            connection, _ = listener.accept()
            await peer.send(HEADER)
            connecting = loop.connect_accepted_socket(Apps(), connection, **Security(certificates).server)
            with pytest.raises(ConnectionError):  # a TimeoutError would be the test's own
                await asyncio.wait_for(connecting, PATIENCE)
            assert await peer.hear_all() == b""

    run(story)


def test_our_factories_read_the_header_in_place_of_the_loop(run: Run, listener: socket.socket) -> None:
    apps = Apps()

    async def story() -> None:
        async with connected(listener.getsockname()) as peer:
            connection, _ = listener.accept()
            factory = wrap_protocol_factory(apps)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(factory, connection)
            await peer.send(HEADER + b"question\n")
            assert await peer.hear(b"\n") == b"answer to question\n"
            assert apps.app.facts.peername == CLIENT
            transport.abort()
            await until(lambda: apps.app.lost)

    run(story)


def test_listeners_of_other_ports_are_left_alone(
    run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setenv("PROXYPROTOCOL_PORTS", "1")
    apps = Apps()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, lambda: None)
        loop.remove_reader(listener)
        async with connected(listener.getsockname()) as peer:
            connection, address = await loop.sock_accept(listener)
            assert address == peer.sock.getsockname()
            transport, app = await loop.connect_accepted_socket(apps, connection)
            await peer.send(b"question\n")
            assert await peer.hear(b"\n") == b"answer to question\n"
            assert app.facts.proxy_protocol is None
            transport.abort()
            await until(lambda: app.lost)

    run(story)
    assert log.lines == []


def test_a_slow_header_delays_no_other_connection(run: Run, listener: socket.socket, log: Log) -> None:
    async def story() -> None:
        loop, address = asyncio.get_running_loop(), listener.getsockname()
        async with contextlib.AsyncExitStack() as stack:
            silent, wrong, local, peer = [await stack.enter_async_context(connected(address)) for _ in range(4)]
            await wrong.send(b"GET / HTTP/1.1\r\n")
            await local.send(LOCAL + b"rest")
            await peer.send(HEADER + b"rest")
            given = [await loop.sock_accept(listener) for _ in range(2)]
            assert [address for _, address in given] == [local.sock.getsockname(), CLIENT]
            await silent.send(HEADER[:5], HEADER[5:] + b"rest")
            given.append(await loop.sock_accept(listener))
            for connection, _ in given:
                with connection:
                    assert await loop.sock_recv(connection, 100) == b"rest"
            assert await wrong.hear_all() == b""

    run(story)
    assert len(log.lines) == 1


@pytest.mark.parametrize("first", [False, True])
def test_another_process_may_accept_a_connection_first(
    run: Run, listener: socket.socket, log: Log, first: bool
) -> None:
    """Two processes may share a listening socket."""
    stolen: list[socket.socket] = []

    def steal() -> None:
        with contextlib.suppress(BlockingIOError):
            stolen.append(listener.accept()[0])

    async def story() -> None:
        loop = asyncio.get_running_loop()
        with listener.dup() as other:
            if first:
                loop.add_reader(other, steal)
            waiting = asyncio.create_task(loop.sock_accept(listener))
            await turns()
            loop.add_reader(other, steal)
            async with connected(listener.getsockname()) as peer:
                await peer.send(HEADER)
                await turns(5)
            loop.remove_reader(other)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                stolen.append((await waiting)[0])
        for connection in stolen:
            connection.close()

    run(story)
    assert len(stolen) == 1
    log.records.clear()


def test_waiting_for_a_connection_may_be_cancelled(run: Run, listener: socket.socket) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(loop.sock_accept(listener))
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not loop.remove_reader(listener)
        async with connected(listener.getsockname()) as peer:
            await peer.send(HEADER)
            connection, _ = await loop.sock_accept(listener)
            connection.close()

    run(story)


def test_a_header_that_comes_after_its_listener_has_closed_is_dropped(run: Run, listener: socket.socket) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with connected(listener.getsockname()) as peer:
            waiting = asyncio.create_task(loop.sock_accept(listener))
            await turns(5)
            waiting.cancel()
            await turns()
            listener.close()
            await peer.send(HEADER)
            assert await asyncio.wait_for(peer.hear_all(), PATIENCE) == b""

    run(story)


def test_an_error_of_accept_is_raised(run: Run) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            waiting = asyncio.create_task(asyncio.get_running_loop().sock_accept(listener))
            await turns()
            listener.shutdown(socket.SHUT_RDWR)
            with pytest.raises(OSError, match="Invalid argument"):
                await asyncio.wait_for(waiting, PATIENCE)

    run(story)


@pytest.mark.parametrize("by_number", [False, True])
def test_a_listener_under_add_reader_is_warned_of_once(
    run: Run, listener: socket.socket, log: Log, by_number: bool
) -> None:
    """tornado and anyio use add_reader, and accept by themselves."""

    async def story() -> None:
        loop, watched = asyncio.get_running_loop(), listener.fileno() if by_number else listener
        for _ in range(2):
            loop.add_reader(watched, lambda: None)
            loop.remove_reader(watched)
        assert listener.fileno() >= 0

    run(story)
    ((level, line),) = log.lines
    name: Any = listener.getsockname()
    address = f"UNIX socket {name!r}" if isinstance(name, str) else "{}:{}".format(*name)
    assert level == "WARNING"
    assert f"The event loop reads no PROXY protocol header on {address}:" in line
    assert "proxyprotocol.integrations.tornado.add_sockets" in line
    assert "proxyprotocol.integrations.anyio.ProxyProtocolListener" in line


def test_add_reader_on_anything_else_warns_of_nothing(run: Run, log: Log) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        client, server = socket.socketpair()
        with client, server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            for watched in (client, datagrams, reading):
                called = asyncio.Event()
                loop.add_reader(watched, called.set)
                if watched is reading:
                    os.write(writing, b"x")
                    await called.wait()
                loop.remove_reader(watched)
        os.close(reading)
        os.close(writing)

    run(story)
    assert log.lines == []
