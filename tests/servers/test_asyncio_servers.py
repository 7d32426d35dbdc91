"""Servers on asyncio, uvloop and trio: each by its own means, as docs/servers-asyncio.rst describes them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.interop._certificates import Certificates

from .checks import ALONE, PROXY, ROOT, Server, every_check, start

EXAMPLES = ROOT / "examples" / "servers"


class Way(NamedTuple):
    """How to start a server.

    Attributes:
        command: Its command.
        tls: The further words for TLS; the first of them are options, which get the file as their value.
        variables: Whether the environment says who is trusted; otherwise the program does.
        environment: Further variables.
        ports: Whether the application knows its client's port.
    """

    command: list[str]
    tls: list[str] | None = None
    variables: bool = False
    environment: dict[str, str] = {}  # noqa: RUF012
    ports: bool = True


def example(name: str, *arguments: str) -> list[str]:
    return [sys.executable, f"{name}.py", *arguments, "{port}"]


UVICORN = ["uvicorn", "--port", "{port}", "fastapi_app:app"]
UVICORN_TLS = ["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{certificate}"]
LOOP, HTTP = "proxyprotocol.asyncio:new_event_loop", "proxyprotocol.integrations.uvicorn:auto"
JUPYTER = [
    *("jupyter-server", "--config", "jupyter_server_config.py", "--port", "{port}", "--no-browser"),
    *(
        "--ServerApp.jpserver_extensions",
        "tests.servers.jupyter_whoami=True",
        "--allow-root",
    ),
]
CERTIFICATE = ["{certificate}"]
DAPHNE = "proxyprotocol:{kind}:{{port}}:interface=127.0.0.1{tls}:ppTrusted=127.0.0.1"

WAYS: dict[str, Way] = {
    "uvicorn": Way([*UVICORN, "--loop", LOOP, "--http", HTTP], UVICORN_TLS, variables=True),
    "uvicorn-variables": Way(UVICORN, variables=True, environment={"UVICORN_LOOP": LOOP, "UVICORN_HTTP": HTTP}),
    "hypercorn": Way(example("hypercorn_server"), CERTIFICATE),
    "sanic": Way(example("sanic_server"), CERTIFICATE),
    "aiohttp": Way(example("aiohttp_server"), CERTIFICATE),
    "tornado": Way(example("tornado_server"), CERTIFICATE, ports=False),
    "trio": Way(example("trio_server"), CERTIFICATE),
    "anyio-asyncio": Way(example("anyio_server", "asyncio")),
    "anyio-trio": Way(example("anyio_server", "trio"), CERTIFICATE),
    "daphne": Way(
        ["daphne", "--application-close-timeout", "1", "-e", DAPHNE.format(kind="tcp", tls=""), "daphne_app:app"],
    ),
    "jupyter": Way(JUPYTER, ["--certfile", "{certificate}"], variables=True, environment=ALONE, ports=False),
}
KINDS = [
    pytest.param((way, tls), id=f"{name}-tls" if tls else name, marks=pytest.mark.xdist_group(f"servers-{name}"))
    for name, way in WAYS.items()
    for tls in ([False] if way.tls is None else [False, True])
]


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Server]:
    """Each server, started once."""
    way, tls = request.param
    words = [word.replace("{certificate}", str(certificates.server)) for word in way.tls or ()]
    directory = shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("server"), dirs_exist_ok=True)
    with start(
        [*way.command, *(words if tls else ())],
        directory,
        context=certificates.client_context() if tls else None,
        environment={**way.environment, **({"PROXYPROTOCOL_TRUSTED": PROXY} if way.variables else {})},
        ports=way.ports,
    ) as server:
        yield server


@every_check
def test_the_application_sees_the_client(server: Server, check: Callable[[Server], None]) -> None:
    check(server)
