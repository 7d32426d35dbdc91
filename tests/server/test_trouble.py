"""Failures between accept and the destination, and look-ups in block lists and name servers."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol.dnsbl import Dnsbl
from proxyprotocol.server._relay.places import Places
from proxyprotocol.server.address import Address
from proxyprotocol.sock import SocketInfo
from tests.interop._programs import wait_for
from tests.server.relays import PATIENCE, Relaying, lines, reset
from tests.server.test_header import closed


class ListsAll(Dnsbl):
    """A block list that lists every client, and records the questions."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def lookup(self, sock_info: SocketInfo, *, loop: Any = None) -> str | None:
        self.asked.append(sock_info.peername)
        return "bad.example"


class NeverAnswers(Dnsbl):
    """A block list that does not answer."""

    async def lookup(self, sock_info: SocketInfo, *, loop: Any = None) -> str | None:
        await asyncio.Event().wait()
        return None


class Fails(Dnsbl):
    """A block list with a bug."""

    async def lookup(self, sock_info: SocketInfo, *, loop: Any = None) -> str | None:
        raise ZeroDivisionError("a mistake")


def test_a_failing_block_list_lists_no_client(relaying: Relaying, caplog: pytest.LogCaptureFixture) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, dnsbl=Fails())
    relaying.keep(running.connect())
    result = backend.accept().result

    assert result is not None
    assert result.tlv.ext.dnsbl is None
    assert lines(caplog)[0].startswith("The block list failed: 127.0.0.1:")
    assert "counts as not listed: ZeroDivisionError('a mistake')" in lines(caplog)[0]


@pytest.mark.parametrize("options", ["", "?tlv=none", "?tlv=unique-id"])
def test_a_block_list_is_asked_about_the_client_and_the_destination_told(relaying: Relaying, options: str) -> None:
    backend, dnsbl = relaying.backend(), ListsAll()
    running = relaying.relay(backend.address + options, dnsbl=dnsbl)
    client = relaying.keep(running.connect())
    result = backend.accept().result

    assert result is not None
    assert result.tlv.ext.dnsbl == "bad.example"
    assert dnsbl.asked == [client.getsockname()]


def test_a_block_list_is_asked_about_the_client_of_the_header(relaying: Relaying) -> None:
    backend, dnsbl = relaying.backend(), ListsAll()
    running = relaying.relay(backend.address, "127.0.0.1:0?accept=v1", dnsbl=dnsbl)
    relaying.keep(running.connect_and_send(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"))
    result = backend.accept().result

    assert result is not None
    assert result.tlv.ext.dnsbl == "bad.example"
    assert dnsbl.asked == [("192.0.2.1", 1000)]


def test_close_does_not_wait_for_a_block_list(relaying: Relaying, caplog: pytest.LogCaptureFixture) -> None:
    running = relaying.relay(relaying.backend().address, dnsbl=NeverAnswers())
    client = relaying.keep(running.connect())
    wait_for(lambda: running.open == 1)
    running.call(running.relay.close)
    assert closed(client)
    assert lines(caplog)[-1].endswith("the relay ends")
    wait_for(lambda: not running.call(lambda: len(asyncio.all_tasks()) > 1))


def test_close_ends_a_connection_that_waits_for_its_header(relaying: Relaying) -> None:
    running = relaying.relay(relaying.backend().address, "127.0.0.1:0?accept=detect")
    client = relaying.keep(running.connect())
    wait_for(lambda: running.open == 1)
    running.call(running.relay.close)
    assert closed(client)


def test_a_reset_in_the_header_counts_as_an_incomplete_header(
    relaying: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    running = relaying.relay(relaying.backend().address, "127.0.0.1:0?accept=detect")
    client = running.connect_and_send(b"PROXY TCP4")
    wait_for(lambda: running.open == 1 and running.call(lambda: first(running)._received._parser.received) > 0)
    reset(client)
    running.wait_until_empty()
    assert "incomplete" in lines(caplog)[-1]


def first(running: Any) -> Any:
    """The one connection."""
    (connection,) = running.relay.connections
    return connection


def test_a_client_that_resets_before_it_is_connected_is_not_relayed(
    relaying: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address)

    def knock() -> None:
        reset(running.connect())

    running.call(knock)
    running.wait_until_empty()
    assert lines(caplog) == []  # like a health check


@pytest.mark.parametrize(
    ("path", "reason"),
    [("{}/nobody", "No such file or directory"), ("/" + "x" * 200, "AF_UNIX path too long")],
)
def test_a_missing_unix_destination_closes_the_client(
    relaying: Relaying, short_path: Path, caplog: pytest.LogCaptureFixture, path: str, reason: str
) -> None:
    running = relaying.relay("unix:" + path.format(short_path))
    assert closed(relaying.keep(running.connect()))
    assert lines(caplog)[-1].endswith(reason)


def test_a_unix_destination_that_stays_full_or_disappears_closes_the_client(
    relaying: Relaying, short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = short_path / "full"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as filler:
        listener.bind(str(path))
        listener.listen(0)
        filler.connect(str(path))
        full = relaying.relay(f"unix:{path}", connect_timeout=0.3)
        assert closed(relaying.keep(full.connect()))
        assert lines(caplog)[-1].endswith("it did not answer within 0.3 seconds")
        patient = relaying.relay(f"unix:{path}")
        client = relaying.keep(patient.connect())
        wait_for(lambda: patient.call(lambda: patient.open == 1 and first(patient)._task is not None))
        path.unlink()
        assert closed(client)
    assert lines(caplog)[-1].endswith("No such file or directory")


class Listener(socket.socket):
    """A listening socket with an accept() that fails once."""

    refusal: OSError | None = None

    def accept(self) -> Any:
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        return super().accept()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPERM])
def test_accept_is_tried_again_a_second_after_it_failed(
    relaying: Relaying, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """The system may be short of file descriptors, or a firewall may forbid the connection."""
    backend = relaying.backend()
    running = relaying.relay(backend.address)
    with Listener() as listener:
        listener.refusal = OSError(number, os.strerror(number))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        running.call(lambda: running.relay.listen(running.service, [listener]))
        client = relaying.keep(running.connect(to=listener.getsockname()))
        wait_for(lambda: running.relay._acceptor.paused)
        backend.accept().sock.sendall(b"served")
        assert client.recv(10) == b"served"
        running.call(running.relay.stop_listening)
    assert [line for line in lines(caplog) if "accepted" in line] == [
        f"No more connections are accepted for now: {os.strerror(number)}"
    ]


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH])
def test_a_connection_lost_before_accept_does_not_stop_the_others(
    relaying: Relaying, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    running = relaying.relay(relaying.backend().address)
    with Listener() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        running.call(lambda: running.relay.listen(running.service, [listener]))
        listener.refusal = OSError(number, os.strerror(number))
        relaying.keep(running.connect(to=listener.getsockname()))
        wait_for(lambda: running.open == 1)
        running.call(running.relay.stop_listening)
    assert lines(caplog)[0].startswith("Opened")


def test_a_client_in_the_queue_when_the_relay_stops_listening_is_served(relaying: Relaying) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address)

    def connect_and_stop() -> socket.socket:
        client = running.connect()
        running.relay.stop_listening()
        return client

    client = relaying.keep(running.call(connect_and_stop))
    client.sendall(b"in time")
    accepted = backend.accept()
    assert accepted.first or accepted.sock.recv(10) == b"in time"


def test_the_whole_queue_is_served_when_the_relay_stops_listening(relaying: Relaying) -> None:
    backend = relaying.backend()
    backend.sock.listen(200)
    running = relaying.relay(backend.address + "?pp=noop")

    def connect_and_stop() -> list[socket.socket]:
        clients = [running.connect() for _ in range(150)]
        running.relay.stop_listening()
        return clients

    clients = running.call(connect_and_stop)
    for sock in running.sockets:
        sock.close()
    for client in clients:
        relaying.keep(client).sendall(b"in time")
    assert [backend.accept(header=False).sock.recv(10) for _ in clients] == [b"in time"] * 150


def test_waiting_connections_share_one_look_up_and_an_old_answer_is_looked_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Any] = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))], OSError("no answer")]
    asked = []

    async def story() -> None:
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host: str, *more: Any, **named: Any) -> Any:
            asked.append(host)
            await asyncio.sleep(0)
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        places = Places(Address("name:80"))
        assert places.fresh_until < loop.time()
        found = [(socket.AF_INET, ("192.0.2.1", 80))]
        assert list(await asyncio.gather(places.find(1), places.find(1))) == [found, found]
        assert places.found == found
        assert loop.time() < places.fresh_until < loop.time() + 11
        assert await places.find(1) == found  # without another look-up
        assert asked == ["name"]
        places.fresh_until = 0.0
        # while no name server answers, the old answer counts
        assert await places.find(1) == found

    asyncio.run(asyncio.wait_for(story(), PATIENCE))
    assert asked == ["name", "name"]


def test_a_name_server_that_does_not_answer_fails_after_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host: str, *more: Any, **named: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        with pytest.raises(OSError, match="no name server answered within"):
            await Places(Address("name:80")).find(0.05)

    asyncio.run(asyncio.wait_for(story(), PATIENCE))
