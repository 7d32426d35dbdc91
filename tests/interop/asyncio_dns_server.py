"""A DNS server on asyncio or uvloop, over UDP and TCP, with the same answers as dns_server.py."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any

import uvloop

from proxyprotocol import ProxyResult, TrustedProxies
from proxyprotocol.asyncio import create_datagram_endpoint, start_server

HEADER_LENGTH = 12
LATER = 0.05  # seconds


def name_length(message: bytes) -> int:
    """Return the length of the name in the question, with its empty last label."""
    at = HEADER_LENGTH
    while message[at]:
        at += 1 + message[at]
    return at + 1 - HEADER_LENGTH


def texts(client: tuple[Any, ...], result: ProxyResult | None) -> list[bytes]:
    host, port = client[:2]
    if result is None or result.protocol is None or not isinstance(result.sockname, tuple):
        return [host.encode(), b"%d" % port]
    asked, asked_port = result.sockname[:2]
    said = (host, port, asked, asked_port, result.protocol.name)
    return [*(str(word).encode() for word in said), result.tlv.get(0xE5, b"none")]


def answer(message: bytes, client: tuple[Any, ...], result: ProxyResult | None) -> bytes:
    """Return an answer with a TXT record for the name in the question."""
    question = message[HEADER_LENGTH : HEADER_LENGTH + name_length(message) + 4]
    # an answer, recursion desired and available; one question and one record, with its name at byte 12
    header = message[:2] + bytes.fromhex("8180 0001 0001 0000 0000")
    value = b"".join(bytes([len(text)]) + text for text in texts(client, result))
    record = bytes.fromhex("c00c 0010 0001 00000000") + len(value).to_bytes(2, "big") + value
    return header + question + record


def is_for_later(message: bytes) -> bool:
    return message[HEADER_LENGTH + 1 :].startswith(b"later")


class WhoAmI(asyncio.DatagramProtocol):
    """Answers at once, or later, with the client's address."""

    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        said = answer(data, addr, self.transport.get_proxy_result(addr))
        if is_for_later(data):
            asyncio.get_running_loop().call_later(LATER, self.transport.sendto, said, addr)
        else:
            self.transport.sendto(said, addr)


async def who_am_i(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
        while True:
            message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            if is_for_later(message):
                await asyncio.sleep(LATER)
            said = answer(message, writer.get_extra_info("peername"), writer.get_extra_info("proxy_protocol"))
            writer.write(len(said).to_bytes(2, "big") + said)


async def listen(policy: TrustedProxies) -> int:
    """Listen on one free port for both."""
    while True:
        server = await start_server(who_am_i, "127.0.0.1", 0, policy=policy)
        port: int = server.sockets[0].getsockname()[1]
        try:
            await create_datagram_endpoint(WhoAmI, ("127.0.0.1", port), policy=policy)
        except OSError:  # another program uses this number for datagrams
            server.close()
        else:
            return port


async def main(network: str) -> None:
    print(await listen(TrustedProxies([network])), flush=True)
    await asyncio.Event().wait()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

if __name__ == "__main__":
    LOOPS[sys.argv[1]]().run_until_complete(main(sys.argv[2]))
