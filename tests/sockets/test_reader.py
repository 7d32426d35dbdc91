"""ProxyProtocolReader: headers on asyncio streams, with the names of `proxy-protocol`."""

from __future__ import annotations

import asyncio

import pytest

from proxyprotocol import (
    ProxyProtocolChecksumError,
    ProxyProtocolDetect,
    ProxyProtocolLimitError,
    ProxyProtocolNoop,
    ProxyProtocolSyntaxError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResultLocal,
    Receiver,
)
from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.sock import SocketInfoLocal, SocketInfoProxy
from tests.on_asyncio.streams import LOCAL, PEER, Server, in_a_loop, logged
from tests.vectors import (
    IPV4_BLOCK,
    PROXY,
    SIGNATURE,
    VECTORS,
    Vector,
    checksum,
    describe,
    single_bytes,
    splits,
    tlv,
    v2,
)

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
HEADER = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x05, b"id"))
BEGINNINGS = [beginning for header in (LINE, HEADER) for beginning, rest in splits(header) if rest]
WRONG = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"PROXY TCP4 192.0.02.1 198.51.100.2 1000 2000\r\n",
    b"PROXY UNKNOWN " + b"x" * 65536,
    v2(PROXY, 0x41, IPV4_BLOCK),
    v2(PROXY, 0x11, IPV4_BLOCK, checksum("deadbeef")),
    SIGNATURE + b"\x21\x11\xff\xff",
]


pytestmark = pytest.mark.usefixtures("no_complaints", "debug_log")


class ReadExactly:
    """A stream without read()."""

    def __init__(self, data: bytes) -> None:
        self._reader = asyncio.StreamReader()
        self._reader.feed_data(data)
        self._reader.feed_eof()
        self.rest = self._reader.read

    async def readexactly(self, n: int) -> bytes:
        return await self._reader.readexactly(n)

    async def readline(self) -> bytes:
        raise AssertionError("A line may be longer than a header")


@pytest.mark.parametrize("vector", VECTORS, ids=str)
@in_a_loop
async def test_a_header_is_read_and_not_a_byte_of_what_follows(vector: Vector) -> None:
    data = vector.header + LINE + HEADER
    for pieces in ([data], [vector.header[:1], data[1:]], single_bytes(data)):
        for codec in (None, vector.codec):
            reader = asyncio.StreamReader()
            reading = asyncio.ensure_future(ProxyProtocolReader(codec).read(reader))
            for piece in pieces:
                reader.feed_data(piece)
                await asyncio.sleep(0)
            reader.feed_eof()
            assert describe(await reading) == describe(vector.result)
            assert await reader.read() == LINE + HEADER


@pytest.mark.parametrize("vector", VECTORS, ids=str)
@in_a_loop
async def test_a_stream_with_only_readexactly_is_enough(vector: Vector) -> None:
    reader = ReadExactly(vector.header + LINE)
    assert describe(await ProxyProtocolReader(ProxyProtocolDetect()).read(reader)) == describe(vector.result)
    assert await reader.rest() == LINE


@pytest.mark.parametrize("beginning", BEGINNINGS)
@in_a_loop
async def test_an_early_end_is_an_incomplete_read(beginning: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(beginning)
    reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await ProxyProtocolReader(ProxyProtocolDetect()).read(reader)
    assert caught.value.partial == beginning
    assert caught.value.expected is not None
    assert len(beginning) < caught.value.expected <= max(len(LINE), len(HEADER))
    with pytest.raises(asyncio.IncompleteReadError):
        await ProxyProtocolReader(ProxyProtocolDetect()).read(ReadExactly(beginning))


@pytest.mark.parametrize("data", WRONG)
@in_a_loop
async def test_a_wrong_header_is_an_error_before_the_stream_ends(data: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    with pytest.raises((ProxyProtocolSyntaxError, ProxyProtocolChecksumError)):
        await ProxyProtocolReader().read(reader)


@in_a_loop
async def test_a_wrong_first_byte_is_refused_before_a_second_comes() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"G")
    with pytest.raises(ProxyProtocolSyntaxError):
        await ProxyProtocolReader().read(reader)


@in_a_loop
async def test_at_most_107_bytes_of_a_line_are_ever_read() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"PROXY UNKNOWN " + b"x" * 65536)
    with pytest.raises(ProxyProtocolLimitError):
        await ProxyProtocolReader().read(reader)
    reader.feed_eof()
    assert len(await reader.read()) >= 14 + 65536 - 107


@in_a_loop
async def test_a_codec_that_reads_nothing_reads_nothing() -> None:
    reader = asyncio.StreamReader()
    assert await ProxyProtocolReader(ProxyProtocolNoop()).read(reader) == ProxyResultLocal()


@in_a_loop
async def test_a_header_over_the_limit_is_an_error() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(HEADER)
    with pytest.raises(ProxyProtocolLimitError):
        await ProxyProtocolReader(max_header=len(HEADER) - 1).read(reader)


def test_pp_is_the_codec() -> None:
    codec = ProxyProtocolV1()
    assert ProxyProtocolReader(codec).pp is codec
    assert isinstance(ProxyProtocolReader().pp, ProxyProtocolDetect)


def test_a_receiver_replaces_all_other_arguments() -> None:
    receiver = Receiver(ProxyProtocolV2())
    assert ProxyProtocolReader(receiver=receiver).pp is receiver.pp
    with pytest.raises(TypeError, match="pp= cannot be given with it"):
        ProxyProtocolReader(ProxyProtocolV1(), receiver=receiver)
    with pytest.raises(TypeError, match="timeout= cannot be given with it"):
        ProxyProtocolReader(receiver=receiver, timeout=1)
    with pytest.raises(TypeError):
        ProxyProtocolReader(time_out=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_an_invalid_time_out_is_a_value_error(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        ProxyProtocolReader(timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        ProxyProtocolReader().get_callback(print, timeout)


@pytest.mark.parametrize("vector", VECTORS, ids=str)
@in_a_loop
async def test_the_callback_gets_the_client_and_the_data_after_the_header(vector: Vector) -> None:
    for pieces in ([vector.header + LINE], [vector.header, LINE], [*single_bytes(vector.header), LINE]):
        server = Server(ProxyProtocolReader(ProxyProtocolDetect()))
        peer = await server.connect()
        await peer.send(*pieces)
        (info,) = server.infos
        expected = (SocketInfoProxy, vector.result.peername, vector.result.sockname)
        if not vector.result.proxied:
            expected = (SocketInfoLocal, PEER, LOCAL)  # type: ignore[assignment]
        assert (type(info), info.peername, info.sockname) == expected
        assert not peer.transport.is_closing()
        await peer.end()
        assert server.data == [LINE]


@pytest.mark.parametrize("data", WRONG)
@in_a_loop
async def test_a_wrong_header_aborts_the_connection_with_one_line_in_the_log(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(ProxyProtocolReader())
    peer = await server.connect()
    await peer.send(data)
    assert peer.transport.aborted
    _, _, (level, line) = logged(caplog)
    assert (level, line.startswith("Refused a connection from 192.0.2.9:40000 on 192.0.2.254:443: ")) == (
        "WARNING",
        True,
    )
    assert line.isprintable()
    await peer.lose()
    assert server.infos == []


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("error", [None, ConnectionResetError("gone")])
@in_a_loop
async def test_an_early_close_aborts_the_connection_with_one_line_in_the_log(
    beginning: bytes, error: OSError | None, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(ProxyProtocolReader(ProxyProtocolDetect()))
    peer = await server.connect()
    await peer.send(beginning)
    if error is None:
        await peer.end()
        assert peer.transport.aborted
    await peer.lose(error)
    _, _, (level, line) = logged(caplog)
    assert (level, "incomplete" in line) == (("WARNING", True) if beginning else ("DEBUG", False))
    assert server.infos == []


@pytest.mark.parametrize("beginning", [b"", b"P", LINE[:-1], SIGNATURE, HEADER[:-1]])
@in_a_loop
async def test_a_late_header_aborts_the_connection(beginning: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(ProxyProtocolReader())
    peer = await server.connect()
    await peer.send(beginning)
    await asyncio.sleep(2.99)
    assert not peer.transport.aborted
    await asyncio.sleep(0.02)
    assert peer.transport.aborted
    _, _, (level, line) = logged(caplog)
    remedy = "see timeout" if beginning else "if 192.0.2.9 is your proxy, make it send the header"
    assert (level, f"came within 3 seconds, only {len(beginning)} bytes; {remedy}" in line) == (
        "WARNING",
        True,
    )
    await peer.lose()
    assert server.infos == []


@pytest.mark.parametrize("header", [LINE, HEADER])
@in_a_loop
async def test_a_dripping_peer_gets_no_more_time(header: bytes) -> None:
    server = Server(ProxyProtocolReader())
    peer = await server.connect()
    for byte in single_bytes(header):
        await peer.send(byte)
        await asyncio.sleep(3.01 / (len(header) - 1))
    assert peer.transport.aborted
    assert server.infos == []
    await peer.lose()


@in_a_loop
async def test_the_time_out_ends_with_the_header() -> None:
    server = Server(ProxyProtocolReader())
    peer = await server.connect()
    await asyncio.sleep(2.99)
    await peer.send(LINE)
    await asyncio.sleep(3600)
    await peer.send(b"late")
    await peer.end()
    assert (server.data, peer.transport.aborted) == ([b"late"], False)


@pytest.mark.parametrize(
    ("reader", "timeout", "expected"),
    [
        (ProxyProtocolReader(), 10, 10),
        (ProxyProtocolReader(timeout=7), 10, 7),
        (ProxyProtocolReader(receiver=Receiver(timeout=7)), 10, 7),
        (ProxyProtocolReader(receiver=Receiver()), 10, 5),
        (ProxyProtocolReader(), None, None),
        (ProxyProtocolReader(timeout=None), 10, None),
    ],
)
@in_a_loop
async def test_the_readers_own_time_out_wins_over_the_callbacks(
    reader: ProxyProtocolReader, timeout: float | None, expected: float | None
) -> None:
    peer = await Server(reader, timeout).connect()
    await asyncio.sleep(expected - 0.01 if expected else 3600)
    assert not peer.transport.aborted
    if expected:
        await asyncio.sleep(0.02)
        assert peer.transport.aborted
    await peer.lose()
