"""The server object serves and closes as asyncio's does, and does not wait for connections in header or handshake."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy
from proxyprotocol.asyncio import wrap_protocol_factory
from tests.interop._certificates import Certificates
from tests.on_asyncio.loops import HEADER, Apps, Log, Peer, Run, Security, connected, listening, turns, until

pytestmark = pytest.mark.usefixtures("log")

AT_ONCE = 2.0  # seconds, against the 60 that a header or a handshake has in these tests
FOR_EVER: dict[str, Any] = {"timeout": 60}


@contextlib.asynccontextmanager
async def silent_peers(server: Any, count: int, data: bytes = b"") -> Any:
    """Connect peers that send these bytes and no more."""
    async with contextlib.AsyncExitStack() as stack:
        peers: list[Peer] = []
        for _ in range(count):
            peers.append(await stack.enter_async_context(connected(server)))
            await peers[-1].send(data)
        await turns()
        yield peers


STAGES = {"silent": b"", "in the header": HEADER[:20], "in the handshake": HEADER, "in a ClientHello": HEADER + b"\x16"}


@pytest.mark.parametrize("data", STAGES.values(), ids=STAGES)
def test_closing_does_not_wait_for_a_hundred_peers_in_header_or_handshake(
    run: Run, certificates: Certificates, log: Log, data: bytes
) -> None:
    async def close_one() -> float:
        server = await Apps().listen(**FOR_EVER, **Security(certificates).server)
        async with silent_peers(server, 100, data) as peers:
            begin = time.perf_counter()
            server.close()
            await asyncio.wait_for(server.wait_closed(), AT_ONCE)
            taken = time.perf_counter() - begin
            for peer in peers:
                assert await asyncio.wait_for(peer.hear_all(), AT_ONCE) == b""
        return taken

    async def story() -> None:
        tries = 3  # the machine may be busy with something else
        while await close_one() >= 0.1:
            tries -= 1
            assert tries
        assert log.lines == []

    run(story)


@pytest.mark.parametrize("ending", ["cancelled", "closed"])
def test_serve_forever_ends_as_quickly(run: Run, security: Security, ending: str) -> None:
    async def story() -> None:
        server = await Apps().listen(start_serving=False, **FOR_EVER, **security.server)
        assert not server.is_serving()
        serving = asyncio.create_task(server.serve_forever())
        await until(server.is_serving)
        with pytest.raises(RuntimeError, match="already being awaited"):
            await server.serve_forever()
        async with silent_peers(server, 3, HEADER[:20]):
            if ending == "cancelled":
                serving.cancel()
            else:
                server.close()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(serving, AT_ONCE)
        assert (server.is_serving(), list(server.sockets)) == (False, [])
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    run(story)


def test_a_connection_accepted_while_the_server_closes_is_dropped(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        server = await apps.listen(**FOR_EVER)
        with socket.create_connection(server.sockets[0].getsockname()[:2]) as sock:
            # the next look at the listening socket accepts it, and a turn later it gets its protocol
            await asyncio.sleep(0)
            server.close()
            await asyncio.wait_for(server.wait_closed(), AT_ONCE)
            await turns(5)
            sock.settimeout(AT_ONCE)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
        assert apps.made == []

    run(story)


def test_an_application_that_closes_the_server_in_its_time_out_begins_last(run: Run) -> None:
    """Several are late in one turn, and the first of them closes the server."""

    async def story() -> None:
        apps = Apps(begin=lambda app: server.close())
        server: Any = await apps.listen(policy=HeaderPolicy.OPTIONAL, timeout=0.3)
        async with silent_peers(server, 3) as peers:
            time.sleep(0.35)  # the loop then finds all of them late at once
            for peer in peers[1:]:
                assert await asyncio.wait_for(peer.hear_all(), AT_ONCE) == b""
            apps.app.transport.abort()
        await asyncio.wait_for(server.wait_closed(), AT_ONCE)

    run(story)


def test_closing_leaves_open_the_connections_whose_application_has_begun(run: Run, security: Security) -> None:
    apps = Apps()

    async def story() -> None:
        server = await apps.listen(**security.server)
        async with connected(server, **security.client) as peer:
            await peer.begin(HEADER, b"first\n")
            await peer.hear(b"\n")
            server.close()
            server.close()
            peer.received = b""
            await peer.say(b"second\n")
            assert await peer.hear(b"\n") == b"answer to first\nsecond\n"
        await asyncio.wait_for(server.wait_closed(), AT_ONCE)
        await until(lambda: apps.app.lost)
        apps.app.transport.abort()  # CPython 3.10 does not know that TLS has ended with its connection

    run(story)


def test_a_server_closes_at_the_end_of_its_async_with(run: Run) -> None:
    async def story() -> None:
        async with await Apps().listen(**FOR_EVER) as server, silent_peers(server, 3, HEADER[:20]):
            assert server.is_serving()
            assert server.get_loop() is asyncio.get_running_loop()
            assert repr(server).startswith("<ProxyProtocolServer sockets=")
            await server.start_serving()
        assert not server.is_serving()

    run(story)


@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_close_clients_and_abort_clients_work_where_asyncio_has_them(method: str) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer, connected(server) as silent:
            await peer.begin(HEADER, b"data\n")
            await peer.hear(b"\n")
            if sys.version_info < (3, 13):
                with pytest.raises(AttributeError):
                    getattr(server, method)()
            else:
                getattr(server, method)()
                await peer.hear_all()
                assert await silent.hear_all() == b""
                await until(lambda: apps.app.lost)

    Run(asyncio.SelectorEventLoop)(story)  # uvloop's server has no such method


@pytest.mark.parametrize("data", [b"", HEADER[:20]])
def test_close_of_a_factory_drops_the_connections_of_another_server(run: Run, log: Log, data: bytes) -> None:
    apps = Apps()

    async def story() -> None:
        factory = wrap_protocol_factory(apps, **FOR_EVER)
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        async with silent_peers(server, 3, data), connected(server) as peer:
            await peer.send(HEADER + b"data\n")
            await peer.hear(b"\n")
            server.close()
            factory.close()
            peer.received = b""
            await peer.send(b"more\n")
            await peer.hear(b"more\n")
        await asyncio.wait_for(server.wait_closed(), AT_ONCE)
        assert log.lines == []

    run(story)


def test_closing_stops_the_timer(run: Run) -> None:
    """Otherwise it would keep the application in memory for as long as a header may take."""

    async def story() -> None:
        loop: Any = asyncio.get_running_loop()
        timers: list[Any] = []
        call_at = loop.call_at

        def counting(*args: Any, **keywords: Any) -> Any:
            timers.append(call_at(*args, **keywords))
            return timers[-1]

        server = await Apps().listen(**FOR_EVER)
        if not run.on_uvloop:
            loop.call_at = counting
        async with silent_peers(server, 3, HEADER[:20]):
            server.close()
            await asyncio.wait_for(server.wait_closed(), AT_ONCE)
        ours = [timer for timer in timers if timer.when() > loop.time() + 30]
        assert len(ours) == (not run.on_uvloop)
        assert all(timer.cancelled() for timer in ours)

    run(story)


def test_a_reused_port(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, reuse_port=True) as first:
            port = first.sockets[0].getsockname()[1]
            second = await asyncio.get_running_loop().create_server(
                wrap_protocol_factory(apps, policy=HeaderPolicy.REQUIRE), "127.0.0.1", port, reuse_port=True
            )
            async with connected(first) as peer:
                await peer.send(HEADER + b"data\n")
                assert await peer.hear(b"\n") == b"answer to data\n"
                apps.app.transport.abort()
            second.close()

    run(story)
