"""Servers of threads and greenlets, by their own API as in ``examples/servers``, and by what switches them on."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.interop._certificates import Certificates

from .checks import Server, check_silent, every_check, start

pytestmark = pytest.mark.xdist_group("sync-servers-of-others")

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "servers"
TLS = ["{cert}", "{cert}"]
FLASK_APP = """
import whoami
from flask import Flask

app = Flask("app")
app.wsgi_app = whoami.wsgi
"""
GEVENT = """
import sys
import whoami
from gevent.pywsgi import WSGIServer

WSGIServer(("127.0.0.1", int(sys.argv[1])), whoami.wsgi).serve_forever()
"""
CHERRYPY = """
import sys
import cherrypy
import whoami

cherrypy.config.update({"server.socket_port": int(sys.argv[1]), "engine.autoreload.on": False})
cherrypy.tree.graft(whoami.wsgi, "/")
cherrypy.engine.start()
cherrypy.engine.block()
"""
EVENTLET = """
import sys
import eventlet
eventlet.monkey_patch()
import whoami
from eventlet import wsgi

wsgi.server(eventlet.listen(("127.0.0.1", int(sys.argv[1]))), whoami.wsgi)
"""
DJANGO = """
import sys
from django.conf import settings
from django.core.management import execute_from_command_line
from whoami import wsgi

settings.configure(SECRET_KEY="-", ROOT_URLCONF="site_urls", WSGI_APPLICATION="whoami.wsgi", ALLOWED_HOSTS=["*"])
execute_from_command_line(sys.argv)
"""


class Case(NamedTuple):
    """How a server is started, and what it does differently from most."""

    command: list[str]
    tls: bool = False
    several: bool = True  # serves several connections at a time
    run: bool = True
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed


def example(name: str, *arguments: str) -> list[str]:
    return [sys.executable, f"{name}.py", "{port}", *arguments]


FLASK = ["flask", "--app", "flask_app", "run", "--port", "{port}"]
CASES = {
    "eventlet": Case(example("eventlet_server"), run=False),
    "eventlet-tls": Case(example("eventlet_server", "{cert}"), tls=True, run=False),
    "eventlet-run": Case([sys.executable, "eventlet_plain.py", "{port}"]),
    "cheroot": Case(example("cheroot_server"), run=False),
    "cheroot-tls": Case(example("cheroot_server", "{cert}", "{cert}"), tls=True, run=False),
    "cheroot-run": Case([sys.executable, "-m", "cheroot", "--bind", "127.0.0.1:{port}", "app:app"]),
    "cherrypy-run": Case([sys.executable, "cherrypy_plain.py", "{port}"]),
    "gevent": Case(example("gevent_server"), run=False),
    "gevent-tls": Case(example("gevent_server", "{cert}"), tls=True, run=False),
    "gevent-run": Case([sys.executable, "gevent_plain.py", "{port}"]),
    "waitress": Case(example("waitress_server"), run=False),
    "waitress-run": Case(["waitress-serve", "--listen", "127.0.0.1:{port}", "app:app"]),
    "wsgiref": Case(example("wsgiref_server"), several=False, run=False, options={"ports": False, "keep_alive": False}),
    "werkzeug": Case(example("werkzeug_server"), run=False, options={"keep_alive": False}),
    "flask": Case(FLASK, options={"keep_alive": False}),
    "flask-reload": Case([*FLASK, "--reload"], options={"keep_alive": False}),
    "flask-tls": Case(
        [*FLASK, "--cert", "{cert}", "--key", "{cert}"],
        tls=True,
        options={"keep_alive": False},
    ),
    "django": Case(
        [sys.executable, "manage.py", "runserver", "{port}"],
        options={"ports": False},
    ),
}


@pytest.fixture(scope="module", params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    case: Case = request.param
    return case


@pytest.fixture(scope="module")
def server(case: Case, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, directory)
    (directory / "app.py").write_text("from whoami import wsgi as app\n")
    (directory / "gevent_plain.py").write_text(GEVENT)
    (directory / "cherrypy_plain.py").write_text(CHERRYPY)
    (directory / "eventlet_plain.py").write_text(EVENTLET)
    (directory / "flask_app.py").write_text(FLASK_APP)
    (directory / "manage.py").write_text(DJANGO)
    (directory / "site_urls.py").write_text("urlpatterns = []\n")
    command = [word.replace("{cert}", str(certificates.server)) for word in case.command]
    with start(
        command,
        directory,
        context=certificates.client_context() if case.tls else None,
        run=[] if case.run else None,
        **case.options,
    ) as server:
        yield server


@every_check
def test_the_application_sees_the_client(case: Case, server: Server, check: Callable[[Server], None]) -> None:
    if check is not check_silent or case.several:
        check(server)
