"""``twistd portforward``: it reads nothing until it is connected itself, and passes every byte on all the same."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from ._applications import LOOPBACK, Way, running, twistd
from ._programs import PATIENCE, Address, receive_all

WayTo = Callable[[int], Way]

# More than any buffer on the way holds, and different bytes for each direction.
QUESTION, ANSWER = (random.Random(seed).randbytes(3 << 20) for seed in (1, 2))
FIRST = 1000  # bytes of the question that come with the header

# one worker runs all tests of this file, so that each forwarder is started once
pytestmark = pytest.mark.xdist_group("twisted-portforward")


class Forwarding(NamedTuple):
    """Two forwarders to one server.

    Attributes:
        server: The listening socket of the server.
        port: The port of the forwarder that reads headers.
        bare_port: The port of the forwarder that reads none.
    """

    server: socket.socket
    port: int
    bare_port: int

    @contextlib.contextmanager
    def connect(self, way: Way, data: bytes = b"") -> Iterator[tuple[socket.socket, socket.socket]]:
        """Connect, and yield the client's and the server's end."""
        client, _ = way.connect(data)
        with client, self.server.accept()[0] as server:
            server.settimeout(PATIENCE)
            yield client, server


@pytest.fixture(scope="module")
def forwarding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forwarding]:
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:
        server.settimeout(PATIENCE)
        destination = ["--host", "127.0.0.1", "--dest_port", str(server.getsockname()[1])]
        ports = []
        for endpoint in (f"proxyprotocol:tcp:{LOOPBACK}", f"tcp:{LOOPBACK}"):
            command = twistd("portforward", "--port", endpoint, *destination)
            ports += stack.enter_context(running(command, tmp_path_factory.mktemp("forward"))).ports
        yield Forwarding(server, *ports)


def test_every_byte_arrives_both_ways(forwarding: Forwarding, way_to: WayTo) -> None:
    with (
        forwarding.connect(way_to(forwarding.port), QUESTION[:FIRST]) as (client, server),
        ThreadPoolExecutor() as pool,
    ):
        asked, answered = pool.submit(client.sendall, QUESTION[FIRST:]), pool.submit(server.sendall, ANSWER)
        received = pool.submit(receive_all, server, len(QUESTION))

        assert receive_all(client, len(ANSWER)) == ANSWER
        assert received.result() == QUESTION
        asked.result()
        answered.result()


def ended_by_the_client(forwarding: Forwarding, way: Way) -> tuple[bytes, bytes]:
    """Close the client's direction first, and return what the server and the client receive."""
    with forwarding.connect(way, b"question") as (client, server):
        client.shutdown(socket.SHUT_WR)
        received = receive_all(server, 100)
        with contextlib.suppress(OSError):
            server.sendall(b"answer")
        server.close()
        return received, receive_all(client, 100)


def ended_by_the_server(forwarding: Forwarding, way: Way) -> tuple[bytes, bytes]:
    """Close the server's direction first, and return what the server and the client receive."""
    with forwarding.connect(way, b"question") as (client, server):
        received = receive_all(server, len(b"question"))
        server.sendall(b"answer")
        server.shutdown(socket.SHUT_WR)
        answer = receive_all(client, 100)
        client.close()
        return received + receive_all(server, 100), answer


# portforward does not support half-close: when one end closes its direction, it closes both.
@pytest.mark.parametrize(
    ("end", "seen"),
    [(ended_by_the_client, (b"question", b"")), (ended_by_the_server, (b"question", b"answer"))],
    ids=["by the client", "by the server"],
)
def test_an_end_arrives_as_it_does_without_a_header(
    forwarding: Forwarding,
    way_to: WayTo,
    end: Callable[[Forwarding, Way], tuple[bytes, bytes]],
    seen: tuple[bytes, bytes],
) -> None:
    bare = Way(Address("127.0.0.1", forwarding.bare_port))

    assert end(forwarding, bare) == seen
    assert end(forwarding, way_to(forwarding.port)) == seen
