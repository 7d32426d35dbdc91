"""anyio's listeners in our loops, and ProxyProtocolListener in any loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener

from proxyprotocol import HeaderPolicy, TrustedProxies
from proxyprotocol.asyncio import new_event_loop, new_uvloop_event_loop
from proxyprotocol.integrations.anyio import ProxyProtocolListener, ProxyProtocolStream
from tests.on_asyncio.loops import CLIENT, DESTINATION, HEADER, LOOPS, PATIENCE, Log, Run, Security, connected, until
from tests.vectors import PROXY, v2

pytestmark = [pytest.mark.usefixtures("log"), pytest.mark.xdist_group("asyncio-anyio")]

OURS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "our asyncio": new_event_loop,
    "our uvloop": new_uvloop_event_loop,
}
in_our_loops = pytest.mark.parametrize("run", [*map(Run, OURS.values())], ids=OURS)
in_every_loop = pytest.mark.parametrize("run", [*map(Run, [*LOOPS.values(), *OURS.values()])], ids=[*LOOPS, *OURS])
FACTS = ("remote_address", "remote_port", "local_address", "local_port", "family")


async def serve(stream: Any) -> None:
    """Echo each line with the client's address after it."""
    async with stream:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                line = await stream.receive(7)
                facts = [stream.extra(getattr(SocketAttribute, name), None) for name in FACTS]
                facts.append(stream.extra(SocketAttribute.raw_socket).getpeername())
                await stream.send(repr((line, *facts)).encode() + b"\n")


@contextlib.asynccontextmanager
async def listening(
    run: Run, path: Path | None, security: Security, wrap: Any = None, handler: Any = serve
) -> AsyncIterator[Any]:
    """Start a listener of anyio, on TCP or on a UNIX socket, inside the helper *wrap* if there is one."""
    if path is None:
        listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    else:
        listener = await anyio.create_unix_listener(path)
    address = listener.extra(SocketAttribute.raw_socket).getsockname()
    if wrap is not None:
        listener = wrap(listener)
        assert listener.extra(SocketAttribute.raw_socket).getsockname() == address
    if security:
        listener = TLSListener(listener, security.server["ssl"], standard_compatible=False)
    async with listener, anyio.create_task_group() as serving:
        serving.start_soon(listener.serve, handler)
        yield address
        serving.cancel_scope.cancel()
    # anyio's own on uvloop, also without us: its callback for a UNIX socket may be called once too often
    run.take_mistakes(asyncio.InvalidStateError)


async def assert_told(address: Any, security: Security) -> None:
    async with connected(address, **security.client) as peer:
        await peer.begin(HEADER, b"a line\n")
        told = (b"a line\n", CLIENT, CLIENT[1], DESTINATION, DESTINATION[1], socket.AF_INET, CLIENT)
        assert await peer.hear(b"\n") == repr(told).encode() + b"\n"


@in_our_loops
def test_a_tcp_listener_in_our_loop_sees_the_client(run: Run, security: Security, log: Log) -> None:
    async def story() -> None:
        async with listening(run, None, security) as address:
            await assert_told(address, security)

    run(story)
    assert log.lines == []


@in_every_loop
@pytest.mark.parametrize("unix", [False, True], ids=["TCP", "UNIX"])
def test_a_listener_within_the_helper_sees_the_client(
    run: Run, security: Security, log: Log, unix: bool, tmp_path: Path
) -> None:
    """Also in our loops, which leave that listener alone."""

    async def story() -> None:
        async with listening(run, tmp_path / "app.sock" if unix else None, security, ProxyProtocolListener) as address:
            await assert_told(address, security)

    run(story)
    assert log.lines == []


@in_our_loops
def test_a_unix_listener_without_the_helper_is_warned_of(run: Run, log: Log, tmp_path: Path) -> None:
    async def story() -> None:
        async with listening(run, tmp_path / "app.sock", Security(None)) as address:
            for _ in range(2):
                async with connected(address) as peer:
                    await peer.send(b"a line\n")
                    await peer.hear(b"\n")

    run(story)
    ((level, line),) = log.lines
    assert level == "WARNING"
    assert f"The event loop reads no PROXY protocol header on UNIX socket '{tmp_path / 'app.sock'}':" in line


@pytest.mark.parametrize("wrap", [None, lambda listener: ProxyProtocolListener(listener, timeout=0.2)])
@in_our_loops
def test_silent_and_bad_peers_delay_no_other_connection(
    run: Run, log: Log, wrap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYPROTOCOL_TIMEOUT", "0.2")
    plain = Security(None)

    async def story() -> None:
        async with (
            listening(run, None, plain, wrap) as address,
            connected(address) as silent,
            connected(address) as wrong,
        ):
            await wrong.send(b"GET / HTTP/1.1\r\n")
            async with connected(address) as gone, connected(address) as reset:
                gone.sock.close()
                await reset.send(HEADER[:9])
                reset.reset()
            await assert_told(address, plain)
            assert await wrong.hear_all() == await silent.hear_all() == b""

    run(story)
    refusals = [line for level, line in log.lines if level == "WARNING"]
    assert len(refusals) >= 2
    assert any("within 0.2 seconds" in line for line in refusals)


@in_every_loop
def test_what_arrived_while_the_program_was_stopped_is_not_late(run: Run) -> None:
    def wrap(listener: Any) -> ProxyProtocolListener:
        return ProxyProtocolListener(listener, timeout=0.1)

    async def story() -> None:
        async with listening(run, None, Security(None), wrap) as address, connected(address) as peer:
            await asyncio.sleep(0.02)
            peer.sock.send(HEADER + b"a line\n")
            time.sleep(0.15)  # as a program that blocks
            assert (await peer.hear(b"\n")).startswith(b"(b'a line")

    run(story)


@in_every_loop
def test_without_a_header_the_stream_shows_the_peer(run: Run) -> None:
    streams: list[ProxyProtocolStream] = []

    async def keep(stream: ProxyProtocolStream) -> None:
        streams.append(stream)
        await serve(stream)

    def wrap(listener: Any) -> ProxyProtocolListener:
        return ProxyProtocolListener(listener, policy=HeaderPolicy.OPTIONAL, timeout=None)

    async def story() -> None:
        async with listening(run, None, Security(None), wrap, keep) as address, connected(address) as peer:
            await peer.send(b"a line\nb line\n")
            own = peer.sock.getsockname()
            told = (b"b line\n", own, own[1], address, address[1], socket.AF_INET, own)
            assert (await peer.hear(b")\n")).count(b"\n") >= 1
            await until(lambda: streams)
            assert (await peer.hear(repr(told).encode() + b"\n")).count(b")\n") == 2
            assert streams[0].result is None
            peer.sock.shutdown(socket.SHUT_WR)
            await peer.hear_all()
            async with connected(address) as other:
                await other.send(HEADER + b"a line\n")
                await other.hear(b"\n")
            assert streams[1].result is not None
            await streams[1].send_eof()

    run(story)


def test_a_client_on_a_unix_socket_has_no_port(run: Run) -> None:
    async def story() -> None:
        async with listening(run, None, Security(None), ProxyProtocolListener) as address, connected(address) as peer:
            await peer.send(v2(PROXY, 0x31, b"client".ljust(108, b"\0"), b"server".ljust(108, b"\0")) + b"a line\n")
            answer = await peer.hear(b"\n")
            assert b"None" in answer
            assert str(address[1]).encode() not in answer

    run(story)


def test_an_untrusted_peer_is_dropped(run: Run, log: Log) -> None:
    def wrap(listener: Any) -> ProxyProtocolListener:
        return ProxyProtocolListener(listener, policy=TrustedProxies(["192.0.2.1"]))

    async def story() -> None:
        async with listening(run, None, Security(None), wrap) as address, connected(address) as peer:
            assert await asyncio.wait_for(peer.hear_all(), PATIENCE) == b""

    run(story)
    ((level, line),) = log.lines
    assert level == "WARNING"
    assert "not one of the trusted" in line


def test_an_unknown_keyword_is_refused() -> None:
    async def story() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            with pytest.raises(TypeError, match="patience"):
                ProxyProtocolListener(listener, patience=1)  # type: ignore[call-arg]

    asyncio.run(story())
