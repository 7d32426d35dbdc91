"""The log of every kind of listener: what it reads and from whom, second headers, and ten thousand refusals."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tornado.tcpserver import TCPServer

from proxyprotocol import HeaderPolicy, ProxyProtocolV2, Receiver
from proxyprotocol.asyncio import (
    create_datagram_endpoint,
    create_server,
    create_unix_server,
    new_event_loop,
    new_uvloop_event_loop,
    start_server,
    start_unix_server,
    wrap_protocol_factory,
)
from proxyprotocol.integrations.anyio import ProxyProtocolListener
from proxyprotocol.integrations.tornado import add_sockets
from proxyprotocol.result import describe_address
from tests.on_asyncio.loops import HEADER, App, Apps, Log, Run, StreamApps, connected, listening, place, turns, until
from tests.on_asyncio.streams import Transport

EVERYBODY = (
    "from everybody: anyone who can connect can claim any address; name your proxies with trusted=..., or say "
    'trusted="any"'
)

our_loops = pytest.mark.parametrize("new_loop", [new_event_loop, new_uvloop_event_loop], ids=["asyncio", "uvloop"])


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


STARTS: dict[str, Callable[..., Any]] = {
    "create_server": lambda path, **keywords: create_server(App, "127.0.0.1", 0, **keywords),
    "start_server": lambda path, **keywords: start_server(nothing, "127.0.0.1", 0, **keywords),
    "create_unix_server": lambda path, **keywords: create_unix_server(App, str(path), **keywords),
    "start_unix_server": lambda path, **keywords: start_unix_server(nothing, str(path), **keywords),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_server_says_what_it_reads_and_from_whom(run: Run, log: Log, short_path: Path, start: Any) -> None:
    async def story() -> None:
        for keywords, line in (
            ({"trusted": ["10.0.0.0/8", "unix"]}, ("INFO", "from 10.0.0.0/8, unix")),
            ({"trusted": "any"}, ("INFO", "from everybody, as trusted says")),
            ({}, ("WARNING", EVERYBODY)),
        ):
            path = short_path / str(len(keywords) + len(line[1]))
            server = await start(path, **keywords)
            level, rest = line
            assert log.starts == [(level, f"Reads version 1 and 2 headers on {place(server)} {rest}")]
            server.close()
            await server.wait_closed()
            log.records.clear()

    run(story)


def test_a_server_names_all_its_sockets(run: Run, log: Log, ipv6: None) -> None:
    async def story() -> None:
        server = await create_server(App, ["127.0.0.1", "::1"], 0, trusted="any")
        ports = [sock.getsockname()[1] for sock in sorted(server.sockets, key=lambda sock: -sock.family)]
        assert sorted(place(server).split(" and ")) == [f"127.0.0.1:{ports[-1]}", f"[::1]:{ports[-2]}"]
        text = f"Reads version 1 and 2 headers on {place(server)} from everybody, as trusted says"
        assert log.starts == [("INFO", text)]
        server.close()

    run(story)


def test_a_server_speaks_when_it_starts_to_serve_and_only_then(run: Run, log: Log) -> None:
    async def story() -> None:
        server = await create_server(App, "127.0.0.1", 0, start_serving=False, trusted="any")
        assert log.starts == []
        for _ in range(2):
            await server.start_serving()
            assert len(log.starts) == 1
        server.close()

    run(story)


def test_a_server_whose_port_is_taken_says_nothing(run: Run, log: Log) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
            await create_server(App, *other.getsockname())
        assert log.starts == []

    run(story)


def test_the_first_connection_of_a_server_finds_its_name(run: Run, log: Log) -> None:
    """It waits in the queue of a socket that is listening already, as after a restart of a service."""

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock, socket.create_connection(sock.getsockname()) as client:
            client.sendall(b"?")
            where = describe_address(sock.getsockname())
            server = await create_server(App, sock=sock)
            await until(lambda: log.lines)
            assert f" on {where}: " in log.lines[0][1]
            server.close()

    run(story)


def test_a_factory_used_by_hand_speaks_when_it_is_made(run: Run, log: Log) -> None:
    async def story() -> None:
        factory: Any = wrap_protocol_factory(Apps())
        assert log.starts == [("WARNING", f"Reads version 1 and 2 headers {EVERYBODY}")]
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        async with connected(server) as peer:
            await peer.send(b"?")
            await peer.hear_all()
            client = describe_address(peer.sock.getsockname())
            assert log.lines[0][1].startswith(f"Refused a connection from {client} on {place(server)}: There is no ")
        assert log.starts[1:] == [("INFO", f"Reads version 1 and 2 headers on {place(server)} {EVERYBODY}")]
        server.close()
        await server.wait_closed()
        factory.close()

    run(story)


def test_a_factory_used_by_hand_names_each_address_for_its_counters_and_lines(run: Run, log: Log) -> None:
    counters = Counters()
    factory: Any = wrap_protocol_factory(Apps(), metrics=counters, trusted="any")

    async def story() -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(factory, "127.0.0.1", 0) for _ in range(2)]
        for server in [*servers, *servers]:
            async with connected(server) as peer:
                await peer.send(b"?")
                await peer.hear_all()
        places = [place(server) for server in servers]
        for server in servers:
            server.close()
        everybody = "from everybody, as trusted says"
        named = [("INFO", f"Reads version 1 and 2 headers on {one} {everybody}") for one in places]
        assert log.starts == [("INFO", f"Reads version 1 and 2 headers {everybody}"), *named]
        assert counters.listeners == [*places, *places]
        assert [line.split(" on ")[1].split(": ")[0] for _, line in log.lines] == [*places, *places]

    run(story)
    factory.close()


def test_the_end_of_a_factory_tells_what_has_no_line_yet(run: Run, log: Log) -> None:
    async def story() -> None:
        factory: Any = wrap_protocol_factory(Apps())
        for _ in range(12):
            protocol = factory()
            protocol.connection_made(Transport(("192.0.2.9", 40000), ("192.0.2.1", 80)))
            protocol.data_received(b"?")
        assert len(log.lines) == 10
        factory.close()
        assert log.lines[10:] == [
            ("WARNING", "Refused 2 more connections within a second on 192.0.2.1:80: 2 no_header")
        ]

    run(story)


def test_a_datagram_socket_says_what_it_reads_and_from_whom(run: Run, log: Log) -> None:
    async def story() -> None:
        for trusted, rest in (({"trusted": "10.0.0.1"}, "from 10.0.0.1"), ({}, EVERYBODY)):
            keywords: Any = trusted
            transport, _ = await create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0), **keywords)
            where = describe_address(transport.get_extra_info("sockname"))
            assert [line for _, line in log.starts] == [f"Reads version 2 headers on {where} {rest}"]
            transport.close()
            log.records.clear()

    run(story)


def test_anyio_s_listener_says_what_it_reads_and_from_whom(run: Run, log: Log) -> None:
    async def story() -> None:
        listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
        (sock,) = [one.extra(anyio.abc.SocketAttribute.raw_socket) for one in listener.listeners]
        where = describe_address(sock.getsockname())
        handled: list[Any] = []
        async with listener:
            serving = asyncio.create_task(
                ProxyProtocolListener(listener, policy=HeaderPolicy.REQUIRE).serve(handled.append)
            )
            await until(lambda: log.starts)
            assert log.starts == [("WARNING", f"Reads version 1 and 2 headers on {where} {EVERYBODY}")]
            async with connected(sock.getsockname()) as peer:
                await peer.send(b"?")
                await peer.hear_all()
                client = describe_address(peer.sock.getsockname())
            assert log.lines[0][1].startswith(f"Refused a connection from {client} on {where}: There is no ")
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        assert handled == []

    run(story)


def test_tornado_s_sockets_say_what_they_read_and_from_whom(run: Run, log: Log) -> None:
    async def story() -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for sock in sockets:
            sock.setblocking(False)
        stop = add_sockets(TCPServer(), sockets, trusted=["192.0.2.0/24"])
        where = " and ".join(describe_address(sock.getsockname()) for sock in sockets)
        assert log.starts == [("INFO", f"Reads version 1 and 2 headers on {where} from 192.0.2.0/24")]
        async with connected(sockets[0].getsockname()) as peer:
            await peer.hear_all()
            who = f"{describe_address(peer.sock.getsockname())} on {where}"
        reason = "The peer is not one of the trusted proxies; if it is your proxy, add it to trusted"
        assert log.lines == [("WARNING", f"Refused a connection from {who}: {reason}")]
        stop()

    run(story)


@our_loops
def test_our_loops_say_it_of_each_listener(new_loop: Any, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYPROTOCOL_TRUSTED", "any")

    async def story() -> None:
        loop = asyncio.get_running_loop()
        server: Any = await loop.create_server(App, "127.0.0.1", 0)
        where = [place(server)]
        server.close()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            where.append(describe_address(sock.getsockname()))
            for _ in range(2):  # it speaks once
                accepting = asyncio.create_task(loop.sock_accept(sock))
                async with connected(sock.getsockname()) as peer:
                    await peer.send(HEADER)
                    (await accepting)[0].close()
        everybody = "from everybody, as PROXYPROTOCOL_TRUSTED says"
        assert log.starts == [("INFO", f"Reads version 1 and 2 headers on {one} {everybody}") for one in where]
        log.records.clear()
        for _ in range(2):
            ours, theirs = socket.socketpair()
            theirs.sendall(HEADER)
            transport, _ = await loop.connect_accepted_socket(App, ours)
            transport.abort()
            theirs.close()
        assert log.starts == [("INFO", f"Reads version 1 and 2 headers {everybody}")]

    Run(new_loop)(story)


@our_loops
def test_connections_that_were_accepted_elsewhere_name_their_listener(new_loop: Any, log: Log) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            where = describe_address(sock.getsockname())
            for data in (HEADER, b"?"):
                with socket.create_connection(sock.getsockname()) as client:
                    client.sendall(data)
                    with contextlib.suppress(ConnectionAbortedError):
                        connecting = asyncio.get_running_loop().connect_accepted_socket(App, sock.accept()[0])
                        (await connecting)[0].abort()
        assert log.starts == [("INFO", f"Reads version 1 and 2 headers on {where} from everybody, as trusted says")]
        assert f" on {where}: " in log.lines[0][1]

    Run(lambda: new_loop(trusted="any"))(story)


@our_loops
def test_refusals_of_sock_accept_name_its_listener(new_loop: Any, log: Log) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            accepting = asyncio.create_task(asyncio.get_running_loop().sock_accept(sock))
            async with connected(sock.getsockname()) as peer:
                await peer.send(b"GET /")
                await peer.hear_all()
                who = f"{describe_address(peer.sock.getsockname())} on {describe_address(sock.getsockname())}"
            accepting.cancel()
            await turns()
        reason = "There is no PROXY protocol header: the data begins with b'GET /' (at byte 0)"
        send = "make it send the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on)"
        remedy = f"if 127.0.0.1 is your proxy, {send}; see PROXYPROTOCOL_POLICY"
        assert log.lines == [("WARNING", f"Refused a connection from {who}: {reason}; {remedy}")]

    Run(new_loop)(story)


async def refuse_twelve(address: Any) -> None:
    for _ in range(12):
        async with connected(address) as peer:
            with contextlib.suppress(ConnectionError):
                await peer.send(b"?")
            await peer.hear_all()


def summary(where: str, reason: str) -> tuple[str, str]:
    return "WARNING", f"Refused 2 more connections within a second on {where}: 2 {reason}"


def test_the_end_of_tornado_s_listeners_tells_what_has_no_line_yet(run: Run, log: Log) -> None:
    async def story() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        where, stop = describe_address(sock.getsockname()), add_sockets(TCPServer(), [sock], trusted="192.0.2.1")
        await refuse_twelve(sock.getsockname())
        assert len(log.lines) == 10
        stop()
        assert log.lines[10:] == [summary(where, "untrusted")]

    run(story)


def test_the_end_of_anyio_s_listener_tells_what_has_no_line_yet(run: Run, log: Log) -> None:
    async def story() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            sock = listener.listeners[0].extra(anyio.abc.SocketAttribute.raw_socket)
            where = describe_address(sock.getsockname())
            serving = asyncio.create_task(ProxyProtocolListener(listener, trusted="any").serve(print))
            await until(lambda: log.starts)
            await refuse_twelve(sock.getsockname())
            await until(lambda: len(log.lines) == 10)
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        assert log.lines[10:] == [summary(where, "no_header")]

    run(story)


@our_loops
def test_the_end_of_our_loop_tells_what_has_no_line_yet(new_loop: Any, log: Log) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    where = describe_address(sock.getsockname())

    async def story() -> None:
        accepting = asyncio.create_task(asyncio.get_running_loop().sock_accept(sock))
        await refuse_twelve(sock.getsockname())
        await until(lambda: len(log.lines) == 10)
        accepting.cancel()

    with sock:
        Run(lambda: new_loop(trusted="any"))(story)
    assert log.lines[10:] == [summary(where, "no_header")]


@our_loops
def test_sock_accept_warns_of_a_second_header(new_loop: Any, log: Log) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)

    async def story() -> None:
        accepting = asyncio.create_task(asyncio.get_running_loop().sock_accept(sock))
        with socket.create_connection(sock.getsockname()) as peer:
            peer.sendall(HEADER + HEADER)
            connection, _ = await accepting
            connection.close()

    with sock:
        Run(lambda: new_loop(trusted="any"))(story)
    [(level, text)] = log.lines
    assert level == "WARNING"
    assert text.startswith("A second PROXY protocol header follows the first from 127.0.0.1:")


def test_a_second_header_is_warned_of(run: Run, log: Log) -> None:
    async def story() -> None:
        async with listening(Apps(read=lambda app: None)) as server, connected(server) as peer:
            await peer.send(HEADER + HEADER + b"data\n")
            await until(lambda: log.lines)
            who = f"{describe_address(peer.sock.getsockname())} on {place(server)}"
        text = (
            f"A second PROXY protocol header follows the first from {who}, and the application gets it as data: "
            "probably two proxies in a chain send one each; let only one of them do it"
        )
        assert log.lines == [("WARNING", text)]

    run(story)


def test_refusals_carry_fields(run: Run, log: Log) -> None:
    async def story() -> None:
        async with listening(Apps()) as server, connected(server) as peer:
            await peer.send(b"?")
            await peer.hear_all()
            host, port = peer.sock.getsockname()
            where = place(server)
        (record,) = [record for record in log.records if hasattr(record, "reason")]
        expected = {"reason": "no_header", "network_peer_address": host, "network_peer_port": port, "listener": where}
        assert expected.items() <= vars(record).items()

    run(story)


def test_ten_thousand_refused_connections_cost_a_few_lines(run: Run, log: Log) -> None:
    """Each is a real connection. Ten of a second have their line, the rest share one."""
    most = 10_000

    async def story() -> None:
        server: Any = await StreamApps().listen()
        address, where = server.sockets[0].getsockname(), place(server)
        for _ in range(most // 100):
            clients = [socket.create_connection(address) for _ in range(100)]
            for client in clients:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                client.setblocking(False)
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
                client.close()
        server.close()
        await server.wait_closed()
        summary = rf"Refused ([\d,]+) more connections within a second on {where}: \1 no_header"
        found = [re.fullmatch(summary, line) for _, line in log.lines]
        hidden = [int(match[1].replace(",", "")) for match in found if match]
        assert sum(hidden) + len(log.lines) - len(hidden) == most
        assert len(log.lines) <= 11 * len(hidden)
        assert sum(len(line) for _, line in log.lines) <= 3000 * len(hidden)  # bytes

    loop = run.new_loop()  # not in debug mode, which makes it ten times slower
    try:
        loop.run_until_complete(asyncio.wait_for(story(), 20))
    finally:
        loop.close()


class Counters:
    """Counts as a ProxyProtocolMetrics does."""

    def __init__(self) -> None:
        self.listeners: list[str] = []

    def connected(self, listener: str) -> Any:
        self.listeners.append(listener)
        return self

    def handshake_failed(self, listener: str) -> None:
        pass

    def accepted(self, version: str | None) -> None:
        pass

    refused = accepted


def test_counters_get_the_name_of_the_listener(run: Run) -> None:
    counters = Counters()

    async def story() -> None:
        receiver = Receiver(ProxyProtocolV2(), metrics=counters, trusted="any")
        async with listening(Apps(), receiver=receiver) as server, connected(server) as peer:
            await peer.send(b"?")
            await peer.hear_all()
            assert counters.listeners == [place(server)]
        transport, _ = await create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0), receiver=receiver)
        here = transport.get_extra_info("sockname")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"?", here)
            await until(lambda: len(counters.listeners) == 2)
        assert counters.listeners[1] == describe_address(here)
        transport.close()

    run(story)


@our_loops
def test_a_watched_listening_socket_is_told_with_the_option_as_it_was_spelled(new_loop: Any, log: Log) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            asyncio.get_running_loop().add_reader(sock, lambda: None)
            asyncio.get_running_loop().remove_reader(sock)
        assert log.lines[0][1].endswith(" or name the ports of all other listeners in ports")

    Run(lambda: new_loop(trusted="any"))(story)
