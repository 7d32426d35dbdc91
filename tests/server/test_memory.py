"""What it costs the relay that a reader stalls: measured at the process, whatever holds the bytes there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop._certificates import SERVER_NAME, Certificates
from tests.server.programs import Server, Starter
from tests.server.relays import PATIENCE, Relaying, fill, in_thread
from tests.server.tls import destination, source

MOST = 256 << 10  # bytes
CONNECTIONS = 8  # of which the mean is taken: a process does not grow by just what it keeps


def connect(start: Starter, server: Server, certificates: Certificates | None) -> tuple[Any, Any]:
    """Return a client's end and a server's, with TLS on both or on neither; others may connect too."""
    client = server.connect()
    if certificates is None:
        return client, start.backend.accept_exactly().sock
    accepted: list[Any] = []

    def accept() -> None:
        sock = start.backend.accept_exactly().sock
        accepted.append(certificates.server_context().wrap_socket(sock, server_side=True))

    thread = in_thread(accept)
    secured = certificates.client_context().wrap_socket(client, server_hostname=SERVER_NAME)
    thread.join(PATIENCE)
    return secured, accepted[0]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("stalled", ["server", "client"])
def test_a_stalled_reader_costs_little_memory(
    start: Starter, relaying: Relaying, certificates: Certificates, tls: bool, stalled: str
) -> None:
    given = certificates if tls else None
    addresses = {"source": source(certificates), "destination": destination(start.backend, certificates)}
    server = start(**addresses) if tls else start()

    def stall() -> None:
        ends = [relaying.keep(end) for end in connect(start, server, given)]
        assert fill(ends[stalled == "client"]) > MOST

    stall()  # what the first costs once, the others do not
    before = server.memory
    threads = [in_thread(stall) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.join(3 * PATIENCE)
    assert server.memory - before < CONNECTIONS * MOST
