"""A WebSocket server of autobahn sees the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ._applications import LOOPBACK, Application, Way, application, running, tls_endpoint
from ._certificates import Certificates
from ._clients import assert_websocket

WayTo = Callable[[int], Way]

# one worker runs all tests of this file, so that the server is started once
pytestmark = pytest.mark.xdist_group("twisted-autobahn")


@pytest.fixture(scope="module")
def autobahn(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Application]:
    """The server, plain and with TLS."""
    command = application("websocket", f"proxyprotocol:tcp:{LOOPBACK}", tls_endpoint(certificates.server))
    with running(command, tmp_path_factory.mktemp("autobahn"), 2) as autobahn:
        yield autobahn


def test_it_sees_the_client(autobahn: Application, way_to: WayTo) -> None:
    assert_websocket(way_to(autobahn.ports[0]))


def test_it_sees_the_client_in_tls(autobahn: Application, way_to: WayTo, certificates: Certificates) -> None:
    assert_websocket(way_to(autobahn.ports[1]), certificates.client_context())
