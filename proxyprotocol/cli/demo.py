"""``proxyprotocol demo``: see the library at work, in a few seconds and without a proxy."""

from __future__ import annotations

import argparse
import asyncio
from ipaddress import IPv4Address
from typing import Any, Final

from proxyprotocol.asyncio import create_server
from proxyprotocol.policy import TrustedProxies
from proxyprotocol.receiver import Receiver
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, describe_address
from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["add_arguments", "run"]

_TLS: Final = ProxyProtocolSSLTLV(has_ssl=True, version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")
_TLV: Final = ProxyProtocolTLV(alpn=b"h2", authority="app.example.com", unique_id=b"demo-0001", ssl=_TLS)
_PLAIN: Final = ProxyResultIPv4((IPv4Address("203.0.113.7"), 56324), (IPv4Address("198.51.100.9"), 443))
_HEADERS: Final = {
    "version 1": ProxyProtocolV1().pack(_PLAIN),
    "version 2": ProxyProtocolV2().pack(_PLAIN),
    "version 2 with TLVs": ProxyProtocolV2().pack(_PLAIN.replace(tlv=_TLV)),
}
_PATIENCE: Final = 10.0  # seconds
_RECEIVER: Final = Receiver(policy=TrustedProxies(["127.0.0.1"]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to a parser."""
    parser.description = (
        "Start two echo servers that read headers, one on Twisted and one on asyncio, play the proxy in front of them, "
        "and show what they saw of the client."
    )
    parser.add_argument("--keep", action="store_true", help="leave the servers running, and say what to type")


def run(options: argparse.Namespace) -> int:
    """Send every header to both servers, print the results, and return 0."""
    from twisted.internet import asyncioreactor  # here, because the other subcommands do not need Twisted

    loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    demonstration = loop.create_task(_demonstrate())
    try:
        ports = loop.run_until_complete(demonstration)
        if options.keep:
            line = _HEADERS["version 1"].decode().replace("\r\n", "\\r\\n")
            print("\nThe servers keep running; Ctrl-C ends them. In another terminal:")
            for framework, port in ports.items():
                print(f"  printf '{line}hello\\n' | nc -w 2 127.0.0.1 {port}     # {framework}", flush=True)
            loop.run_forever()
    except KeyboardInterrupt:
        print()
        demonstration.cancel()
        loop.run_until_complete(asyncio.wait([demonstration]))
    finally:
        loop.close()
    return 0


async def _demonstrate() -> dict[str, int]:
    """Start the servers, send every header to them, and return their ports."""
    ports = {"Twisted": await _start_twisted_server(), "asyncio": await _start_asyncio_server()}
    for framework, port in ports.items():
        for version, header in _HEADERS.items():
            print(f"\n{framework}, {version}\n  the proxy sent   {header!r}")
            # play the proxy: send the header and the client's first bytes at once
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(header + b"hello\n")
            answer = await asyncio.wait_for(reader.readline(), _PATIENCE)
            writer.close()
            await writer.wait_closed()
            print(f"  the client got   {answer!r}")
            assert answer == b"hello\n"
    return ports


def _show(client: str, front: str, header: ProxyResult | None) -> None:
    """Print what a server saw of a new connection."""
    print(f"  the server saw   {client}, who came to {front}", flush=True)
    if header is None or not header.tlv:
        return
    tlv = header.tlv
    values = {
        "ALPN": tlv.alpn and tlv.alpn.decode(),
        "AUTHORITY": tlv.authority,
        "UNIQUE_ID": tlv.unique_id.decode(),
        "SSL": tlv.ssl and f"{tlv.ssl.version} {tlv.ssl.cipher}",
        "CRC32C": tlv.crc32c and f"{tlv.crc32c:08x}, right",
    }
    print("  and its TLVs    ", ", ".join(f"{name} {value}" for name, value in values.items() if value))


async def _start_asyncio_server() -> int:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            client, front = (describe_address(transport.get_extra_info(name)) for name in ("peername", "sockname"))
            _show(client, front, transport.get_extra_info("proxy_protocol"))

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    server = await create_server(Echo, "127.0.0.1", 0, receiver=_RECEIVER)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _start_twisted_server() -> int:
    """Start the Twisted server on the same event loop."""
    from twisted.internet import reactor  # run() has installed it
    from twisted.internet.endpoints import TCP4ServerEndpoint
    from twisted.internet.protocol import Factory
    from twisted.protocols.wire import Echo as TwistedEcho

    from proxyprotocol.twisted import ProxyProtocolServerEndpoint, proxy_result

    class Echo(TwistedEcho):
        transport: Any

        def connectionMade(self) -> None:  # noqa: N802  # Twisted's interface prescribes the name
            peer, host = self.transport.getPeer(), self.transport.getHost()
            _show(f"{peer.host}:{peer.port}", f"{host.host}:{host.port}", proxy_result(self.transport))

    Factory.noisy = False
    endpoint = ProxyProtocolServerEndpoint(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), receiver=_RECEIVER)
    listener = await endpoint.listen(Factory.forProtocol(Echo)).asFuture(asyncio.get_running_loop())
    port: int = listener.getHost().port
    return port
