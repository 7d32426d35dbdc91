"""`proxyprotocol run` with servers that listen through asyncio or uvloop: each by its own command."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop._certificates import Certificates
from tests.interop._programs import wait_for
from tests.servers.checks import CLIENT, CLIENT_RESULT, V2, Server, every_check, start

pytestmark = pytest.mark.xdist_group("run-asyncio")

FASTAPI = """
import fastapi
import whoami

app = fastapi.FastAPI()
app.mount("/", whoami.asgi)
"""
SANIC = """
import sanic

app = sanic.Sanic("whoami")

@app.get("/")
async def answer(request):
    return sanic.text(f"{request.client_ip} {request.port} -")
"""
AIOHTTP = """
from aiohttp import web

async def answer(request):
    host, port = request.transport.get_extra_info("peername")[:2]
    assert request.remote == host
    return web.Response(text=f"{host} {port} {request.transport.get_extra_info('proxy_protocol')}")

def make(arguments):
    app = web.Application()
    app.router.add_get("/", answer)
    return app
"""
STREAMS = """
import asyncio
import sys

async def answer(reader, writer):
    while await reader.readuntil(b"\\r\\n\\r\\n"):
        host, port = writer.get_extra_info("peername")[:2]
        body = f"{host} {port} -"
        writer.write(f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode())

def serve(reader, writer):
    task = asyncio.ensure_future(answer(reader, writer))
    task.add_done_callback(lambda task: (task.exception(), writer.close()))

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

class Loop(asyncio.SelectorEventLoop):
    pass

if sys.argv[2] == "run":
    asyncio.run(main())
elif sys.argv[2] == "derived":
    Loop().run_until_complete(main())
else:
    import uvloop
    uvloop.run(main())
"""
# Seconds. sanic's manager, without us too, spins for ever if it is ended before it has seen that its worker is ready.
# It looks ten times a second.
REST_OF_SANIC = 0.5
PROGRAMS = {"api.py": FASTAPI, "fast.py": SANIC, "web.py": AIOHTTP, "streams.py": STREAMS}

# each with whether the application gets the header too
COMMANDS = {
    "uvicorn": (["uvicorn", "--port", "{port}", "whoami:asgi"], True),
    "uvicorn-asyncio-h11": (["uvicorn", "--port", "{port}", "--loop=asyncio", "--http=h11", "whoami:asgi"], True),
    "uvicorn-workers": (["uvicorn", "--port", "{port}", "--workers", "2", "whoami:asgi"], True),
    "uvicorn-reload": (["uvicorn", "--port", "{port}", "--reload", "whoami:asgi"], True),
    "fastapi-run": (["fastapi", "run", "--host", "127.0.0.1", "--port", "{port}", "api.py"], True),
    "hypercorn": (["hypercorn", "--bind", "127.0.0.1:{port}", "whoami:asgi"], True),
    "hypercorn-uvloop": (["hypercorn", "-k", "uvloop", "--bind", "127.0.0.1:{port}", "whoami:asgi"], True),
    "sanic": (["sanic", "fast:app", "--host", "127.0.0.1", "--port", "{port}"], False),
    "aiohttp": (["python", "-m", "aiohttp.web", "-H", "127.0.0.1", "-P", "{port}", "web:make"], True),
    "asyncio-run": (["python", "streams.py", "{port}", "run"], False),
    "derived-loop": (["python", "streams.py", "{port}", "derived"], False),
    "uvloop-run": (["python", "streams.py", "{port}", "uvloop"], False),
}
TLS = {
    "uvicorn": (["--ssl-certfile", "{pem}", "--ssl-keyfile", "{pem}"], True),
    "uvicorn-asyncio-h11": (["--ssl-certfile", "{pem}", "--ssl-keyfile", "{pem}"], True),
    "hypercorn": (["--certfile", "{pem}", "--keyfile", "{pem}"], True),
    "sanic": (["--cert", "{pem}", "--key", "{pem}"], False),
}


def prepare(directory: Path) -> Path:
    for name, source in PROGRAMS.items():
        (directory / name).write_text(source)
    return directory


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command, extension = COMMANDS[request.param]
    with start(command, prepare(tmp_path_factory.mktemp("run")), run=[], extension=extension) as server:
        yield server
        time.sleep(REST_OF_SANIC if request.param == "sanic" else 0)


@every_check
def test_the_application_sees_the_client(server: Server, check: Callable[[Server], None]) -> None:
    check(server)


@pytest.fixture(scope="module", params=TLS)
def tls_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Server]:
    command, extension = COMMANDS[request.param]
    words = [*command, *(word.replace("{pem}", str(certificates.server)) for word in TLS[request.param][0])]
    context = certificates.client_context()
    with start(words, prepare(tmp_path_factory.mktemp("run")), run=[], context=context, extension=extension) as server:
        yield server
        time.sleep(REST_OF_SANIC if request.param == "sanic" else 0)


@every_check
def test_so_does_a_server_with_tls(tls_server: Server, check: Callable[[Server], None]) -> None:
    check(tls_server)


def test_a_reloaded_application_sees_the_client_too(tmp_path: Path) -> None:
    command = ["uvicorn", "--port", "{port}", "--reload", "whoami:asgi"]
    with start(command, tmp_path, run=[]) as server:
        whoami = tmp_path / "whoami.py"
        changed = whoami.read_text().replace('f"{host} {port} ', 'f"again {host} {port} ')

        def reloading() -> bool:
            whoami.write_text(changed)  # again and again: uvicorn may not watch yet
            return "Reloading..." in server.program.errors()

        def reloaded() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException), server.connect(V2) as connection:
                return server.ask(connection) == f"again {CLIENT.host} {CLIENT.port} {CLIENT_RESULT}"
            return False

        wait_for(reloading)
        wait_for(reloaded)


@pytest.mark.parametrize("command", ["uvicorn", "aiohttp"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_as_it_ends_the_server_alone(tmp_path: Path, command: str, number: signal.Signals) -> None:
    statuses = []
    ways: list[list[str] | None] = [None, []]
    for run in ways:
        with start(COMMANDS[command][0], prepare(tmp_path), run=run) as server:
            os.kill(server.program.pid, number)
            wait_for(lambda server=server: not server.program.running())  # type: ignore[misc]
            statuses.append(server.program.status())
    assert statuses[0] == statuses[1]
