"""`proxyprotocol run` with servers that listen through asyncio or uvloop: each by its own command."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.servers.checks import Server, every_check, start

pytestmark = pytest.mark.xdist_group("run-asyncio")

COMMANDS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "whoami:asgi"],
    "uvicorn-asyncio": ["uvicorn", "--port", "{port}", "--loop", "asyncio", "whoami:asgi"],
    "uvicorn-workers": ["uvicorn", "--port", "{port}", "--workers", "2", "whoami:asgi"],
    "uvicorn-reload": ["uvicorn", "--port", "{port}", "--reload", "whoami:asgi"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", "whoami:asgi"],
}


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(COMMANDS[request.param], tmp_path_factory.mktemp("run"), run=[], extension=False) as server:
        yield server


@every_check
def test_the_application_sees_the_client(server: Server, check: Callable[[Server], None]) -> None:
    check(server)
