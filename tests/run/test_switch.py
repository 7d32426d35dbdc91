"""What `proxyprotocol run` does in the interpreters of a server and its children."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.run.test_launcher import ROOT, launch, python

LOOP = "import asyncio; print(type(asyncio.new_event_loop()).__mro__[1].__name__)"


@pytest.mark.parametrize(
    "program",
    [
        LOOP,
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LOOP!r}])",
        f"import os, sys; os.execl(sys.executable, sys.executable, '-c', {LOOP!r})",
        f"import os, sys; os.execve(sys.executable, [sys.executable, '-c', {LOOP!r}], {{'PYTHONPATH': {ROOT!r}}})",
        f"import os, sys; os.spawnl(os.P_WAIT, sys.executable, sys.executable, '-c', {LOOP!r})",
        "",
        "import asyncio, uvloop; print(type(uvloop.new_event_loop()).__mro__[1].__name__)",
    ],
    ids=["itself", "subprocess", "exec", "exec-with-environment", "spawn", "multiprocessing", "uvloop"],
)
def test_loops_read_headers_in_each_process(program: str, tmp_path: Path) -> None:
    if not program:  # it needs a file
        (tmp_path / "spawn.py").write_text(
            "import multiprocessing\n"
            f"def work():\n    {LOOP}\n"
            "if __name__ == '__main__':\n"
            "    process = multiprocessing.get_context('spawn').Process(target=work)\n"
            "    process.start()\n    process.join()\n"
        )
        done = launch(sys.executable, "spawn.py", directory=tmp_path)
    else:
        done = python(program)
    assert done.stdout == "_HeaderLoop\n", done.stderr


def test_the_users_own_sitecustomize_runs_too(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; 'PROXYPROTOCOL_RUN' in os.environ and print('own')")
    done = python(f"import sitecustomize; print(sitecustomize.__file__); {LOOP}", pythonpath=f"{tmp_path}:{ROOT}")
    assert done.stdout == f"own\n{tmp_path}/sitecustomize.py\n_HeaderLoop\n"


def test_a_launcher_with_a_sitecustomize_of_its_own_does_not_switch_us_off(tmp_path: Path) -> None:
    # as OpenTelemetry's does: it runs no other sitecustomize
    (tmp_path / "sitecustomize.py").write_text("print('theirs')")
    program = f"""if True:
        import os, sys
        os.environ["PYTHONPATH"] = {str(tmp_path)!r} + os.pathsep + os.environ["PYTHONPATH"]
        os.execlp(sys.executable, sys.executable, "-c", {LOOP!r})
    """
    assert python(program).stdout == "theirs\n_HeaderLoop\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sys.executable, '-sE', 'x.py'", "starts Python with the option -E, which hides our integrations"),
        ("'env', 'gunicorn'", "env is not a Python program"),
    ],
)
def test_a_server_cannot_become_a_program_that_we_cannot_reach(words: str, said: str) -> None:
    done = python(f"import os, sys; words = [{words}]; os.execvp(words[0], words)")
    assert done.returncode == 3
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_its_children_may_become_any_tool() -> None:
    assert python("import os; os.spawnlp(os.P_WAIT, 'echo', 'echo', 'from a child')").stdout == "from a child\n"


def test_without_our_variables_nothing_starts() -> None:
    done = python("import os, subprocess, sys; del os.environ['PROXYPROTOCOL_RUN']; subprocess.run([sys.executable])")
    assert "proxyprotocol run: cannot begin (RuntimeError: PYTHONPATH names our folder, but the" in done.stderr


def test_each_integration_is_named_once_in_all_processes() -> None:
    done = python("import asyncio, subprocess, sys; subprocess.run([sys.executable, '-c', 'import asyncio, uvloop'])")
    assert done.stderr.count("proxyprotocol: Switched on for asyncio\n") == 1
    assert done.stderr.count("proxyprotocol: Switched on for uvloop ") == 1


@pytest.fixture
def fake_uvicorn(tmp_path: Path) -> Path:
    """A uvicorn of version 99, whose Config can be loaded."""
    (tmp_path / "uvicorn").mkdir()
    (tmp_path / "uvicorn" / "__init__.py").write_text("")
    (tmp_path / "uvicorn" / "config.py").write_text("class Config:\n    def load(self): pass\n")
    (tmp_path / "uvicorn-99.0.dist-info").mkdir()
    (tmp_path / "uvicorn-99.0.dist-info" / "METADATA").write_text("Name: uvicorn\nVersion: 99.0\n")
    return tmp_path


def test_a_newer_version_is_warned_of(fake_uvicorn: Path) -> None:
    done = python("import uvicorn.config; print('goes on')", pythonpath=f"{fake_uvicorn}:{ROOT}")
    assert done.stdout == "goes on\n"
    assert "proxyprotocol: uvicorn 99.0 was not tested: " in done.stderr


def test_a_version_without_what_we_hook_into_stops_the_start(fake_uvicorn: Path) -> None:
    (fake_uvicorn / "uvicorn" / "config.py").write_text("")
    done = python("import uvicorn.config; print('goes on')", pythonpath=f"{fake_uvicorn}:{ROOT}")
    assert (done.returncode, done.stdout) == (3, "")
    assert "proxyprotocol run: uvicorn 99.0 lacks what the integration needs (AttributeError: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "program",
    [
        "import grpc; grpc.server(None)",
        "import grpc.aio; grpc.aio.server()",
        "from granian import Granian; Granian('x:y')",
    ],
)
def test_a_server_that_accepts_outside_python_stops_the_start(program: str) -> None:
    done = python(program)
    assert done.returncode == 3
    assert "accepts its connections outside Python" in done.stderr
    assert "proxyprotocol-server with ?transparent=yes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_client_of_such_a_library_may_go_on() -> None:
    assert python("import grpc; print(grpc.insecure_channel('127.0.0.1:1') is not None)").stdout == "True\n"


def test_logging_that_disables_other_loggers_keeps_ours(tmp_path: Path) -> None:
    program = """if True:
        import logging, logging.config, proxyprotocol.asyncio.loop
        logging.config.dictConfig({"version": 1})
        assert logging.getLogger("proxyprotocol").handlers
        logging.getLogger("proxyprotocol.asyncio").info("visible")
        logging.basicConfig(format="theirs: %(message)s")
        logging.getLogger("proxyprotocol.asyncio").info("theirs alone")
    """
    done = python(program)
    assert "proxyprotocol: visible\n" in done.stderr
    assert done.stderr.endswith("theirs: theirs alone\n")
    assert done.stderr.count("theirs alone") == 1
