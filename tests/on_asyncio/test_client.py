"""Client connections that send a header, to our servers and to a peer that records what comes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from asyncio import BaseProtocol
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxyprotocol import ProxyProtocolV1, ProxyProtocolV2, ProxyResultIPv4, ProxyResultLocal, ProxyResultUnix
from proxyprotocol.asyncio import create_connection, open_connection
from proxyprotocol.build import build_transport_result
from tests.interop._certificates import SERVER_NAME, Certificates
from tests.on_asyncio.loops import (
    CLIENT,
    HEADER,
    PATIENCE,
    App,
    Apps,
    BufferedApp,
    Run,
    Security,
    StreamApps,
    listening,
    until,
)
from tests.vectors import TCP4

pytestmark = pytest.mark.usefixtures("log")

V1 = ProxyProtocolV1()


def client_keywords(security: Security) -> dict[str, Any]:
    return {"ssl": security.client["context"], "server_hostname": SERVER_NAME} if security else {}


@contextlib.asynccontextmanager
async def segments(listener_family: Any = socket.AF_INET) -> AsyncIterator[tuple[Any, list[bytes]]]:
    """Listen without a parser, and yield the address and the first segment of each connection."""
    loop = asyncio.get_running_loop()
    firsts: list[bytes] = []
    with socket.socket(listener_family) as listener:
        listener.bind(("::1" if listener_family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)

        async def accept() -> None:
            sock, _ = await loop.sock_accept(listener)
            with sock:
                sock.setblocking(False)
                firsts.append(await loop.sock_recv(sock, 2**16))

        accepting = asyncio.create_task(accept())
        yield listener.getsockname()[:2], firsts
        await asyncio.wait_for(accepting, PATIENCE)


@pytest.mark.parametrize("kind", [App, BufferedApp])
def test_the_server_sees_the_client_that_the_header_names(run: Run, security: Security, kind: Any) -> None:
    apps, client = Apps(), kind(begin=lambda app: app.transport.write(b"question\n"), read=lambda app: None)

    async def story() -> None:
        async with listening(apps, **security.server) as server:
            address = server.sockets[0].getsockname()
            transport, protocol = await create_connection(
                lambda: client, *address, result=TCP4, **client_keywords(security)
            )
            assert protocol is client
            assert transport is client.transport
            await until(lambda: client.received == b"answer to question\n")
            assert (apps.app.facts.peername, apps.app.facts.proxy_protocol.source) == (CLIENT, TCP4.source)
            assert client.facts.peername == address
            transport.close()
            await until(lambda: client.lost)

    run(story)


def test_streams(run: Run, security: Security) -> None:
    apps = StreamApps()

    async def story() -> None:
        async with listening(apps, **security.server) as server:
            address = server.sockets[0].getsockname()
            reader, writer = await open_connection(*address, result=TCP4, pp=V1, **client_keywords(security))
            writer.write(b"question\n")
            assert await reader.readline() == b"answer to question\n"
            assert writer.get_extra_info("peername") == address
            assert apps.app.facts.peername == CLIENT
            writer.close()
            await writer.wait_closed()
            await until(lambda: apps.app.ended)

    run(story)


def test_a_server_that_speaks_first(run: Run, security: Security) -> None:
    apps, client = Apps(begin=lambda app: app.transport.write(b"a greeting\n")), App(read=lambda app: None)

    async def story() -> None:
        async with listening(apps, **security.server) as server:
            address = server.sockets[0].getsockname()
            transport, _ = await create_connection(lambda: client, *address, **client_keywords(security))
            await until(lambda: client.received == b"a greeting\n")
            transport.abort()

    run(story)


def test_a_client_without_a_result_sends_local(run: Run, security: Security) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, **security.server) as server:
            address = server.sockets[0].getsockname()
            transport, _ = await create_connection(App, *address, **client_keywords(security))
            await until(lambda: apps.made and apps.app.transport)
            assert isinstance(apps.app.facts.proxy_protocol, ProxyResultLocal)
            assert apps.app.facts.peername == transport.get_extra_info("sockname")
            transport.abort()

    run(story)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_version_1_without_a_result_names_the_connection_s_own_addresses(run: Run, family: Any) -> None:
    async def story() -> None:
        async with segments(family) as (address, firsts):
            transport, _ = await create_connection(App, *address, pp=V1)
            (host, port), word = (
                transport.get_extra_info("sockname")[:2],
                "TCP4" if family == socket.AF_INET else "TCP6",
            )
            await until(lambda: firsts)
            assert firsts == [f"PROXY {word} {host} {address[0]} {port} {address[1]}\r\n".encode()]
            transport.abort()

    run(story)


def test_the_header_comes_in_one_segment_before_anything_else(run: Run, security: Security) -> None:
    client = App(begin=lambda app: app.transport.write(b"data"))

    async def story() -> None:
        async with segments() as (address, firsts):
            connecting = asyncio.create_task(
                create_connection(lambda: client, *address, result=TCP4, pp=V1, **client_keywords(security))
            )
            await until(lambda: firsts)
        with contextlib.suppress(OSError):  # the TLS handshake gets no answer
            await connecting
        header, rest = firsts[0][: len(HEADER)], firsts[0][len(HEADER) :]
        assert header == HEADER
        assert (b"\x16\x03" if security else b"data").startswith(rest[:2])
        await until(lambda: client.lost or security)

    run(story)


def test_result_may_be_a_function_of_the_transport(run: Run) -> None:
    """A relay does so: it sends the addresses of the connection that it relays."""
    seen: list[Any] = []

    def result(transport: asyncio.Transport) -> Any:
        seen.append(transport.get_extra_info("peername"))
        return build_transport_result(back.app.transport)

    front, back = Apps(), Apps()

    async def story() -> None:
        async with listening(back) as first, listening(front) as second:
            one, _ = await create_connection(App, *first.sockets[0].getsockname(), result=TCP4)
            await until(lambda: back.made and back.app.transport)
            address = second.sockets[0].getsockname()
            two, _ = await create_connection(App, *address, result=result)
            await until(lambda: front.made and front.app.transport)
            assert (front.app.facts.peername, seen) == (CLIENT, [address])
            one.abort()
            two.abort()

    run(story)


def raise_error(transport: Any) -> Any:
    raise ZeroDivisionError("in the function")


def make_nothing() -> Any:
    raise ZeroDivisionError("in the factory")


MISTAKES: dict[str, tuple[Any, dict[str, Any], type[Exception]]] = {
    "a result that version 1 cannot say": (App, {"result": ProxyResultUnix("/a", "/b"), "pp": V1}, KeyError),
    "the function": (App, {"result": raise_error}, ZeroDivisionError),
    "the function's result": (App, {"result": lambda transport: "PROXY"}, TypeError),
    "the factory": (make_nothing, {}, ZeroDivisionError),
    "connection_made": (lambda: App(begin=raise_error), {}, ZeroDivisionError),
}


@pytest.mark.parametrize(("factory", "keywords", "error"), MISTAKES.values(), ids=MISTAKES)
def test_an_error_of_result_or_application_is_raised_to_the_caller_and_aborts(
    run: Run, security: Security, factory: Any, keywords: Any, error: type[Exception]
) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, **security.server) as server:
            host, port = server.sockets[0].getsockname()
            with pytest.raises(error):
                await create_connection(factory, host, port, **keywords, **client_keywords(security))
            await until(lambda: all(app.lost for app in apps.made))

    run(story)


def test_an_untrusted_certificate_is_an_error(run: Run, certificates: Certificates) -> None:
    async def story() -> None:
        async with listening(Apps(), **Security(certificates).server) as server:
            with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
                await create_connection(App, *server.sockets[0].getsockname(), ssl=True)

    run(story)


def test_a_connection_lost_in_the_handshake_is_an_error(run: Run, certificates: Certificates) -> None:
    async def story() -> None:
        async with segments() as (address, _):
            with pytest.raises(OSError):
                await create_connection(App, *address, **client_keywords(Security(certificates)))

    run(story)


def test_a_late_handshake_is_ended(run: Run, certificates: Certificates) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            keywords = {"ssl_handshake_timeout": 0.05, **client_keywords(Security(certificates))}
            with pytest.raises(ConnectionAbortedError):
                await create_connection(App, *silent.getsockname(), **keywords)

    run(story)


def test_connecting_can_be_cancelled_in_the_handshake(run: Run, certificates: Certificates) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            keywords = client_keywords(Security(certificates))
            connecting = asyncio.create_task(create_connection(App, *listener.getsockname(), **keywords))
            sock, _ = await loop.sock_accept(listener)
            with sock:
                sock.setblocking(False)
                assert (await loop.sock_recv(sock, 2**16)).startswith(b"\r\n\r\n\0\r\nQUIT\n")
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting
                with contextlib.suppress(ConnectionError):
                    while await loop.sock_recv(sock, 2**16):
                        pass

    run(story)


def alive() -> list[str]:
    """The protocols of the client's and the server's connections that still exist."""
    gc.collect()
    ours = ("proxyprotocol.asyncio.client", "proxyprotocol.asyncio.factory", "proxyprotocol.asyncio.tls")
    return [type(o).__name__ for o in gc.get_objects() if type(o).__module__ in ours and isinstance(o, BaseProtocol)]


def test_connecting_can_be_cancelled_at_every_turn_of_the_loop(run: Run, security: Security) -> None:
    """Nothing is left of the connection, and the server knows at once. TLS once waited for its handshake here."""
    apps, patience = Apps(), 1.0

    async def give_up(address: Any, after: int) -> bool:
        connecting = asyncio.create_task(create_connection(App, *address, **client_keywords(security)))
        for _ in range(after):
            await asyncio.sleep(0)
        connecting.cancel()
        try:
            transport, _ = await connecting
        except asyncio.CancelledError:
            return False
        transport.abort()
        return True

    async def story() -> None:
        async with listening(apps, **security.server) as server:
            address = server.sockets[0].getsockname()
            after = 0
            while not await give_up(address, after):
                after += 1
            assert after > 3
            await asyncio.wait_for(until(lambda: all(app.lost for app in apps.made)), patience)
            while apps.made:
                apps.made.pop().transport.abort()  # it holds the protocol; CPython 3.10 does not notice the end
            await asyncio.wait_for(until(lambda: not alive()), patience)

    run(story)


def connected_sockets() -> tuple[socket.socket, socket.socket]:
    """A connected, non-blocking socket for the client, and its peer's socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        sock.setblocking(False)
        return sock, listener.accept()[0]


def test_a_greeting_before_tls_fails_the_handshake(run: Run, certificates: Certificates) -> None:
    """The greeting is not lost, whether the client reads it before TLS begins or after."""

    async def story() -> None:
        sock, peer = connected_sockets()
        with peer:
            peer.sendall(b"220 a greeting\r\n")  # it is there before the client has begun to read
            with pytest.raises(OSError, match="SSL"):
                await create_connection(App, sock=sock, **client_keywords(Security(certificates)))

    run(story)


def test_a_connection_lost_before_tls_begins_is_an_error(run: Run, certificates: Certificates) -> None:
    async def story() -> None:
        sock, peer = connected_sockets()
        peer.close()
        with pytest.raises(ConnectionError):
            await create_connection(App, sock=sock, **client_keywords(Security(certificates)))

    run(story)


def test_a_handshake_that_this_side_aborts_is_an_error(run: Run, certificates: Certificates) -> None:
    """asyncio reports no error for a transport that this side has aborted, so we make one."""
    transports: list[asyncio.Transport] = []

    def result(transport: asyncio.Transport) -> None:
        transports.append(transport)

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            keywords = {"result": result, **client_keywords(Security(certificates))}
            connecting = asyncio.create_task(create_connection(App, *silent.getsockname(), **keywords))
            await until(lambda: transports and isinstance(transports[0].get_protocol(), SSLProtocol))
            transports[0].abort()
            with pytest.raises(ConnectionAbortedError, match="lost in its TLS handshake"):
                await connecting

    run(story)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no codec": ({"pp": "v2"}, TypeError, "pp must be a codec"),
    "no result": ({"result": "PROXY"}, TypeError, "result must be a ProxyResult"),
    "no context": ({"ssl": "tls"}, TypeError, "SSLContext"),
    "a name without TLS": ({"server_hostname": "x"}, ValueError, "mean nothing without ssl"),
    "a time without TLS": ({"ssl_handshake_timeout": 1}, ValueError, "mean nothing without ssl"),
}


@pytest.mark.parametrize(("keywords", "kind", "text"), WRONG.values(), ids=WRONG)
def test_wrong_keywords_are_refused(run: Run, keywords: Any, kind: type[Exception], text: str) -> None:
    async def story() -> None:
        with pytest.raises(kind, match=text):
            await create_connection(App, "127.0.0.1", 1, **keywords)

    run(story)


def test_tls_needs_a_name_for_the_server(run: Run) -> None:
    async def story() -> None:
        with socket.socket() as sock, pytest.raises(ValueError, match="server_hostname"):
            await create_connection(App, sock=sock, ssl=True)

    run(story)


def test_the_caller_may_pass_a_connected_socket(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps) as server:
            sock = socket.create_connection(server.sockets[0].getsockname())
            sock.setblocking(False)
            result = ProxyResultIPv4(TCP4.source, TCP4.dest)
            transport, _ = await create_connection(App, sock=sock, result=result, pp=ProxyProtocolV2())
            await until(lambda: apps.made and apps.app.transport)
            assert apps.app.facts.peername == CLIENT
            transport.abort()

    run(story)


def test_a_refused_connection_is_an_error(run: Run) -> None:
    async def story() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            with pytest.raises(OSError):
                await create_connection(App, *closed.getsockname())

    run(story)
