"""ProxyProtocolReader under every policy except the default."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy, ProxyProtocolDetect, TrustedProxies
from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.result import describe_address
from proxyprotocol.sock import SocketInfo, SocketInfoLocal
from tests.on_asyncio.streams import LOCAL, PEER, Server, Transport, in_a_loop, logged, settle
from tests.vectors import IPV4_BLOCK, PROXY, SIGNATURE, checksum, single_bytes, tlv, v2

HEADER = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x05, b"id"))
CLIENT = ("192.0.2.1", 1000)
OPTIONAL = ProxyProtocolReader(policy=HeaderPolicy.OPTIONAL)
AFTER_A_SIGNATURE = [
    b"PROXY TCP4 192.0.02.1 198.51.100.2 1000 2000\r\n",
    b"PROXY UNKNOWN " + b"x" * 65536,
    v2(PROXY, 0x41, IPV4_BLOCK),
    v2(PROXY, 0x11, IPV4_BLOCK, checksum("deadbeef")),
    SIGNATURE + b"\x21\x11\xff\xff",
]


pytestmark = pytest.mark.usefixtures("no_complaints", "debug_log")


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\n\r\n", b"PROX", b"\r\n\r\nGET", b"x" * 200_000])
@pytest.mark.parametrize("ended", [False, True])
@in_a_loop
async def test_under_optional_other_bytes_are_given_back(data: bytes, ended: bool) -> None:
    data += b"?"
    for pieces in ([data], [data[:1], data[1:]], [*single_bytes(data[:40]), data[40:]]):
        server = Server(OPTIONAL)
        peer = await server.connect()
        if ended:
            for piece in pieces:
                peer.protocol.data_received(piece)
        else:
            await peer.send(*pieces)
        await peer.end()
        assert server.data == [data]
        assert (type(server.infos[0]), server.infos[0].peername) == (SocketInfoLocal, PEER)


@pytest.mark.parametrize("ended", [False, True])
@in_a_loop
async def test_under_optional_silence_is_a_plain_connection(ended: bool) -> None:
    # the client may wait for the server to speak first
    server = Server(OPTIONAL)
    peer = await server.connect()
    if not ended:
        await asyncio.sleep(2.99)
        assert server.infos == []
        await asyncio.sleep(0.02)
        assert server.infos[0].peername == PEER
        await peer.send(b"EHLO")
    await peer.end()
    assert server.data == [b"" if ended else b"EHLO"]


@in_a_loop
async def test_under_optional_a_header_is_believed() -> None:
    server = Server(OPTIONAL)
    peer = await server.connect()
    await peer.send(HEADER + b"EHLO")
    await peer.end()
    assert (server.data, server.infos[0].peername, server.infos[0].unique_id) == ([b"EHLO"], CLIENT, b"id")


@pytest.mark.parametrize("data", [*AFTER_A_SIGNATURE, b"P", b"PROXY", b"PROXY ", SIGNATURE[:5], SIGNATURE])
@in_a_loop
async def test_under_optional_a_wrong_or_incomplete_header_is_refused(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(OPTIONAL)
    peer = await server.connect()
    await peer.send(data)
    await peer.end()
    assert peer.transport.aborted
    assert [level for level, _ in logged(caplog)] == ["WARNING", "INFO", "WARNING"]
    await peer.lose()
    assert server.infos == []


class Resetting(asyncio.StreamReader):
    """A stream whose connection is reset right after the first bytes."""

    async def read(self, n: int = -1) -> bytes:
        data = await super().read(n)
        self.set_exception(ConnectionResetError("gone"))
        return data


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n" * 2, b"GET", HEADER])
@in_a_loop
async def test_a_reset_right_after_the_first_bytes_reaches_the_application(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    called = []

    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        called.append(info)
        await reader.read()

    reader = Resetting()
    reader.feed_data(data)
    loop, transport = asyncio.get_running_loop(), Transport(PEER, LOCAL)
    writer = asyncio.StreamWriter(transport, asyncio.StreamReaderProtocol(reader), None, loop)
    await OPTIONAL.get_callback(application)(reader, writer)
    if data is HEADER:  # it takes two reads
        assert (called, transport.aborted) == ([], True)
    else:
        assert (len(called), transport.is_closing()) == (1, False)
        assert logged(caplog)[2:] == [("DEBUG", "The connection was lost: gone")]
        writer.close()


@in_a_loop
async def test_skip_gives_the_header_to_the_application() -> None:
    server = Server(ProxyProtocolReader(policy=HeaderPolicy.SKIP))
    peer = await server.connect()
    assert server.infos[0].peername == PEER
    await peer.send(HEADER)
    await peer.end()
    assert server.data == [HEADER]


@in_a_loop
async def test_ignore_reads_the_header_and_keeps_the_real_addresses(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(ProxyProtocolReader(policy=HeaderPolicy.IGNORE))
    peer = await server.connect()
    await peer.send(HEADER + b"EHLO")
    await peer.end()
    assert (server.data, type(server.infos[0]), server.infos[0].peername) == ([b"EHLO"], SocketInfoLocal, PEER)
    peer = await server.connect()
    await peer.send(b"EHLO")
    assert (peer.transport.aborted, len(logged(caplog)), len(server.infos)) == (True, 3, 1)


@pytest.mark.parametrize("peer", [("203.0.113.1", 1), None, ""])
@in_a_loop
async def test_an_untrusted_peer_is_dropped_before_a_byte_is_read(peer: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(ProxyProtocolReader(policy=TrustedProxies(["192.0.2.0/24", "unix"])))
    connection = await server.connect(peer)
    assert connection.transport.aborted
    assert logged(caplog) == [
        ("INFO", "Reads version 1 and 2 headers from 192.0.2.0/24, unix"),
        ("INFO", "Reads version 1 and 2 headers on 192.0.2.254:443 from 192.0.2.0/24, unix"),
        (
            "WARNING",
            f"Refused a connection from {describe_address(peer)} on 192.0.2.254:443: The peer is not one of the "
            "trusted proxies; if it is your proxy, add it to trusted",
        ),
    ]
    connection.reader.feed_data(HEADER)
    await settle()
    assert await connection.reader.read(len(HEADER)) == HEADER
    assert server.infos == []


@pytest.mark.parametrize(("peer", "local"), [(("::ffff:192.0.2.9", 1, 0, 0), LOCAL), ("", "/run/server.sock")])
@in_a_loop
async def test_a_trusted_peer_is_believed(peer: Any, local: Any) -> None:
    server = Server(ProxyProtocolReader(policy=TrustedProxies(["192.0.2.0/24", "unix"])))
    await (await server.connect(peer, local)).send(HEADER)
    assert server.infos[0].peername == CLIENT


@in_a_loop
async def test_an_untrusted_peer_may_be_served_as_a_plain_connection() -> None:
    server = Server(ProxyProtocolReader(policy=TrustedProxies([], otherwise=HeaderPolicy.SKIP)))
    peer = await server.connect()
    await peer.send(HEADER)
    await peer.end()
    assert (server.data, server.infos[0].peername) == ([HEADER], PEER)


@pytest.mark.parametrize(
    ("policy", "header"),
    [
        (HeaderPolicy.IGNORE, b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"),
        (HeaderPolicy.REQUIRE, b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x05\x05\x00\x02id"),
    ],
    ids=["IGNORE", "LOCAL"],
)
def test_info_has_the_header_even_if_it_does_not_count(policy: HeaderPolicy, header: bytes) -> None:
    async def scenario() -> SocketInfo:
        told: asyncio.Future[SocketInfo] = asyncio.get_running_loop().create_future()

        async def on_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
            told.set_result(info)
            assert info.peername == writer.get_extra_info("peername")
            writer.close()

        server = await asyncio.start_server(
            ProxyProtocolReader(policy=policy).get_callback(on_connection), "127.0.0.1", 0
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(header)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            return await told

    result = asyncio.run(scenario()).result
    assert result == ProxyProtocolDetect().unpack(header)


@in_a_loop
async def test_bytes_given_back_after_the_end_of_the_stream_may_hold_long_lines() -> None:
    # a line may be as long as the limit of the server's streams, which those do not show
    line, lines = b"x" * 200_000 + b"\n", []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        lines.append(await reader.readline())

    reader = asyncio.StreamReader(limit=2**20)
    reader.feed_data(b"PROXY UNKNOWN\r\n" + line)
    reader.feed_eof()
    protocol = asyncio.StreamReaderProtocol(reader)
    writer = asyncio.StreamWriter(Transport(PEER, LOCAL), protocol, reader, asyncio.get_running_loop())
    await ProxyProtocolReader().get_callback(on_connection)(reader, writer)
    writer.close()
    assert lines == [line]
