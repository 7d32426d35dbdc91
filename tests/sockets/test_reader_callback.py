"""The callback of ProxyProtocolReader: cancellation, errors, and the quickstart on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import struct
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy, ProxyProtocolDetect, TrustedProxies
from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.sock import SocketInfo
from tests.on_asyncio.streams import LOCAL, PEER, Server, Transport, in_a_loop, settle
from tests.vectors import IPV4_BLOCK, PROXY, single_bytes, v2
from tests.vectors import LOCAL as LOCAL_COMMAND

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
HEADER = v2(PROXY, 0x11, IPV4_BLOCK)
Application = Callable[[asyncio.StreamReader, asyncio.StreamWriter, SocketInfo], "Awaitable[Any] | None"]


pytestmark = pytest.mark.usefixtures("no_complaints")


def streams(reader: asyncio.StreamReader) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Transport]:
    transport = Transport(PEER, LOCAL)
    protocol = asyncio.StreamReaderProtocol(reader)
    return reader, asyncio.StreamWriter(transport, protocol, None, asyncio.get_running_loop()), transport


def fed(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    return reader


@in_a_loop
async def test_cancelling_the_task_during_the_header_aborts_the_connection() -> None:
    for beginning in (b"", LINE[:-1], HEADER[:-1]):
        reader, writer, transport = streams(fed(beginning))
        task = asyncio.ensure_future(ProxyProtocolReader().get_callback(print)(reader, writer))
        await settle()
        assert not transport.aborted
        task.cancel()
        await task  # quietly: some CPythons log a traceback for each connection that is cancelled
        assert transport.aborted


@in_a_loop
async def test_cancelling_the_task_during_the_application_aborts_nothing() -> None:
    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        await asyncio.sleep(60)

    reader, writer, transport = streams(fed(HEADER))
    task = asyncio.ensure_future(ProxyProtocolReader().get_callback(application)(reader, writer))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not transport.is_closing()
    writer.close()


@in_a_loop
async def test_a_policy_function_that_raises_lets_no_peer_in(caplog: pytest.LogCaptureFixture) -> None:
    def policy(peer: Any, local: Any) -> HeaderPolicy:
        raise ZeroDivisionError

    callback = ProxyProtocolReader(policy=policy).get_callback(print)
    for _ in range(12):
        reader, writer, transport = streams(fed(HEADER))
        await callback(reader, writer)
        assert transport.aborted
        assert await reader.read(100) == HEADER
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 10  # a traceback each
    assert {record.exc_info and record.exc_info[0] for record in errors} == {ZeroDivisionError}
    assert errors[0].getMessage() == (
        "Refused a connection from 192.0.2.9:40000 on 192.0.2.254:443: The server's policy function raised "
        "ZeroDivisionError()"
    )


@in_a_loop
async def test_the_policy_function_gets_the_addresses_of_the_socket() -> None:
    asked = []

    def policy(peer: Any, local: Any) -> HeaderPolicy:
        asked.append((peer, local))
        return HeaderPolicy.REQUIRE

    server = Server(ProxyProtocolReader(policy=policy))
    await (await server.connect()).send(HEADER)
    assert asked == [(PEER, LOCAL)]


@in_a_loop
async def test_the_callback_may_be_a_plain_function() -> None:
    called = []
    reader, writer, _ = streams(fed(HEADER + b"EHLO"))

    def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        called.append((reader, writer, info.peername))

    await ProxyProtocolReader().get_callback(application)(reader, writer)
    assert called == [(reader, writer, ("192.0.2.1", 1000))]
    writer.close()


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), OSError("mine"), ConnectionResetError("another's")])
@in_a_loop
async def test_an_error_of_the_application_is_raised_unchanged(error: Exception) -> None:
    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        raise error

    reader, writer, _ = streams(fed(HEADER))
    with pytest.raises(type(error)) as caught:
        await ProxyProtocolReader().get_callback(application)(reader, writer)
    assert caught.value is error


@in_a_loop
async def test_a_reset_while_the_application_reads_is_only_a_debug_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "proxyprotocol")
    server = Server(ProxyProtocolReader())
    peer = await server.connect()
    await peer.send(v2(LOCAL_COMMAND, 0x00))
    await peer.lose(ConnectionResetError("gone"))
    assert len(server.infos) == 1
    assert caplog.messages[2:] == ["The connection was lost: gone"]


@in_a_loop
async def test_a_reset_while_the_application_writes_is_only_a_debug_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "proxyprotocol")

    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        # as asyncio's transports do when a write fails: they close at once, and report the loss a little later
        writer.transport.close()
        asyncio.get_running_loop().call_soon(protocol.connection_lost, BrokenPipeError("gone"))
        await writer.drain()

    reader = fed(HEADER)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport = Transport(PEER, LOCAL)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
    await ProxyProtocolReader().get_callback(application)(reader, writer)
    assert caplog.messages[2:] == ["The connection was lost: Connection lost"]


@in_a_loop
async def test_every_connection_without_a_unique_id_in_its_header_gets_one() -> None:
    server = Server(ProxyProtocolReader(policy=HeaderPolicy.SKIP))
    for _ in range(2):
        await server.connect()
    names = {info.unique_id for info in server.infos}
    assert {len(name) for name in names} == {16}
    assert len(names) == 2


@pytest.mark.parametrize("header", [LINE, HEADER])
@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL])
@in_a_loop
async def test_a_second_header_is_warned_of(
    header: bytes, policy: HeaderPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    read = []

    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        read.append(await reader.read(1000))

    callback = ProxyProtocolReader(policy=policy, trusted="any").get_callback(application)
    for data in (header + b"data", header * 2 + b"data"):
        reader, writer, _ = streams(fed(data))
        await callback(reader, writer)
        writer.close()
    assert read == [b"data", header + b"data"]
    (text,) = [text for text in caplog.messages if not text.startswith("Reads ")]
    assert text.startswith("A second PROXY protocol header follows the first from 192.0.2.9:40000 on 192.0.2.254:443,")


@in_a_loop
async def test_the_first_connection_says_where_the_callback_reads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxyprotocol")
    server = Server(ProxyProtocolReader(trusted="any"))
    for _ in range(2):
        await (await server.connect()).send(HEADER)
    reads, everybody = "Reads version 1 and 2 headers", "from everybody, as trusted says"
    assert caplog.messages == [f"{reads} {everybody}", f"{reads} on 192.0.2.254:443 {everybody}"]


def on_loopback(
    story: Callable[[Callable[..., Awaitable[Any]], list[SocketInfo]], Awaitable[None]], **arguments: Any
) -> list[SocketInfo]:
    """Run a story with the echo server of the quickstart; return the infos that its callback got."""
    complaints: list[dict[str, Any]] = []
    infos: list[SocketInfo] = []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        infos.append(info)
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        callback = ProxyProtocolReader(ProxyProtocolDetect(), **arguments).get_callback(on_connection)
        server = await asyncio.start_server(callback, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        async with server:
            await story(lambda: asyncio.open_connection(*address), infos)

    asyncio.run(asyncio.wait_for(main(), 30), debug=True)
    gc.collect()  # exceptions that were never retrieved are reported when they are collected
    assert complaints == []
    return infos


async def echoed(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], pieces: list[bytes]) -> bytes:
    reader, writer = connection
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("header", [LINE, HEADER])
def test_the_quickstart_echoes_and_knows_its_client(header: bytes) -> None:
    async def story(connect: Callable[..., Awaitable[Any]], infos: list[SocketInfo]) -> None:
        for pieces in ([header + b"EHLO"], [*single_bytes(header), b"EHLO"]):
            assert await echoed(await connect(), pieces) == b"EHLO"

    infos = on_loopback(story)
    assert len(infos) == 2
    for info in infos:
        assert (info.family.name, info.peername) == ("AF_INET", ("192.0.2.1", 1000))
        assert (info.source_addr, info.source_port, info.dest_addr, info.dest_port) == (
            *("192.0.2.1", 1000),
            *("198.51.100.2", 2000),
        )


def test_a_refused_peer_receives_nothing_and_the_server_goes_on() -> None:
    async def story(connect: Callable[..., Awaitable[Any]], infos: list[SocketInfo]) -> None:
        for data in (b"GET / HTTP/1.1\r\n\r\n", LINE[:-2] + b"\n", LINE[:20], HEADER[:20], b""):
            reader, writer = await connect()
            writer.write(data)
            writer.write_eof()
            with contextlib.suppress(ConnectionResetError):  # an abort may look like this from here
                assert await reader.read() == b""
            writer.close()
        assert infos == []
        assert await echoed(await connect(), [LINE, b"EHLO"]) == b"EHLO"

    assert len(on_loopback(story)) == 1


def test_peers_that_reset_the_connection_leave_no_trace() -> None:
    async def story(connect: Callable[..., Awaitable[Any]], infos: list[SocketInfo]) -> None:
        for data in (b"", b"P", LINE[:-1], HEADER[:-1], LINE, HEADER, LINE + b"x" * 100_000, b"GET / HTTP/1.1\r\n"):
            _, writer = await connect()
            writer.write(data)
            await writer.drain()
            # the kernel then sends RST instead of FIN
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            await asyncio.sleep(0)
        assert await echoed(await connect(), [LINE, b"EHLO"]) == b"EHLO"

    for policy in (HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL):
        on_loopback(story, policy=policy)


def test_a_plain_connection_gets_its_bytes_back_in_order() -> None:
    text = bytes(range(256)) * 2000

    async def story(connect: Callable[..., Awaitable[Any]], infos: list[SocketInfo]) -> None:
        assert await echoed(await connect(), [b"GET", b" /", text]) == b"GET /" + text
        assert await echoed(await connect(), [HEADER, text]) == text

    plain, proxied = on_loopback(story, policy=HeaderPolicy.OPTIONAL)
    assert plain.peername_ip == proxied.dest_addr or plain.from_localhost
    assert proxied.peername == ("192.0.2.1", 1000)


def test_the_word_unix_trusts_unix_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "server.sock")
    peers = []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        peers.append(info.peername)
        writer.close()

    async def main() -> None:
        for networks in (["unix"], ["0.0.0.0/0"]):
            callback = ProxyProtocolReader(policy=TrustedProxies(networks)).get_callback(on_connection)
            server = await asyncio.start_unix_server(callback, path)
            async with server:
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(HEADER)
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
            Path(path).unlink(missing_ok=True)

    asyncio.run(asyncio.wait_for(main(), 30), debug=True)
    assert peers == [("192.0.2.1", 1000)]


@in_a_loop
async def test_a_refused_connection_needs_no_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        reader, writer, _ = streams(fed(b"GET / HTTP/1.1\r\n"))
        gone = weakref.ref(reader)
        await ProxyProtocolReader().get_callback(print)(reader, writer)
        del reader, writer, _
        await settle()
        assert gone() is None
    finally:
        gc.enable()
