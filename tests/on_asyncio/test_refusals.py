"""Bad input: the connection is aborted at once, one line in the log says why, and nothing reaches the application."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import socket
import sys
import time
import tracemalloc
import weakref
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy, ProxyProtocolUntrustedError, TrustedProxies
from proxyprotocol.asyncio import ProxyProtocolFactory, create_server, create_unix_server, wrap_protocol_factory
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr
from tests.interop._certificates import Certificates
from tests.on_asyncio.loops import (
    CUTS,
    HEADER,
    App,
    Apps,
    Log,
    Run,
    Security,
    StreamApps,
    connected,
    listening,
    place,
    turns,
    until,
)
from tests.on_asyncio.streams import Transport
from tests.vectors import IPV4_BLOCK, SIGNATURE, checksum, v2
from tests.vectors import PROXY as PROXY_COMMAND

pytestmark = pytest.mark.usefixtures("log")

# What the peer sends, and what the log line contains.
BAD = {
    "no header": (b"GET / HTTP/1.0\r\n\r\n", "the data begins with b'G"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", "this is TLS, which must come after the header"),
    "a port too high": (b"PROXY TCP4 192.0.2.1 192.0.2.1 1 99999\r\n", "99999"),
    "too long": (SIGNATURE + b"\x21\x11\xff\xff", "65551"),
    "a wrong checksum": (v2(PROXY_COMMAND, 0x11, IPV4_BLOCK, checksum("00000000")), "CRC32C"),
}


@CUTS
@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_a_bad_header_aborts_the_connection_with_one_line_in_the_log(
    run: Run, security: Security, log: Log, cut: Any, data: bytes, reason: str
) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server, cut=cut) as peer:
            try:
                await peer.send(data)
                await peer.send(HEADER + b"what comes after it is ignored\n")
            except ConnectionError:
                pass
            assert await peer.hear_all() == b""
            host, port = peer.sock.getsockname()
            where = place(server)
        ((level, line),) = log.lines
        assert level == "WARNING"
        assert line.startswith(f"Refused a connection from {host}:{port} on {where}: ")
        assert reason in line
        assert apps.made == []

    run(story)


@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL])
@pytest.mark.parametrize("received", [1, len(HEADER) - 1])
def test_a_late_header_is_refused(run: Run, security: Security, log: Log, policy: Any, received: int) -> None:
    apps = Apps()

    async def story() -> None:
        keywords = {"policy": policy, "timeout": 0.05, **security.server}
        async with listening(apps, **keywords) as server, connected(server) as peer:
            await peer.send(HEADER[:received])
            assert await peer.hear_all() == b""
        ((level, line),) = log.lines
        assert level == "WARNING"
        assert f"within 0.05 seconds, only {received} bytes" in line
        assert apps.made == []

    run(story)


def test_a_peer_that_sends_byte_by_byte_gets_no_more_time(run: Run, log: Log) -> None:
    async def story() -> None:
        async with listening(Apps(), timeout=0.1) as server, connected(server) as peer:
            began = asyncio.get_running_loop().time()
            for byte in HEADER[:-1]:
                try:
                    await peer.send(bytes([byte]))
                except ConnectionError:
                    break
                await asyncio.sleep(0.01)
            assert await peer.hear_all() == b""
            assert asyncio.get_running_loop().time() - began < len(HEADER) * 0.01
        assert len(log.lines) == 1

    run(story)


def test_each_connection_has_the_whole_time(run: Run, log: Log) -> None:
    """One timer serves all of them."""
    apps = Apps()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        ends: list[float] = []

        async def wait(server: Any) -> None:
            began = loop.time()
            async with connected(server) as peer:
                await peer.hear_all()
                ends.append(loop.time() - began)

        async with listening(apps, timeout=0.1) as server, connected(server) as good:
            await good.send(HEADER + b"data\n")
            await good.hear(b"\n")
            waiting = []
            for _ in range(4):
                waiting.append(asyncio.create_task(wait(server)))
                await asyncio.sleep(0.03)
            await asyncio.gather(*waiting)
        assert min(ends) >= 0.09
        assert len(log.lines) == 4
        assert len(apps.made) == 1

    run(story)


def test_without_a_timeout_a_header_may_take_any_time(run: Run, log: Log) -> None:
    async def story() -> None:
        async with listening(Apps(), timeout=None) as server, connected(server) as peer:
            await peer.send(HEADER[:5])
            await turns(5)
            assert log.lines == []
            await peer.send(HEADER[5:] + b"data\n")
            assert await peer.hear(b"\n") == b"answer to data\n"

    run(story)


@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE])
@pytest.mark.parametrize("by", ["half-close", "close", "reset"])
def test_a_cut_header_is_refused(run: Run, security: Security, log: Log, policy: Any, by: str) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, policy=policy, **security.server) as server, connected(server) as peer:
            await peer.send(HEADER[:20])
            host, port = peer.sock.getsockname()
            where = place(server)
            if by == "half-close":
                peer.sock.shutdown(socket.SHUT_WR)
                assert await peer.hear_all() == b""
            elif by == "close":
                peer.sock.close()
            else:
                peer.reset()
            await until(lambda: log.lines)
        ((level, line),) = log.lines
        assert level == "WARNING"
        assert line.startswith(f"Refused a connection from {host}:{port} on {where}: ")
        assert "incomplete" in line
        assert apps.made == []

    run(story)


def test_a_connection_that_was_lost_is_not_late_as_well(run: Run, log: Log) -> None:
    async def story() -> None:
        async with listening(Apps(), timeout=0.1) as server:
            async with connected(server) as peer:
                await peer.send(HEADER[:20])
                peer.reset()
                await until(lambda: log.lines)
            await asyncio.sleep(0.2)
        assert len(log.lines) == 1

    run(story)


def test_what_a_transport_still_delivers_after_a_refusal_is_ignored(run: Run, log: Log) -> None:
    apps = Apps()

    async def story() -> None:
        transport, protocol = Transport(("192.0.2.9", 40000), None), wrap_protocol_factory(apps)()
        protocol.connection_made(transport)
        protocol.data_received(b"?")  # type: ignore[attr-defined]
        protocol.data_received(HEADER)  # type: ignore[attr-defined]
        protocol.eof_received()  # type: ignore[attr-defined]
        protocol.connection_lost(None)
        assert (transport.aborted, len(log.lines), apps.made) == (True, 1, [])

    run(story)


@pytest.mark.parametrize("how", ["abort", "close"])
def test_an_application_that_closes_as_it_begins_gets_no_eof_received(run: Run, how: str) -> None:
    events: list[str] = []

    class Ending(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            events.append("made")
            getattr(transport, how)()

        def eof_received(self) -> None:
            events.append("eof")

        def connection_lost(self, exc: Exception | None) -> None:
            events.append("lost")

    async def story() -> None:
        server = await create_server(Ending, "127.0.0.1", 0, policy=HeaderPolicy.OPTIONAL)
        async with connected(server) as peer:
            peer.sock.shutdown(socket.SHUT_WR)
            await until(lambda: "lost" in events)
        server.close()
        await server.wait_closed()

    run(story)
    assert events == ["made", "lost"]


@pytest.mark.parametrize("by", ["close", "reset"])
def test_a_peer_that_closes_before_its_first_byte_is_logged_at_debug_level(
    run: Run, security: Security, log: Log, by: str
) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server) as peer:
            getattr(peer if by == "reset" else peer.sock, by)()
            await until(lambda: log.lines)
        ((level, line),) = log.lines
        assert level == "DEBUG"
        assert "before the first byte" in line
        assert apps.made == []

    run(story)


@pytest.mark.parametrize("by", ["close", "reset"])
def test_tls_that_never_begins_after_an_optional_header_is_not_logged(
    run: Run, certificates: Certificates, log: Log, by: str
) -> None:
    apps = Apps()

    async def story() -> None:
        keywords = {"policy": HeaderPolicy.OPTIONAL, **Security(certificates).server}
        async with listening(apps, **keywords) as server:
            async with connected(server) as peer:
                getattr(peer if by == "reset" else peer.sock, by)()
                await turns(5)
            assert ([line for line in log.lines if line[0] != "DEBUG"], apps.made) == ([], [])

    run(story)


NO_TLS = {
    "another protocol": (b"GET / HTTP/1.0\r\n\r\n", "WARNING"),
    "an alert": (b"\x15\x03\x01\x00\x02\x02\x28", "WARNING"),
    "half a ClientHello": (b"\x16\x03\x01\x02\x00\x01", "DEBUG"),
    "nothing": (b"", "DEBUG"),
}


@pytest.mark.parametrize(("data", "level"), NO_TLS.values(), ids=NO_TLS)
def test_bad_tls_after_a_header_ends_the_connection_and_is_logged(
    run: Run, certificates: Certificates, log: Log, data: bytes, level: str
) -> None:
    """asyncio's own line would come at debug level and would name the balancer."""
    apps = Apps()

    async def story() -> None:
        async with listening(apps, **Security(certificates).server) as server, connected(server) as peer:
            await peer.send(HEADER + data)
            peer.sock.shutdown(socket.SHUT_WR)
            await peer.hear_all()
            where = place(server)
        assert apps.made == []
        levels = {told for told, _ in log.lines}
        assert levels == {level} or (level == "DEBUG" and not levels)  # Python 3.10 reports no reason for this
        for _, line in log.lines:
            who = r"192\.0\.2\.1:1000, relayed by 127\.0\.0\.1:\d+"
            assert re.match(f"Refused a connection from {who} on {where}: the TLS handshake failed: ", line)

    run(story)


@pytest.mark.parametrize(
    "keywords",
    [{"tls_timeout": 0.05}, {"ssl_handshake_timeout": 0.05}, {"ssl_handshake_timeout": 0.05, "tls_timeout": 60}],
)
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"], ids=["silent", "stalled"])
def test_a_late_handshake_is_ended(
    run: Run, certificates: Certificates, log: Log, keywords: dict[str, float], sent: bytes
) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, **keywords, **Security(certificates).server) as server, connected(server) as peer:
            await peer.send(HEADER + sent)
            assert await peer.hear_all() == b""
            assert apps.made == []
            who = f"192.0.2.1:1000, relayed by 127.0.0.1:{peer.sock.getsockname()[1]} on {place(server)}"
        reason = "the TLS handshake failed: it was not done within 0.05 seconds"
        assert log.lines == [("WARNING", f"Refused a connection from {who}: {reason}")]

    run(story)


def test_a_stalled_handshake_holds_only_a_small_buffer(run: Run, certificates: Certificates) -> None:
    """asyncio itself allocates 256 KiB when the connection begins."""
    count = 10

    async def story() -> None:
        async with listening(Apps(), **Security(certificates).server) as server, contextlib.AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(connected(server)) for _ in range(count)]
            tracemalloc.start()
            for peer in peers:
                await peer.send(HEADER + b"\x16\x03\x01")
            assert tracemalloc.get_traced_memory()[0] < count * (24 if sys.version_info < (3, 11) else 16) * 1024

    try:
        run(story)
    finally:
        tracemalloc.stop()


def test_an_application_that_blocks_the_loop_costs_no_other_connection(run: Run, log: Log) -> None:
    """It blocks in a read. Afterwards the loop does not yet know that the other sockets have become readable."""
    others: list[Any] = []

    def block(app: Any) -> None:
        for other in others:
            other.sock.sendall(HEADER)
        time.sleep(0.4)

    apps = Apps(read=block)

    async def story() -> None:
        async with listening(apps, timeout=0.2) as server, contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(connected(server))
            await first.send(HEADER)
            await until(lambda: apps.made)
            for _ in range(5):
                others.append(await stack.enter_async_context(connected(server)))
            await first.send(b"block\n")
            await until(lambda: len(apps.made) == 6 or log.lines)
        assert (len(apps.made), log.lines) == (6, [])

    run(story)


def test_an_untrusted_peer_is_dropped_before_a_byte_is_read(run: Run, security: Security, log: Log) -> None:
    apps = Apps()

    async def story() -> None:
        policy = TrustedProxies(["192.0.2.0/24", "unix"])
        async with listening(apps, policy=policy, **security.server) as server, connected(server) as peer:
            assert await peer.hear_all() == b""
            who = f"{describe_address(peer.sock.getsockname())} on {place(server)}"
        reason = "The peer is not one of the trusted proxies; if it is your proxy, add it to trusted"
        assert log.lines == [("WARNING", f"Refused a connection from {who}: {reason}")]
        assert apps.made == []

    run(story)


def test_a_unix_peer_is_trusted_only_if_it_is_named(run: Run, log: Log, tmp_path: Any) -> None:
    async def story() -> None:
        path = str(tmp_path / "app.sock")
        server = await create_unix_server(Apps(), path, policy=TrustedProxies(["127.0.0.1"]))
        async with server, connected(path) as peer:
            assert await peer.hear_all() == b""
        ((_, line),) = log.lines
        assert line.startswith(f"Refused a connection from an unnamed UNIX socket on UNIX socket {path!r}: ")

    run(story)


def test_a_policy_function_may_raise_the_refusal(run: Run, log: Log) -> None:
    def policy(peer: SockAddr, local: SockAddr) -> HeaderPolicy:
        raise ProxyProtocolUntrustedError(peer)

    async def story() -> None:
        async with listening(Apps(), policy=policy) as server, connected(server) as peer:
            assert await peer.hear_all() == b""
        assert len(log.lines) == 1

    run(story)


# Errors of the application: the loop logs them, the connection is dropped, and the server goes on.


class BrokenApps(Apps):
    def __call__(self) -> Any:
        raise ZeroDivisionError("in the factory")


def raise_error(app: Any) -> None:
    raise ZeroDivisionError("in connection_made")


def broken_policy(peer: SockAddr, local: SockAddr) -> HeaderPolicy:
    raise ZeroDivisionError("in the policy")


MISTAKES: dict[str, tuple[Any, dict[str, Any]]] = {
    "the factory": (BrokenApps, {}),
    "connection_made": (lambda: Apps(begin=raise_error), {}),
    "the factory, at once": (BrokenApps, {"policy": HeaderPolicy.SKIP}),
    "connection_made, at once": (lambda: Apps(begin=raise_error), {"policy": HeaderPolicy.SKIP}),
    "the factory, at the time-out": (BrokenApps, {"policy": HeaderPolicy.OPTIONAL, "timeout": 0.01}),
    "connection_made, at the time-out": (
        lambda: Apps(begin=raise_error),
        {"policy": HeaderPolicy.OPTIONAL, "timeout": 0.01},
    ),
}


def test_a_policy_that_raises_costs_ten_tracebacks_a_second(run: Run, log: Log) -> None:
    async def story() -> None:
        async with listening(Apps(), policy=broken_policy) as server:
            for _ in range(12):
                async with connected(server) as peer:
                    assert await peer.hear_all() == b""
        assert len(log.take_tracebacks()) == 10
        _, line = log.lines[0]
        assert line.endswith(": The server's policy function raised ZeroDivisionError('in the policy')")

    run(story)
    assert log.lines[-1][1].endswith(": 2 hook")


@pytest.mark.parametrize("hook", ["validate", "policy"])
def test_a_hook_that_cancels_costs_the_connection_one_line(run: Run, log: Log, hook: str) -> None:
    def cancel(*arguments: Any) -> bool:
        calls.append(arguments)
        raise asyncio.CancelledError

    calls: list[Any] = []

    async def story() -> None:
        async with listening(Apps(), **{hook: cancel}) as server, connected(server) as peer:
            await peer.send(HEADER)
            assert await peer.hear_all() == b""

    run(story)
    assert len(calls) == len(log.take_tracebacks()) == 1
    ((level, line),) = log.lines
    assert (level, line.rpartition(": ")[2]) == ("ERROR", f"The server's {hook} function raised CancelledError()")


@pytest.mark.parametrize(("new_apps", "keywords"), MISTAKES.values(), ids=MISTAKES)
def test_a_server_goes_on_after_a_mistake_of_the_application(
    run: Run, security: Security, new_apps: Any, keywords: dict[str, Any]
) -> None:
    apps = new_apps()

    async def story() -> None:
        async with listening(apps, **keywords, **security.server) as server:
            for count in (1, 2):
                async with connected(server, **security.client) as peer:
                    try:
                        if security:
                            await peer.shake_hands(b"" if keywords else HEADER)
                        else:
                            await peer.send(b"" if keywords else HEADER + b"data")
                    except OSError:  # dropped in the handshake
                        pass
                    assert await peer.hear_all() == b""
                await until(lambda: len(run.complaints) == count)  # noqa: B023 (it is of this turn that it is asked)
        for app in apps.made:
            assert app.received == b""
            # asyncio's TLS forgets it in Python 3.10
            assert len(app.lost) == 1 or (security and sys.version_info < (3, 11))
        if "timeout" in keywords and not security:
            message = "The application raised an exception when its connection started"
            assert [context["message"] for context in run.complaints] == [message] * 2
        assert run.take_mistakes(ZeroDivisionError) == 2

    run(story)


def test_an_error_of_one_application_in_its_time_out_leaves_the_others_alone(run: Run) -> None:
    """One timer serves all of them."""
    apps: Apps = Apps(
        begin=lambda app: raise_error(app) if len(apps.made) == 1 else app.transport.write(b"a greeting\n")
    )

    async def story() -> None:
        keywords = {"policy": HeaderPolicy.OPTIONAL, "timeout": 0.1}
        async with listening(apps, **keywords) as server, connected(server) as first, connected(server) as second:
            assert await first.hear_all() == b""
            assert await second.hear(b"\n") == b"a greeting\n"
        assert run.take_mistakes(ZeroDivisionError) == 1

    run(story)


def test_sixty_half_sent_headers_do_not_delay_a_whole_one(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, timeout=60) as server:
            half_sent = []
            for _ in range(60):
                connecting = connected(server)
                half_sent.append(connecting)
                await (await connecting.__aenter__()).send(HEADER[:-1])
            async with connected(server) as good:
                await good.send(HEADER + b"question\n")
                assert await asyncio.wait_for(good.hear(b"\n"), 2) == b"answer to question\n"
            assert len(apps.made) == 1
            for connecting in half_sent:
                await connecting.__aexit__(None, None, None)

    run(story)


ENDS = {**{name: data for name, (data, _) in BAD.items()}, "a health check": b"", "cut": HEADER[:9]}


@pytest.mark.parametrize("data", ENDS.values(), ids=ENDS)
def test_a_refused_connection_leaves_no_garbage(
    run: Run, security: Security, log: Log, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error's traceback refers to the connection, which refers to its error. That cycle once kept both alive."""
    protocols: list[weakref.ref[Any]] = []
    make = ProxyProtocolFactory.__call__

    def make_and_remember(self: Any) -> Any:
        protocol = make(self)
        protocols.append(weakref.ref(protocol))
        return protocol

    monkeypatch.setattr(ProxyProtocolFactory, "__call__", make_and_remember)

    async def story() -> None:
        async with listening(Apps(), **security.server) as server:
            gc.collect()
            gc.disable()
            try:
                async with connected(server) as peer:
                    await peer.send(data)
                await until(lambda: log.lines)
                log.records.clear()
                await turns(5)
                assert [protocol() for protocol in protocols] == [None]
            finally:
                gc.enable()

    run(story)


def test_the_log_can_be_turned_off_like_any_other(run: Run, log: Log) -> None:
    logging.getLogger("proxyprotocol").setLevel(logging.ERROR)

    async def story() -> None:
        async with listening(StreamApps()) as server, connected(server) as peer:
            await peer.send(b"?")
            assert await peer.hear_all() == b""
        assert log.lines == []

    run(story)


def test_bytes_in_the_log_are_escaped(run: Run, log: Log) -> None:
    async def story() -> None:
        async with listening(Apps(App)) as server, connected(server) as peer:
            await peer.send(b"\x1b[2J\nforged\xff")
            await peer.hear_all()
        ((_, line),) = log.lines
        assert line.isprintable()

    run(story)
