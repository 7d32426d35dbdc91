from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interop._certificates import Certificates

from .checks import Server, every_check, start

pytestmark = pytest.mark.xdist_group("uvicorn")
OURS = ["--loop", "proxyprotocol.asyncio:new_event_loop", "--http", "proxyprotocol.integrations.uvicorn:auto"]


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Server]:
    tls = ["--ssl-certfile", str(certificates.server), "--ssl-keyfile", str(certificates.server)]
    secure = request.param == "tls"
    with start(
        ["uvicorn", *OURS, *(tls if secure else []), "--port", "{port}", "whoami:asgi"],
        tmp_path_factory.mktemp("uvicorn"),
        context=certificates.client_context() if secure else None,
        environment={"PROXYPROTOCOL_TRUSTED": "127.0.0.1"},
    ) as server:
        yield server


@every_check
def test_the_application_sees_the_client(server: Server, check: Callable[[Server], None]) -> None:
    check(server)
