"""One process with two echo servers behind a proxy, and a sender that plays the proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, Final, NamedTuple, TypeAlias

from twisted.internet import asyncioreactor

from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.result import ProxyResult, ProxyResultIPv4
from proxyprotocol.sock import SocketInfo
from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.twisted import ProxyProtocolServerEndpoint, proxy_result
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__: list[str] = []

_CLIENT: Final = (IPv4Address("203.0.113.7"), 56324)
_FRONT: Final = (IPv4Address("198.51.100.9"), 443)
_PATIENCE: Final = 10.0  # seconds


def _result(tlv: ProxyProtocolTLV) -> ProxyResult:
    """Say what the proxy says of its client."""
    return ProxyResultIPv4(_CLIENT, _FRONT, protocol=socket.SOCK_STREAM, tlv=tlv)


_PLAIN: Final = _result(ProxyProtocolTLV())
_WITH_TLVS: Final = _result(
    ProxyProtocolTLV(
        alpn=b"h2",
        authority="app.example.com",
        unique_id=b"demo-0001",
        ssl=ProxyProtocolSSLTLV(has_ssl=True, version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384"),
    )
)
_HEADERS: Final = {
    "version 1": ProxyProtocolV1().pack(_PLAIN),
    "version 2": ProxyProtocolV2().pack(_PLAIN),
    "version 2 with TLVs": ProxyProtocolV2().pack(_WITH_TLVS),
}


class _Seen(NamedTuple):
    """What a server saw of a connection."""

    client: str
    front: str
    header: ProxyResult | None


_Tell: TypeAlias = Callable[[_Seen], None]


def demonstrate(keep: bool) -> None:
    """Send every header to both servers, and print what comes of it.

    Args:
        keep: Whether the servers go on until they are interrupted.
    """
    loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    try:
        loop.run_until_complete(_demonstrate(keep))
    except KeyboardInterrupt:
        print()
    finally:
        # CPython 3.11 reports a connection that is cancelled as one that failed, with a traceback
        loop.set_exception_handler(lambda loop, context: None)
        connections = asyncio.all_tasks(loop)
        for connection in connections:
            connection.cancel()
        loop.run_until_complete(asyncio.gather(*connections, return_exceptions=True))
        loop.close()


async def _start_asyncio_server(tell: _Tell) -> int:
    """Start the asyncio server; give its port."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: SocketInfo) -> None:
        source, dest = f"{info.source_addr}:{info.source_port}", f"{info.dest_addr}:{info.dest_port}"
        tell(_Seen(source, dest, info.result))
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    callback = ProxyProtocolReader().get_callback(on_connection)
    server = await asyncio.start_server(callback, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _start_twisted_server(tell: _Tell) -> int:
    """Start the Twisted server, on the same event loop; give its port."""
    from twisted.internet import reactor  # demonstrate() has installed it
    from twisted.internet.endpoints import TCP4ServerEndpoint
    from twisted.internet.protocol import Factory, Protocol

    class Echo(Protocol):
        transport: Any

        def connectionMade(self) -> None:  # noqa: N802  # Twisted's interface prescribes it
            peer, host = self.transport.getPeer(), self.transport.getHost()
            tell(_Seen(f"{peer.host}:{peer.port}", f"{host.host}:{host.port}", proxy_result(self.transport)))

        def dataReceived(self, data: bytes) -> None:  # noqa: N802
            self.transport.write(data)

    Factory.noisy = False
    endpoint = ProxyProtocolServerEndpoint(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
    listener = await endpoint.listen(Factory.forProtocol(Echo)).asFuture(asyncio.get_running_loop())
    port: int = listener.getHost().port  # type: ignore[attr-defined]
    return port


async def _send(port: int, data: bytes) -> bytes:
    """Play the proxy: connect, send the header and the client's first bytes at once, and read what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.readline(), _PATIENCE)
    writer.close()
    await writer.wait_closed()
    return answer


def _show(name: str, header: bytes, seen: _Seen, answer: bytes) -> None:
    """Print one connection."""
    print(f"\n{name}")
    print(f"  the proxy sent   {header!r}")
    print(f"  the server saw   {seen.client}, who came to {seen.front}")
    if seen.header is not None and seen.header.tlv:
        tlv = seen.header.tlv
        told = {
            "ALPN": None if tlv.alpn is None else tlv.alpn.decode(),
            "AUTHORITY": tlv.authority,
            "UNIQUE_ID": tlv.unique_id.decode() or None,
            "SSL": f"{tlv.ssl.version} {tlv.ssl.cipher}" if tlv.ssl else None,
            "CRC32C": None if tlv.crc32c is None else f"{tlv.crc32c:08x}, right",
        }
        print("  and its TLVs    ", ", ".join(f"{what} {value}" for what, value in told.items() if value is not None))
    print(f"  the client got   {answer!r}")


async def _demonstrate(keep: bool) -> None:
    seen: list[_Seen] = []
    ports = {
        "Twisted": await _start_twisted_server(seen.append),
        "asyncio": await _start_asyncio_server(seen.append),
    }
    for framework, port in ports.items():
        for version, header in _HEADERS.items():
            answer = await _send(port, header + b"hello\n")
            _show(f"{framework}, {version}", header, seen.pop(), answer)
            assert answer == b"hello\n"
    if keep:
        await _keep(ports, seen)


async def _keep(ports: dict[str, int], seen: list[_Seen]) -> None:
    line = _HEADERS["version 1"].decode().replace("\r\n", "\\r\\n")
    print("\nThe servers go on; Ctrl-C ends them. In another terminal:")
    for framework, port in ports.items():
        print(f"  printf '{line}hello\\n' | nc -w 2 127.0.0.1 {port}     # {framework}", flush=True)
    while True:
        await asyncio.sleep(1)
        while seen:
            print(f"  the server saw {seen[0].client}, who came to {seen.pop(0).front}", flush=True)
