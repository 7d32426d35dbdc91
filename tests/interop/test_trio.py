"""The listener for trio: what the checks of tests/servers do not reach."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from proxyprotocol import HeaderPolicy
from proxyprotocol.integrations.trio import ProxyProtocolListener, ProxyProtocolStream
from tests.servers.checks import CLIENT, V2

PATIENCE = 20.0
_opened: list[Any] = []  # the streams of the story that runs


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def in_time() -> None:
        try:
            with trio.fail_after(PATIENCE):
                await story()
        finally:
            while _opened:
                _opened.pop().socket.close()

    trio.run(in_time)


@contextlib.asynccontextmanager
async def listening(**keywords: Any) -> AsyncIterator[ProxyProtocolListener]:
    (below,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with below, ProxyProtocolListener(below, **keywords) as listener:
        yield listener


async def connect(listener: ProxyProtocolListener, data: bytes = b"") -> trio.SocketStream:
    stream = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
    _opened.append(stream)
    await stream.send_all(data)
    return stream


async def accept(listener: ProxyProtocolListener) -> ProxyProtocolStream:
    stream = await listener.accept()
    _opened.append(stream)
    return stream


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert not any(record.exc_info for record in caplog.records)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_silent_peer_is_dropped_in_time_and_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with listening(trusted="any", timeout=0.2) as listener:
            silent = [await connect(listener, V2[:size]) for size in (0, 1, 15)]
            await connect(listener, V2)
            stream = await accept(listener)
            assert stream.socket.getpeername() == CLIENT
            assert [await peer.receive_some() for peer in silent] == [b"", b"", b""]

    run(story)
    assert len(warnings(caplog)) == 3


def test_a_header_may_take_longer_than_the_call_that_has_accepted_its_connection() -> None:
    async def story() -> None:
        async with listening(trusted="any") as listener:
            slow = await connect(listener, V2[:9])
            await connect(listener, V2)
            await accept(listener)
            await slow.send_all(V2[9:] + b"data")
            stream = await accept(listener)
            assert await stream.receive_some(2) == b"da"
            assert await stream.receive_some() == b"ta"
            await slow.send_eof()
            assert await stream.receive_some() == b""

    run(story)


def test_what_arrived_while_the_program_was_stopped_is_not_late() -> None:
    async def story() -> None:
        async with listening(trusted="any", timeout=0.1) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept, listener)
            with socket.create_connection(listener.socket.getsockname()) as peer:
                await trio.testing.wait_all_tasks_blocked(0.02)
                peer.sendall(V2)
                time.sleep(0.15)  # as a program that blocks
                with trio.fail_after(1):
                    while len(_opened) < 1:
                        await trio.sleep(0.01)

    run(story)


def test_a_cancelled_accept_loses_no_connection() -> None:
    async def story() -> None:
        async with listening(trusted="any") as listener:
            with trio.move_on_after(0.01) as scope:
                await accept(listener)
            assert scope.cancelled_caught
            await connect(listener, V2)
            assert (await accept(listener)).result is not None

    run(story)


def test_accept_raises_what_the_other_listener_raises() -> None:
    async def story() -> None:
        async with listening(trusted="any") as listener:
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await accept(listener)

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                await listener.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await accept(listener)

    run(story)


def test_closing_drops_the_connections_that_nobody_has_accepted() -> None:
    async def story() -> None:
        async with listening(trusted="any") as listener:
            late, ready = await connect(listener, V2[:9]), await connect(listener)
            await connect(listener, V2)
            await accept(listener)
            await ready.send_all(V2)
            await trio.testing.wait_all_tasks_blocked()
        await late.send_all(V2[9:])
        assert [await peer.receive_some() for peer in (late, ready)] == [b"", b""]

    run(story)


def test_without_a_header_the_stream_shows_the_peer() -> None:
    async def story() -> None:
        async with listening(policy=HeaderPolicy.OPTIONAL, timeout=None) as listener:
            peer = await connect(listener, b"hello, this is no header")
            stream = await accept(listener)
            assert stream.result is None
            assert stream.socket.getpeername() == peer.socket.getsockname()
            assert await stream.receive_some() == b"hello, this is no header"

    run(story)


def test_a_policy_that_raises_ends_no_other_connection(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[object] = []

    def policy(peer: Any, local: Any) -> HeaderPolicy:
        calls.append(peer)
        if len(calls) == 1:
            raise LookupError("no such peer")
        return HeaderPolicy.REQUIRE

    async def story() -> None:
        async with listening(policy=policy) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept, listener)
            assert await (await connect(listener, V2)).receive_some() == b""
            await connect(listener, V2)

    run(story)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [LookupError]


def test_a_second_header_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with listening(trusted="any") as listener:
            await connect(listener, V2 + V2)
            await accept(listener)

    run(story)
    (line,) = warnings(caplog)
    assert line.startswith("A second PROXY protocol header follows the first")


def test_an_unknown_keyword_is_refused() -> None:
    async def story() -> None:
        with pytest.raises(TypeError, match="patience"):
            async with listening(patience=1):
                pass

    run(story)


PROGRAM = """
import trio
import trio.testing
from proxyprotocol.integrations.trio import ProxyProtocolListener, switch_on

switch_on()
switch_on()

async def main():
    for wrap in (lambda listener: listener, lambda listener: ProxyProtocolListener(listener, trusted="any")):
        (below,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listener = wrap(below)
        client = await trio.open_tcp_stream(*below.socket.getsockname())
        await client.send_all(b"PROXY TCP4 203.0.113.7 198.51.100.9 5678 443\\r\\n")
        with trio.move_on_after(0.2):
            stream = await listener.accept()
            print(*stream.socket.getpeername(), flush=True)

trio.run(main)
"""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TRUSTED": "any"}, "203.0.113.7 5678\n203.0.113.7 5678\n"),
        ({"TRUSTED": "192.0.2.1"}, "203.0.113.7 5678\n"),  # the second listener has its own rules
    ],
)
def test_switched_on_every_listener_reads_headers(
    tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"PROXYPROTOCOL_{name}", value)
    monkeypatch.setenv("PYTHONPATH", str(project_root))
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (ended.stdout, "Traceback" in ended.stderr) == (said, False), ended.stderr
