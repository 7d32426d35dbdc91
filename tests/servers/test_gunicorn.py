from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded

from proxyprotocol.integrations.gunicorn import switch_on
from tests.interop._certificates import Certificates
from tests.interop._programs import PATIENCE, Program, connect, reserved_port, wait_for

from .checks import CHECKS, CLIENT, CLIENT_RESULT, V1, V2, Server, start

pytestmark = pytest.mark.xdist_group("gunicorn")
GUNICORN = str(Path(sys.executable).parent / "gunicorn")
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


def command(worker: str, *words: str) -> list[str]:
    return ["gunicorn", "-k", worker, "-b", "127.0.0.1:{port}", *words]


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
        keep_alive=name not in SERIAL,
    ) as server:
        yield server


@pytest.mark.parametrize("check", CHECKS, ids=CHECKS)
def test_the_application_sees_the_client(server: Server, check: str) -> None:
    serial = not server.keep_alive
    if not (serial and check == "silent"):  # that worker serves one connection at a time
        CHECKS[check](server)


def test_the_log_says_once_what_is_read_and_from_whom(server: Server) -> None:
    CHECKS["v2"](server)
    text = f"Reads version 1 and 2 headers on 127.0.0.1:{server.address.port} from 127.0.0.1\n"
    assert server.program.errors().count("Reads ") == server.program.errors().count(text) == 1


@pytest.mark.parametrize("worker", ["ThreadWorker", "GeventWorker", "ASGIWorker"])
def test_every_bind_reads_headers_also_after_a_restart(worker: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    words = ["-w", "2", "--preload", "-b", f"unix:{path}", "--max-requests", "4", "--graceful-timeout", "2"]
    environment = {"PROXYPROTOCOL_TRUSTED": "127.0.0.1,unix"}
    line = command(MODULE + worker, *words, *WORKERS[worker])
    with start(line, tmp_path, environment=environment, keep_alive=False) as server:

        def ask_all() -> None:
            for _ in range(6):  # workers end after four requests, and others take their place
                CHECKS["v2"](server)
                with connect(path) as connection:
                    connection.sendall(V1)
                    server.assert_client(server.ask(connection), CLIENT, str(CLIENT_RESULT))

        def started() -> int:
            return server.program.errors().count(f"Reads version 1 and 2 headers on UNIX socket '{path}' from")

        ask_all()
        wait_for(lambda: started() > 2)
        before = started()
        os.kill(server.program.pid, signal.SIGHUP)
        wait_for(lambda: started() >= before + 2)
        ask_all()
        CHECKS["untrusted"](server)
        assert " [INFO] Reads version" in server.program.errors()  # gunicorn's own log has our lines


def test_the_application_is_reloaded(tmp_path: Path) -> None:
    with start(
        command(MODULE + "SerialWorker", "--reload", "whoami:wsgi"), tmp_path, environment=TRUSTED, keep_alive=False
    ) as server:
        CHECKS["v2"](server)
        lines = server.program.errors().count("Reads version 1 and 2 headers")
        begin = time.monotonic()

        def reloaded() -> bool:
            # again and again: a change before gunicorn's reloader has looked for the first time is none to it
            if time.monotonic() - begin > len(changes):
                with (tmp_path / "whoami.py").open("a") as application:
                    changes.append(application.write("\n"))
            return server.program.errors().count("Reads version 1 and 2 headers") > lines

        changes: list[int] = []
        wait_for(reloaded)
        CHECKS["v2"](server)
        CHECKS["untrusted"](server)


@pytest.mark.parametrize("worker", ["SerialWorker", "ThreadWorker", "GeventWorker", "UvicornWorker"])
def test_a_port_that_is_not_named_is_served_without_headers(worker: str, tmp_path: Path) -> None:
    environment = {"PROXYPROTOCOL_TRUSTED": "unix", "PROXYPROTOCOL_PORTS": "unix"}
    path = str(tmp_path / "socket")
    line = command(MODULE + worker, "-b", f"unix:{path}", *WORKERS[worker])
    with start(line, tmp_path, environment=environment) as server:
        with socket.create_connection(server.address, PATIENCE) as connection:
            assert server.ask(connection).startswith("127.0.0.1 ")
        with connect(path) as connection:
            connection.sendall(V2)
            server.assert_client(server.ask(connection), CLIENT, str(CLIENT_RESULT))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-k", MODULE + "ThreadWorker", "--proxy-protocol"], "Remove --proxy-protocol"),
        (["-k", MODULE + "ThreadWorker", "--proxy-protocol", "v2"], "Remove --proxy-protocol"),
        (["-k", MODULE + "SyncWorker"], "has no SyncWorker, but SerialWorker, "),
        (["-k", MODULE + "ThreadWorker", "-c", "old.py"], "This gunicorn is too old to read PROXY protocol headers"),
    ],
)
def test_gunicorn_does_not_start(words: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("import gunicorn.sock\ndel gunicorn.sock.ssl_wrap_socket\n")
    with reserved_port() as port:
        program = Program([GUNICORN, "-w", "2", "-b", f"127.0.0.1:{port}", *words, "--", "whoami:wsgi"], tmp_path)
        wait_for(lambda: not program.running())
        log = program.stop()
    assert log.count(sentence) == 1
    assert "Traceback" not in log


def test_run_refuses_a_worker_class_that_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("from gunicorn.workers.base import Worker\nclass Odd(Worker):\n    pass\n")
    line = [sys.executable, "-m", "proxyprotocol", "run", "--trusted", "any", "--", GUNICORN, "-k", "odd.Odd", "a:b"]
    program = Program(line, tmp_path)
    wait_for(lambda: not program.running())
    log = program.stop()
    assert "The worker class odd.Odd cannot read PROXY protocol headers: use one of SerialWorker" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("worker", ["SerialWorker", "ThreadWorker", "GeventWorker", "GeventPyWSGIWorker"])
def test_a_peer_that_is_silent_in_its_tls_handshake_is_dropped(
    worker: str, certificates: Certificates, tmp_path: Path
) -> None:
    line = command(MODULE + worker, "--certfile", str(certificates.server), *WORKERS[worker])
    environment = {**TRUSTED, "PROXYPROTOCOL_TLS_TIMEOUT": "0.1"}
    with start(line, tmp_path, environment=environment) as server:
        with connect(server.address) as connection:
            connection.sendall(V2 + b"\x16")
            assert connection.recv(1) == b""
        text = "Refused a connection from 203.0.113.7:5678, relayed by 127.0.0.1:"
        wait_for(lambda: text in server.program.errors())
        assert "the TLS handshake failed: " in server.program.errors()


FRAMEWORKS = """
import django.conf, django.core.wsgi, django.http, django.urls, flask

def text(environ):
    keys = ("REMOTE_ADDR", "REMOTE_PORT", "proxy_protocol")
    return " ".join([*(str(environ.get(key)) for key in keys), environ["wsgi.url_scheme"]])

flask_app = flask.Flask("app")
flask_app.add_url_rule("/", view_func=lambda: text(flask.request.environ))
view = django.urls.path("", lambda request: django.http.HttpResponse(text(request.META)))
django.conf.settings.configure(ROOT_URLCONF=(view,), ALLOWED_HOSTS=["*"], SECRET_KEY="x")
django_app = django.core.wsgi.get_wsgi_application()
"""


@pytest.mark.parametrize(
    ("application", "client", "allowed", "scheme"),
    [
        ("flask_app", "203.0.113.7", [], "http"),  # the client's own word
        ("flask_app", "127.0.0.1", [], "https"),  # gunicorn's default
        ("django_app", "127.0.0.1", ["--forwarded-allow-ips="], "http"),
        ("django_app", "203.0.113.7", ["--forwarded-allow-ips=*"], "https"),
    ],
)
def test_frameworks_know_the_client_and_gunicorn_compares_it_with_whom_it_trusts(
    application: str, client: str, allowed: list[str], scheme: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(FRAMEWORKS)
    line = command(MODULE + "ThreadWorker", *allowed, "--access-logfile", "-", f"app:{application}")
    with start(line, tmp_path, environment=TRUSTED) as server:
        with connect(server.address) as connection:
            connection.sendall(f"PROXY TCP4 {client} 198.51.100.9 5678 443\r\n".encode())
            connection.sendall(b"GET / HTTP/1.1\r\nHost: app\r\nX-Forwarded-Proto: https\r\n\r\n")
            assert server.answer(connection) == f"{client} 5678 {client}:5678 -> 198.51.100.9:443 {scheme}"
        assert server.program.line().startswith(f"{client} - - [")


def test_the_time_for_the_header_does_not_count_against_gunicorns_time_out(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, whoami\ndef app(*a):\n    time.sleep(1.4)\n    return whoami.wsgi(*a)\n"
    )
    line = command(MODULE + "SerialWorker", "--timeout", "2", "slow:app")
    with start(line, tmp_path, environment=TRUSTED) as server, connect(server.address) as connection:
        time.sleep(1.4)
        connection.sendall(V1)
        server.assert_client(server.ask(connection), CLIENT, str(CLIENT_RESULT))


def test_our_lines_go_where_gunicorns_go(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(
        "logconfig_dict = {'loggers': {'gunicorn.error': {'propagate': True, 'handlers': []}},"
        " 'root': {'level': 'INFO', 'handlers': ['console']},"
        " 'handlers': {'console': {'class': 'logging.StreamHandler', 'formatter': 'own'}},"
        " 'formatters': {'own': {'format': 'OWN %(message)s'}}}"
    )
    line = command(MODULE + "ThreadWorker", "-c", "conf.py", "whoami:wsgi")
    with start(line, tmp_path, environment=TRUSTED) as server:
        CHECKS["untrusted"](server)
        assert "OWN Reads version 1 and 2 headers on 127.0.0.1:" in server.program.errors()
        assert "OWN Refused a connection from 127.0.0.2:" in server.program.errors()


def test_switching_on_twice_is_switching_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from gunicorn import config

    monkeypatch.setattr(config.Config, "worker_class", config.Config.worker_class)
    monkeypatch.setattr(config.ControlSocketDisable, "default", False)
    switch_on()
    setting = config.Config.worker_class
    switch_on()
    assert config.Config.worker_class is setting
    chosen = config.Config()
    assert chosen.worker_class.__module__ == "proxyprotocol.integrations.gunicorn"
    chosen.set("worker_class", chosen.worker_class)
    assert chosen.worker_class is chosen.worker_class  # our own class stays as it is


@pytest.mark.parametrize("worker", ["ThreadWorker", "GeventWorker", "ASGIWorker"])
def test_every_request_of_an_http2_connection_has_the_client(
    worker: str, certificates: Certificates, tmp_path: Path
) -> None:
    context = certificates.client_context()
    context.set_alpn_protocols(["h2"])
    words = ["--certfile", str(certificates.server), "--http-protocols", "h2,h1", *WORKERS[worker]]
    line = command(MODULE + worker, *words)
    with (
        start(line, tmp_path, environment=TRUSTED, context=context) as server,
        server.connect(V2, bytewise=True) as connection,
    ):
        http = H2Connection()
        http.initiate_connection()
        for stream in (1, 3):
            request = {":method": "GET", ":path": "/", ":scheme": "https", ":authority": "app"}
            http.send_headers(stream, list(request.items()), end_stream=True)
            connection.sendall(http.data_to_send())
            answer, ended = b"", False
            while not ended:
                data = connection.recv(9999)
                assert data, server.program.errors()
                for event in http.receive_data(data):
                    answer += event.data if isinstance(event, DataReceived) else b""
                    ended = ended or isinstance(event, StreamEnded)
                connection.sendall(http.data_to_send())
            server.assert_client(answer.decode(), CLIENT, str(CLIENT_RESULT))
