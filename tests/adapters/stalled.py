"""The servers of test_stalls.py, each a program: ``python -m tests.adapters.stalled KIND CERTIFICATE``.

It prints its port, and then answers each connection with the client's host. The certificate is for the kinds with TLS
after the header.
"""

from __future__ import annotations

import asyncio
import socketserver
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

TIMEOUT = 1.0  # seconds


def context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[2])
    return context


async def answer(reader: Any, writer: asyncio.StreamWriter, *facts: Any) -> None:
    writer.write((facts[0].peername if facts else writer.get_extra_info("peername"))[0].encode())
    writer.close()


async def streams() -> Any:
    from proxyprotocol.asyncio import start_server

    return await start_server(answer, "127.0.0.1", 0, timeout=TIMEOUT)


async def secured() -> Any:
    from proxyprotocol.asyncio import start_server

    return await start_server(answer, "127.0.0.1", 0, ssl=context(), ssl_handshake_timeout=TIMEOUT)


async def read() -> Any:
    from proxyprotocol.reader import ProxyProtocolReader

    callback = ProxyProtocolReader(timeout=TIMEOUT).get_callback(answer)
    return await asyncio.start_server(callback, "127.0.0.1", 0)


async def relay() -> Any:
    from proxyprotocol.asyncio import start_server
    from proxyprotocol.server import Relay, parse_service
    from proxyprotocol.server._process.sockets import listen

    backend = await start_server(answer, "127.0.0.1", 0)
    destination = f"127.0.0.1:{backend.sockets[0].getsockname()[1]}?pp=v2"
    service = parse_service(f"127.0.0.1:0?accept=detect&timeout={TIMEOUT}", destination)
    relay: Any = Relay()
    relay.sockets, relay.backend = listen(service.source), backend
    relay.listen(service, relay.sockets)
    return relay


async def tornado() -> Any:
    from tornado.netutil import bind_sockets
    from tornado.tcpserver import TCPServer

    from proxyprotocol.integrations.tornado import add_sockets

    class Server(TCPServer):
        sockets = bind_sockets(0, "127.0.0.1")

        async def handle_stream(self, stream: Any, address: tuple[Any, ...]) -> None:
            await stream.write(address[0].encode())
            stream.close()

    server = Server()
    add_sockets(server, server.sockets, timeout=TIMEOUT)
    return server


async def anyio() -> Any:
    import anyio
    from anyio.abc import SocketAttribute

    from proxyprotocol.integrations.anyio import ProxyProtocolListener

    async def answer(stream: Any) -> None:
        async with stream:
            await stream.send(stream.extra(SocketAttribute.remote_address)[0].encode())

    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server: Any = ProxyProtocolListener(listener, timeout=TIMEOUT)
    server.sockets = [listener.listeners[0].extra(SocketAttribute.raw_socket)]
    server.serving = asyncio.create_task(server.serve(answer))
    return server


async def serve(listen: Callable[[], Awaitable[Any]]) -> None:
    server = await listen()
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def on_asyncio(listen: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(serve(listen))


def on_uvloop(listen: Callable[[], Awaitable[Any]]) -> None:
    import uvloop

    loop = uvloop.new_event_loop()
    loop.run_until_complete(serve(listen))


def blocking() -> None:
    from proxyprotocol import Receiver
    from proxyprotocol.sync import ProxyProtocolMixIn

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(self.client_address[0].encode())

    class Server(ProxyProtocolMixIn, socketserver.ThreadingTCPServer):
        daemon_threads, request_queue_size = True, 50
        receiver = Receiver(timeout=TIMEOUT)

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def on_twisted(kind: str, tls: bool = False) -> None:
    import importlib

    importlib.import_module(f"twisted.internet.{kind}reactor").install()
    from twisted.internet import reactor as installed
    from twisted.internet.protocol import Factory, Protocol
    from twisted.internet.ssl import PrivateCertificate
    from twisted.python.log import startLogging

    from proxyprotocol.twisted import ProxyProtocolWrapperFactory

    reactor: Any = installed
    startLogging(sys.stderr, setStdout=False)

    class App(Protocol):
        transport: Any

        def connectionMade(self) -> None:
            self.transport.write(self.transport.getPeer().host.encode())
            self.transport.loseConnection()

    keywords: Any = {"timeout": TIMEOUT}
    if tls:
        with open(sys.argv[2], "rb") as file:
            keywords = {"tls": PrivateCertificate.loadPEM(file.read()).options(), "tls_timeout": TIMEOUT}
    factory = ProxyProtocolWrapperFactory(Factory.forProtocol(App), **keywords)
    print(reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port, flush=True)
    reactor.run()


KINDS: dict[str, Callable[[], None]] = {
    "asyncio": lambda: on_asyncio(streams),
    "uvloop": lambda: on_uvloop(streams),
    "reader on asyncio": lambda: on_asyncio(read),
    "reader on uvloop": lambda: on_uvloop(read),
    "tornado": lambda: on_asyncio(tornado),
    "anyio on asyncio": lambda: on_asyncio(anyio),
    "anyio on uvloop": lambda: on_uvloop(anyio),
    "relay": lambda: on_asyncio(relay),
    "socketserver": blocking,
    "Twisted, select": lambda: on_twisted("select"),
    "Twisted, poll": lambda: on_twisted("poll"),
    "Twisted, epoll": lambda: on_twisted("epoll"),
    "Twisted, asyncio": lambda: on_twisted("asyncio"),
    "asyncio, TLS": lambda: on_asyncio(secured),
    "uvloop, TLS": lambda: on_uvloop(secured),
    "Twisted, TLS": lambda: on_twisted("epoll", tls=True),
}

if __name__ == "__main__":
    KINDS[sys.argv[1]]()
