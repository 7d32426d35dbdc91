from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop._certificates import Certificates

from .checks import CHECKS, Server, start

pytestmark = pytest.mark.xdist_group("gunicorn")
MODULE = "proxyprotocol.integrations.gunicorn."
TRUSTED = {"PROXYPROTOCOL_TRUSTED": "127.0.0.1"}
#: The worker classes, and for each further words, and an application.
WORKERS = {
    "SerialWorker": ["whoami:wsgi"],
    "ThreadWorker": ["--threads", "5", "whoami:wsgi"],
    "GeventWorker": ["whoami:wsgi"],
    "GeventPyWSGIWorker": ["whoami:wsgi"],
    "TornadoWorker": ["whoami:wsgi"],
    "ASGIWorker": ["whoami:asgi"],
    "AiohttpWorker": ["whoami:aiohttp"],
    "UvicornWorker": ["whoami:asgi"],
}


def command(worker: str, *words: str) -> list[str]:
    return ["gunicorn", "-k", worker, "-b", "127.0.0.1:{port}", *words]


@pytest.fixture(scope="module", params=[(name, secure) for name in WORKERS for secure in (False, True)], ids=str)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Server]:
    name, secure = request.param
    tls = ["--certfile", str(certificates.server)] if secure else []
    with start(
        command(MODULE + name, *tls, *WORKERS[name]),
        tmp_path_factory.mktemp("gunicorn"),
        context=certificates.client_context() if secure else None,
        environment=TRUSTED,
        ports=name != "TornadoWorker",  # tornado gives WSGI applications no port
        requests=1 if name == "SerialWorker" else 2,
    ) as server:
        yield server


@pytest.mark.parametrize("check", CHECKS, ids=CHECKS)
def test_the_application_sees_the_client(server: Server, check: str, request: pytest.FixtureRequest) -> None:
    serial = server.requests == 1
    if not (serial and check == "silent"):  # that worker serves one connection at a time
        CHECKS[check](server)
