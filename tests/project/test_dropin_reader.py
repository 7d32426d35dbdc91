"""Drop-in: a user's own codecs, and the reader, work as with the PyPI package proxy-protocol 0.11.3."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from proxyprotocol import ProxyProtocol, ProxyProtocolIncompleteError, ProxyProtocolWantRead
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.result import ProxyResult, ProxyResultLocal
from proxyprotocol.v1 import ProxyProtocolV1
from tests.project.dropin_names import HEAD, NAMESPACE, V1_LINE, V2_HEADER


class Own(ProxyProtocol):
    """A codec that was written for `proxy-protocol`."""

    def is_valid(self, signature: bytes) -> bool:
        return signature.startswith(b"OWN")

    def unpack(self, data: bytes) -> ProxyResult:
        if len(data) < 10:
            raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(10 - len(data)))
        return ProxyResultLocal()

    def pack(self, result: ProxyResult) -> bytes:
        return b"OWN HEADER"


def test_detect_takes_a_user_s_own_codecs() -> None:
    codec = Own()
    detect = ProxyProtocolDetect(ProxyProtocolV1(), codec)
    assert detect.choose_version(b"OWN HEAD") is codec
    assert detect.unpack(b"OWN HEADER") == ProxyResultLocal()
    assert ProxyProtocolDetect(codec).pack(ProxyResultLocal()) == b"OWN HEADER"
    with pytest.raises(ProxyProtocolIncompleteError):
        detect.unpack(b"OWN HEAD")


async def read(codec: ProxyProtocol, data: bytes) -> tuple[ProxyResult, bytes]:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    return await ProxyProtocolReader(codec).read(stream), await stream.read()


READ = [
    ("ProxyProtocolV1()", V1_LINE, "ProxyProtocolV1().unpack(V1_LINE)"),
    ("ProxyProtocolV2()", V2_HEADER, "R4"),
    ("ProxyProtocolDetect()", V1_LINE, "ProxyProtocolV1().unpack(V1_LINE)"),
    ("ProxyProtocolDetect()", V2_HEADER, "R4"),
    ("ProxyProtocolNoop()", b"", "LOCAL"),
]


@pytest.mark.parametrize(("codec", "header", "result"), READ)
def test_the_reader_reads_the_header_and_not_a_byte_more(codec: str, header: bytes, result: str) -> None:
    answer, rest = asyncio.run(read(eval(codec, NAMESPACE), header + b"HTTP"))
    assert (repr(answer), rest) == (repr(eval(result, NAMESPACE)), b"HTTP")


def test_the_reader_takes_a_user_s_own_codec() -> None:
    assert asyncio.run(read(Own(), b"OWN HEADERrest")) == (ProxyResultLocal(), b"rest")


@pytest.mark.parametrize("codec", ["ProxyProtocolV2()", "ProxyProtocolDetect()"])
@pytest.mark.parametrize("data", [b"", HEAD[:10], V2_HEADER[:-1]])
def test_a_header_that_ends_early_is_an_incomplete_read(codec: str, data: bytes) -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        asyncio.run(read(eval(codec, NAMESPACE), data))


async def call_back(codec: ProxyProtocol, data: bytes) -> tuple[Any, bytes, bytes]:
    """Return the info that the callback of a server got, the unique ID in it, and the bytes that it read."""
    got: asyncio.Queue[tuple[Any, bytes, bytes]] = asyncio.Queue()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: Any) -> None:
        got.put_nowait((repr(info), info.unique_id, await reader.read()))
        writer.close()

    callback = ProxyProtocolReader(codec).get_callback(on_connection, timeout=30)
    assert inspect.iscoroutinefunction(callback)
    async with await asyncio.start_server(callback, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(got.get(), 30)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        return answer


def test_the_callback_gets_the_client_of_the_header() -> None:
    answer = asyncio.run(call_back(ProxyProtocolDetect(), V2_HEADER + b"HTTP"))
    assert answer == ("<SocketInfoProxy peername='[1.2.3.4]:5' sockname='[5.6.7.8]:9'>", b"", b"HTTP")


WITHOUT_A_CLIENT = [("ProxyProtocolV2()", HEAD + b" \x00\x00\x00"), ("ProxyProtocolNoop()", b"")]


@pytest.mark.parametrize(("codec", "header"), WITHOUT_A_CLIENT)
def test_the_callback_of_a_connection_without_a_client_has_a_unique_id_of_16_bytes(codec: str, header: bytes) -> None:
    info, unique_id, rest = asyncio.run(call_back(eval(codec, NAMESPACE), header + b"HTTP"))
    assert info.startswith("<SocketInfoLocal peername='[127.0.0.1]:")
    assert (len(unique_id), rest) == (16, b"HTTP")
