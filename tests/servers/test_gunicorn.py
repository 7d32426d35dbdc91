from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop._certificates import Certificates

from .checks import CHECKS, Server, start

pytestmark = pytest.mark.xdist_group("gunicorn")
MODULE = "proxyprotocol.integrations.gunicorn."
SERIAL = ("SerialWorker", "sync")
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


#: For ``proxyprotocol run``: gunicorn's own words.
RUN = {
    "sync": ["whoami:wsgi"],
    "threads": ["--threads", "5", "whoami:wsgi"],
    "gevent": ["-k", "gevent", "whoami:wsgi"],
    "gevent_pywsgi": ["-k", "gevent_pywsgi", "whoami:wsgi"],
    "tornado": ["-k", "tornado", "whoami:wsgi"],
    "asgi": ["-k", "asgi", "whoami:asgi"],
    "aiohttp": ["-k", "aiohttp.GunicornWebWorker", "whoami:aiohttp"],
    "uvicorn": ["-k", "uvicorn_worker.UvicornWorker", "whoami:asgi"],
}
KINDS = [("own", name, secure) for name in WORKERS for secure in (False, True)]
KINDS += [("run", name, name in ("sync", "gevent")) for name in RUN]


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(map(str, kind)) for kind in KINDS])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Server]:
    way, name, secure = request.param
    own = ["-k", MODULE + name, *WORKERS[name]] if way == "own" else RUN[name]
    tls = ["--certfile", str(certificates.server)] if secure else []
    with start(
        ["gunicorn", "-b", "127.0.0.1:{port}", *tls, *own],
        tmp_path_factory.mktemp("gunicorn"),
        context=certificates.client_context() if secure else None,
        environment=TRUSTED if way == "own" else None,
        run=None if way == "own" else [],
        ports=name.lower()[:7] != "tornado",  # tornado gives WSGI applications no port
        requests=1 if name in SERIAL else 2,
    ) as server:
        yield server


@pytest.mark.parametrize("check", CHECKS, ids=CHECKS)
def test_the_application_sees_the_client(server: Server, check: str) -> None:
    serial = server.requests == 1
    if not (serial and check == "silent"):  # that worker serves one connection at a time
        CHECKS[check](server)
