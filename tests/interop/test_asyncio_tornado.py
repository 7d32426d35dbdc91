"""The integration of tornado, which reads headers from the sockets itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.tcpserver import TCPServer
from tornado.web import Application, RequestHandler

from proxyprotocol import HeaderPolicy, TrustedProxies
from proxyprotocol.asyncio import new_event_loop, new_uvloop_event_loop
from proxyprotocol.errors import RefusalCode
from proxyprotocol.integrations.tornado import add_sockets, proxy_result
from proxyprotocol.result import describe_address
from tests.on_asyncio.loops import CLIENT, HEADER, PATIENCE, Log, Run, Security, connected, until

from ._certificates import Certificates
from ._programs import connect

pytestmark = [pytest.mark.usefixtures("log"), pytest.mark.xdist_group("asyncio-tornado")]

REQUEST = b"GET / HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n"


class WhoIsIt(RequestHandler):
    def get(self) -> None:
        connection: Any = self.request.connection
        result = proxy_result(connection.stream)
        self.write(f"{self.request.remote_ip} {'plain' if result is None else result.peername}")


@contextlib.asynccontextmanager
async def tornado(*sockets: socket.socket, server: TCPServer | None = None, **keywords: Any) -> AsyncIterator[Any]:
    """Run a tornado server on these sockets or on a free port, and yield the first address and the stop function."""
    listening = list(sockets) or bind_sockets(0, "127.0.0.1")
    address = listening[0].getsockname()
    server = server or HTTPServer(Application([("/", WhoIsIt)]), ssl_options=keywords.pop("ssl", None))
    stop = add_sockets(server, listening, **keywords)
    try:
        yield address, stop
    finally:
        stop()
        if isinstance(server, HTTPServer):
            await server.close_all_connections()


TOLD = b"192.0.2.1 ('192.0.2.1', 1000)"
PLAIN = b"127.0.0.1 plain"
OPTIONAL: dict[str, Any] = {"policy": HeaderPolicy.OPTIONAL}


async def assert_asked(address: Any, answer: bytes, *pieces: bytes, **keywords: Any) -> None:
    """Send pieces, with TLS before the handshake, then a request, and compare the answer."""
    async with connected(address, **keywords) as peer:
        await peer.send(*pieces)
        if keywords.get("context"):
            await peer.shake_hands()
        await peer.say(REQUEST)
        assert (await asyncio.wait_for(peer.hear(answer), PATIENCE)).startswith(b"HTTP/1.1 200 OK")


def test_tornado_reads_a_header(run: Run, security: Security) -> None:
    async def story() -> None:
        async with tornado(**security.server) as (address, _):
            await assert_asked(address, TOLD, HEADER, **security.client)

    run(story)


def test_tornado_on_a_unix_socket_sees_the_client(
    run: Run, security: Security, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the whole path may be too long for a UNIX address

    async def story() -> None:
        async with tornado(bind_unix_socket("site.sock"), **security.server) as (address, _):
            await assert_asked(address, TOLD, HEADER, **security.client)

    run(story)


@pytest.mark.parametrize("pieces", [[HEADER], [HEADER[:3], HEADER[3:9], HEADER[9:]]], ids=["whole", "cut"])
def test_an_optional_header_for_tornado_may_come(run: Run, security: Security, pieces: list[bytes]) -> None:
    async def story() -> None:
        async with tornado(**OPTIONAL, **security.server) as (address, _):
            await assert_asked(address, TOLD, *pieces, **security.client)

    run(story)


def test_an_optional_header_for_tornado_may_be_missing(run: Run, security: Security) -> None:
    async def story() -> None:
        async with tornado(**OPTIONAL, **security.server) as (address, _):
            await assert_asked(address, PLAIN, **security.client)

    run(story)


def test_data_that_begins_like_a_header_goes_to_tornado(run: Run) -> None:
    class Methods(RequestHandler):
        SUPPORTED_METHODS = ("PROPFIND",)

        def propfind(self) -> None:
            self.write("found")

    async def story() -> None:
        server = HTTPServer(Application([("/", Methods)]))
        async with tornado(server=server, **OPTIONAL) as (address, _), connected(address) as peer:
            await peer.send(b"PRO")
            await asyncio.sleep(0.03)  # longer than the pause between two MSG_PEEKs
            await peer.send(b"PFIND / HTTP/1.1\r\nConnection: close\r\nHost: app.example.com\r\n\r\n")
            assert (await peer.hear_all()).endswith(b"found")

    run(story)


@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL])
def test_tornado_drops_a_late_peer(run: Run, log: Log, policy: HeaderPolicy) -> None:
    async def story() -> None:
        async with tornado(policy=policy, timeout=0.1) as (address, _), connected(address) as peer:
            await peer.send(HEADER[:4])
            assert await asyncio.wait_for(peer.hear_all(), PATIENCE) == b""
        ((level, line),) = log.lines
        assert level == "WARNING"
        assert line.endswith("No complete PROXY protocol header came within 0.1 seconds, only 4 bytes; see timeout")

    run(story)


BAD = {
    "no header": (REQUEST, {}, "There is no PROXY protocol header"),
    "cut": (HEADER[:20], {}, "is incomplete"),
    "untrusted": (HEADER, {"policy": TrustedProxies(["192.0.2.1"])}, "not one of the trusted"),
    "cut, optional": (HEADER[:20], OPTIONAL, "is incomplete"),
    "cut in a signature, with no time-out": (b"PRO", {**OPTIONAL, "timeout": None}, "is incomplete"),
    "wrong, optional": (HEADER[:6] + REQUEST, OPTIONAL, "header"),
}


@pytest.mark.parametrize(("data", "keywords", "reason"), BAD.values(), ids=BAD)
def test_tornado_refuses_a_bad_header(run: Run, log: Log, data: bytes, keywords: Any, reason: str) -> None:
    async def story() -> None:
        async with tornado(**keywords) as (address, _), connected(address) as peer:
            await peer.send(data)
            with contextlib.suppress(OSError):  # the connection may have been dropped already
                peer.sock.shutdown(socket.SHUT_WR)
            assert await asyncio.wait_for(peer.hear_all(), PATIENCE) == b""
            await until(lambda: log.lines)
        ((level, line),) = log.lines
        assert level == "WARNING"
        assert reason in line

    run(story)


@pytest.mark.parametrize("data", [b"", HEADER], ids=["silent", "in the handshake"])
def test_a_client_that_left_tornado_is_logged_at_debug_level(
    run: Run, log: Log, certificates: Certificates, data: bytes
) -> None:
    async def story() -> None:
        async with tornado(ssl=certificates.server_context()) as (address, _):
            async with connected(address) as peer:
                await peer.send(data)
                peer.reset()
            await assert_asked(address, TOLD, HEADER, context=certificates.client_context())
        assert {level for level, _ in log.lines} <= {"DEBUG"}

    run(story)


def test_tornado_ends_a_late_handshake(run: Run, log: Log, certificates: Certificates) -> None:
    async def story() -> None:
        keywords: dict[str, Any] = {"ssl": certificates.server_context(), "tls_timeout": 0.05}
        async with tornado(**keywords) as (address, _), connected(address) as peer:
            await peer.send(HEADER)
            assert await asyncio.wait_for(peer.hear_all(), PATIENCE) == b""
            who = f"192.0.2.1:1000, relayed by 127.0.0.1:{peer.sock.getsockname()[1]} on {describe_address(address)}"
            await until(lambda: log.lines)
        reason = "the TLS handshake failed: it was not done within 0.05 seconds"
        assert log.lines == [("WARNING", f"Refused a connection from {who}: {reason}")]

    run(story)


def test_a_failed_handshake_of_tornado_is_one_bounded_line(run: Run, log: Log, certificates: Certificates) -> None:
    refused: list[RefusalCode] = []

    async def story() -> None:
        hook: dict[str, Any] = {"on_refused": lambda error, peer: refused.append(error.code)}
        async with tornado(ssl=certificates.server_context(), trusted="any", **hook) as (address, _):
            for _ in range(12):
                async with connected(address) as peer:
                    await peer.send(HEADER + REQUEST)
                    with contextlib.suppress(OSError):  # an alert or a reset
                        await asyncio.wait_for(peer.hear_all(), PATIENCE)
                    who = describe_address(peer.sock.getsockname())
                if len(refused) == 1:
                    ((level, line),) = log.lines
                    assert level == "WARNING"
                    start = f"Refused a connection from 192.0.2.1:1000, relayed by {who} on {describe_address(address)}"
                    assert line.startswith(f"{start}: the TLS handshake failed: [SSL: ")
        assert refused == [RefusalCode.TLS] * 12
        assert [line for _, line in log.lines[10:]] == [
            f"Refused 2 more connections within a second on {describe_address(address)}: 2 tls"
        ]
        assert [record for record in log.records if record.name.startswith("tornado")] == []

    run(story)


def test_stop_drops_tornado_s_connections_in_header_or_handshake(run: Run) -> None:
    async def story() -> None:
        async with tornado() as (address, stop), connected(address) as peer:
            await peer.send(HEADER[:9])
            await asyncio.sleep(0.01)
            stop()
            stop()  # calling it twice is harmless
            assert await asyncio.wait_for(peer.hear_all(), PATIENCE) == b""
            with pytest.raises(ConnectionRefusedError):
                connect(address)

    run(story)


def test_tornado_logs_what_its_handler_raises(run: Run, log: Log) -> None:
    class Failing(TCPServer):
        async def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
            await stream.write(repr(address).encode())
            stream.close()
            raise LookupError("the application's")

    async def story() -> None:
        async with tornado(server=Failing()) as (address, _), connected(address) as peer:
            await peer.send(HEADER)
            assert await peer.hear_all() == repr(CLIENT).encode()
            await until(others)

    def others() -> list[logging.LogRecord]:
        return [record for record in log.records if record.name == "tornado.application"]

    run(story)
    (record,) = others()
    log.records.clear()
    assert record.exc_info
    assert record.exc_info[0] is LookupError


in_our_loops = pytest.mark.parametrize(
    "run", [Run(new_event_loop), Run(new_uvloop_event_loop)], ids=["asyncio", "uvloop"]
)


@in_our_loops
def test_tornado_in_our_loop_without_the_helper_is_warned_of(run: Run, log: Log) -> None:
    async def story() -> None:
        server = HTTPServer(Application([("/", WhoIsIt)]))
        server.add_sockets(bind_sockets(0, "127.0.0.1"))
        await asyncio.sleep(0)
        server.stop()

    run(story)
    ((level, line),) = log.lines
    assert level == "WARNING"
    assert line.startswith("The event loop reads no PROXY protocol header on 127.0.0.1:")


@in_our_loops
def test_our_loop_leaves_the_sockets_of_add_sockets_alone(run: Run, log: Log, security: Security) -> None:
    async def story() -> None:
        async with tornado(**security.server) as (address, _):
            await assert_asked(address, TOLD, HEADER, **security.client)

    run(story)
    assert log.lines == []


class Upgrading(TCPServer):
    """Reads a line in the clear if asked to, begins TLS, then answers a line."""

    def __init__(self, certificates: Certificates, line: bool) -> None:
        super().__init__()
        self.certificates, self.line, self.heard = certificates, line, list[Any]()

    async def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        try:
            if self.line:
                self.heard.append(await stream.read_until(b"\n"))
            stream = await stream.start_tls(True, self.certificates.server_context())
            self.heard.append(await stream.read_until(b"\n"))
            await stream.write(b"answer\n")
        except (OSError, ValueError) as error:
            self.heard.append(type(error))
        if stream.socket is not None:  # start_tls has detached it, and closed it if the handshake failed
            stream.close()


@pytest.mark.parametrize("line", [True, False], ids=["after a command", "at once"])
def test_a_command_before_tls_fails_the_handshake_of_tornado(run: Run, certificates: Certificates, line: bool) -> None:
    """tornado itself refuses to begin TLS on a stream with unread data."""
    server, context = Upgrading(certificates, line), certificates.client_context()

    async def story() -> None:
        async with tornado(server=server) as (address, _), connected(address, context=context) as peer:
            await peer.send(HEADER + b"STARTTLS\n" * line + b"INJECTED\n")
            with contextlib.suppress(OSError):
                await peer.shake_hands()
                await peer.say(b"data\n")
            await until(lambda: len(server.heard) == 1 + line)

    run(story)
    assert server.heard == ([b"STARTTLS\n", ValueError] if line else [ssl.SSLError])


def test_tornado_begins_tls_with_a_client_hello_in_one_segment_with_the_header(
    run: Run, certificates: Certificates
) -> None:
    server, context = Upgrading(certificates, line=False), certificates.client_context()

    async def story() -> None:
        async with tornado(server=server) as (address, _), connected(address, context=context) as peer:
            await peer.shake_hands(HEADER)
            await peer.say(b"data\n")
            assert await peer.hear(b"\n") == b"answer\n"

    run(story)
    assert server.heard == [b"data\n"]
