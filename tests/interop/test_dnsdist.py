"""A real dnsdist in front of DNS servers on Twisted, asyncio and uvloop: they see the client, and the client gets the
answer.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from twisted.names.dns import IN, TXT, Message

from ._programs import PATIENCE, Program, connect, receive_all, wait_for
from ._proxies import DNSdist
from ._servers import HERE

SERVERS = {
    "twisted": ["dns_server.py"],
    "asyncio": ["asyncio_dns_server.py", "asyncio"],
    "uvloop": ["asyncio_dns_server.py", "uvloop"],
}
AGAIN = 0.5  # seconds until a question is repeated: dnsdist may not have found its server yet


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[contextlib.ExitStack]:
    """Ends with the test, and stops the programs then."""
    with contextlib.ExitStack() as stack:
        yield stack


class NameServer(NamedTuple):
    """The running server."""

    program: Program
    port: int


def serve(kind: str, stack: contextlib.ExitStack, directory: Path, trusted: str = "127.0.0.0/8") -> NameServer:
    script, *arguments = SERVERS[kind]
    program = Program([sys.executable, str(HERE / script), *arguments, trusted], directory)

    def end() -> None:
        survived = program.running()
        log = program.stop()
        assert survived, log
        assert "Traceback" not in log, log

    stack.callback(end)
    return NameServer(program, int(program.line()))


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    """The framework of the server."""
    return str(request.param)


@pytest.fixture
def server(kind: str, programs: contextlib.ExitStack, tmp_path: Path) -> NameServer:
    return serve(kind, programs, tmp_path)


@pytest.fixture
def dnsdist(programs: contextlib.ExitStack, tmp_path: Path) -> DNSdist:
    return DNSdist(programs, tmp_path)


def question(name: str, number: int = 1) -> bytes:
    message: Any = Message(id=number, recDes=1)
    message.addQuery(name.encode(), TXT, IN)
    wire: bytes = message.toStr()
    return wire


def said(wire: bytes) -> list[str]:
    """Return the words of the answer: the client, the address that it asked, the protocol, and the value of the TLV."""
    message: Any = Message()
    message.fromStr(wire)
    (answer,) = message.answers
    return [word.decode() for word in answer.payload.data]


def name_of(client: socket.socket) -> list[str]:
    host, port = client.getsockname()[:2]
    return [host, str(port)]


def datagrams_to(host: str, port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((host, port))
    client.settimeout(AGAIN)
    return client


def ask(client: socket.socket, wire: bytes) -> bytes:
    """Ask over UDP, again and again until there is an answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        client.send(wire)
        try:
            return client.recv(4096)
        except TimeoutError:
            assert time.monotonic() < deadline, "there was no answer"


def ask_stream(client: socket.socket, wire: bytes) -> bytes:
    client.sendall(len(wire).to_bytes(2, "big") + wire)
    return receive_all(client, int.from_bytes(receive_all(client, 2), "big"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("when", ["now", "later"])
def test_the_server_sees_the_client(server: NameServer, dnsdist: DNSdist, host: str, when: str) -> None:
    port = dnsdist.start(f"127.0.0.1:{server.port}", host=host)

    with datagrams_to(host, port) as client:
        answer = said(ask(client, question(f"{when}.example")))
        assert answer == [*name_of(client), host, str(port), "SOCK_DGRAM", "none"]

    with connect((host, port)) as stream:
        answer = said(ask_stream(stream, question(f"{when}.example")))
        assert answer == [*name_of(stream), host, str(port), "SOCK_STREAM", "none"]


def test_the_server_reads_the_tlv_that_dnsdist_adds(server: NameServer, dnsdist: DNSdist) -> None:
    port = dnsdist.start(
        f"127.0.0.1:{server.port}", more='addAction(AllRule(), SetProxyProtocolValuesAction({[0xE5]="shop"}))'
    )

    with datagrams_to("127.0.0.1", port) as client:
        assert said(ask(client, question("now.example")))[-1] == "shop"
    with connect(("127.0.0.1", port)) as stream:
        assert said(ask_stream(stream, question("now.example")))[-1] == "shop"


def test_each_of_many_clients_gets_its_own_answer_whenever_it_comes(server: NameServer, dnsdist: DNSdist) -> None:
    port = dnsdist.start(f"127.0.0.1:{server.port}")

    with contextlib.ExitStack() as stack:
        first, *clients = [stack.enter_context(datagrams_to("127.0.0.1", port)) for _ in range(50)]
        ask(first, question("now.example"))
        # all ask before the server answers the first
        for number, client in enumerate(clients):
            client.send(question(f"later{number}.example", number))
        for number, client in enumerate(clients):
            client.settimeout(PATIENCE)
            answer = client.recv(4096)
            assert int.from_bytes(answer[:2], "big") == number
            assert said(answer)[:2] == name_of(client)


def test_two_dnsdists_in_front_of_one_server_both_get_their_answers(server: NameServer, dnsdist: DNSdist) -> None:
    ports = [dnsdist.start(f"127.0.0.1:{server.port}") for _ in range(2)]

    for when in ("now", "later"):
        for port in ports:
            with datagrams_to("127.0.0.1", port) as client:
                answer = said(ask(client, question(f"{when}.example")))
                assert answer[:4] == [*name_of(client), "127.0.0.1", str(port)]


def test_a_dnsdist_that_is_not_trusted_gets_no_answer(
    kind: str, programs: contextlib.ExitStack, tmp_path: Path, dnsdist: DNSdist
) -> None:
    server = serve(kind, programs, tmp_path, trusted="192.0.2.0/24")
    port = dnsdist.start(f"127.0.0.1:{server.port}")

    with datagrams_to("127.0.0.1", port) as client:
        client.send(question("now.example"))
        with pytest.raises(TimeoutError):
            client.recv(4096)

    # These are the checks of dnsdist: it sends a client's question only to a server that is up.
    wait_for(lambda: "Refused a datagram from 127.0.0.1:" in server.program.errors())
    wait_for(lambda: "The peer is not one of the trusted proxies" in server.program.errors())
