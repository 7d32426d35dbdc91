"""``proxyprotocol demo``: see the library at work, in a few seconds and without a proxy."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any, Final

from proxyprotocol.asyncio import create_server
from proxyprotocol.receiver import Receiver
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, describe_address
from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["add_arguments", "run"]

_DESCRIPTION: Final = """\
Start echo servers on Twisted and on asyncio, play the balancer in front of
them, and show whom they see: without a header, with one, and by a forger.
"""
_EXAMPLES: Final = """\
examples:
  %(prog)s
  %(prog)s --verbose
  %(prog)s --keep
"""
_TLS: Final = ProxyProtocolSSLTLV(has_ssl=True, version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")
_TLV: Final = ProxyProtocolTLV(alpn=b"h2", authority="app.example.com", unique_id=b"demo-0001", ssl=_TLS)
_CLIENT: Final = ProxyResultIPv4((IPv4Address("203.0.113.7"), 56324), (IPv4Address("198.51.100.9"), 443))
_HEADERS: Final = {
    "version 1": ProxyProtocolV1().pack(_CLIENT),
    "version 2": ProxyProtocolV2().pack(_CLIENT),
    "version 2 with TLVs": ProxyProtocolV2().pack(_CLIENT.replace(tlv=_TLV)),
}
_PATIENCE: Final = 10.0  # seconds
_RECEIVER: Final = Receiver(trusted=["127.0.0.1"])
# The forger cannot have another address than ours: not every system has 127.0.0.2.
_OTHERS_RECEIVER: Final = Receiver(trusted=["10.0.0.1"])
_NEXT: Final = """\
Next, for your server behind a balancer in 10.0.0.0/8 (docs/index.rst has all the others):
  twistd -n web --listen proxyprotocol:tcp:8080:ppTrusted=10.0.0.0/8 --path .
  PROXYPROTOCOL_TRUSTED=10.0.0.0/8 uvicorn --loop proxyprotocol.asyncio:new_event_loop app:app
  proxyprotocol check app.example:8080"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to a parser."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    parser.add_argument("--keep", action="store_true", help="leave the servers running, and say what to type")
    parser.add_argument("--verbose", action="store_true", help="show every header and every line of the servers' logs")


def run(options: argparse.Namespace) -> int:
    """Play all connections, print what the servers saw, and return 0."""
    from twisted.internet import asyncioreactor  # here, because the other subcommands do not need Twisted

    loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    demonstration = loop.create_task(_Demonstration(options.verbose).play())
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


class _Demonstration:
    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose

    async def play(self) -> dict[str, int]:
        """Start the servers, connect to them, tell the story, and return the ports of the servers that read headers."""
        start = {"Twisted": self._start_twisted_server, "asyncio": self._start_asyncio_server}
        print("Before: a server behind a balancer sees the balancer.", flush=True)
        for framework, starter in start.items():
            await self._connect(framework, await starter(None))
        line = _HEADERS["version 1"].decode().strip()
        print(f"After: the balancer sends {line} first, and the server sees the client.", flush=True)
        ports = {framework: await starter(_RECEIVER) for framework, starter in start.items()}
        for framework, port in ports.items():
            for version, header in _HEADERS.items() if self._verbose else [("version 1", _HEADERS["version 1"])]:
                await self._connect(framework, port, version, header)
        print("A forger sends this too, but the server trusts only its balancer, here 10.0.0.1. It logs:", flush=True)
        with _logged() as lines:
            port = await self._start_asyncio_server(_OTHERS_RECEIVER)
            with contextlib.suppress(OSError):  # reset, since nobody reads the header
                assert await _exchange(port, _HEADERS["version 1"]) == b""
        for line in lines if self._verbose else lines[-1:]:
            print(f"  {line}")
        print(_NEXT, flush=True)
        return ports

    async def _connect(self, framework: str, port: int, version: str = "no header", header: bytes = b"") -> None:
        if self._verbose:
            print(f"{framework}, {version}\n  the proxy sent      {header!r}", flush=True)
        answer = await _exchange(port, header)
        if self._verbose:
            print(f"  the client got      {answer!r}\n", flush=True)
        assert answer == b"hello\n"

    def _show(self, framework: str, client: str, front: str, header: ProxyResult | None) -> None:
        """Print what a server saw of a new connection."""
        print(f"  {framework}'s server saw  {client} -> {front}", flush=True)
        if not self._verbose or header is None or not header.tlv:
            return
        tlv = header.tlv
        values = {
            "ALPN": tlv.alpn and tlv.alpn.decode(),
            "AUTHORITY": tlv.authority,
            "UNIQUE_ID": tlv.unique_id.decode(),
            "SSL": tlv.ssl and f"{tlv.ssl.version} {tlv.ssl.cipher}",
            "CRC32C": tlv.crc32c and f"{tlv.crc32c:08x}, right",
        }
        print("  and its TLVs       ", ", ".join(f"{name} {value}" for name, value in values.items() if value))

    async def _start_asyncio_server(self, receiver: Receiver | None) -> int:
        show = self._show

        class Echo(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport
                client, front = (describe_address(transport.get_extra_info(name)) for name in ("peername", "sockname"))
                show("asyncio", client, front, transport.get_extra_info("proxy_protocol"))

            def data_received(self, data: bytes) -> None:
                self.transport.write(data)

        server: Any
        if receiver is None:
            server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        else:
            server = await create_server(Echo, "127.0.0.1", 0, receiver=receiver)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _start_twisted_server(self, receiver: Receiver | None) -> int:
        """Start the Twisted server on the same event loop."""
        from twisted.internet import reactor  # run() has installed it
        from twisted.internet.endpoints import TCP4ServerEndpoint
        from twisted.internet.protocol import Factory
        from twisted.protocols.wire import Echo as TwistedEcho

        from proxyprotocol.twisted import ProxyProtocolServerEndpoint, proxy_result

        show = self._show

        class Echo(TwistedEcho):
            transport: Any

            def connectionMade(self) -> None:  # noqa: N802  # Twisted's interface prescribes the name
                peer, host = self.transport.getPeer(), self.transport.getHost()
                result = proxy_result(self.transport)
                show("Twisted", f"{peer.host}:{peer.port}", f"{host.host}:{host.port}", result)

        Factory.noisy = False
        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        if receiver is not None:
            endpoint = ProxyProtocolServerEndpoint(endpoint, receiver=receiver)
        listener = await endpoint.listen(Factory.forProtocol(Echo)).asFuture(asyncio.get_running_loop())
        port: int = listener.getHost().port
        return port


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    """Collect the lines that the servers on asyncio log."""
    lines: list[str] = []
    log, handler = logging.getLogger("proxyprotocol"), logging.Handler()
    log.setLevel(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)


async def _exchange(port: int, header: bytes) -> bytes:
    """Play the balancer: send the header and the client's first bytes at once, and return the server's answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(header + b"hello\n")
        return await asyncio.wait_for(reader.readline(), _PATIENCE)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
