"""`proxyprotocol run`: what it starts, what it refuses to start, and what passes through it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import proxyprotocol
from proxyprotocol.run.programs import CommandError, check_program
from tests.cli.commands import run
from tests.interop._programs import PATIENCE

ROOT = str(Path(proxyprotocol.__file__).parent.parent)


def launch(
    *command: str, options: tuple[str, ...] = (), directory: Path | None = None, pythonpath: str = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    words = [sys.executable, "-m", "proxyprotocol", "run", "--trusted", "any", *options, "--", *command]
    environment = {**os.environ, "PYTHONPATH": pythonpath}
    return subprocess.run(
        words, input="in", capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=directory
    )


def python(program: str, pythonpath: str = ROOT) -> subprocess.CompletedProcess[str]:
    return launch(sys.executable, "-c", program, pythonpath=pythonpath)


def test_the_exit_status_and_the_standard_streams_are_the_commands_own() -> None:
    done = python("import sys; print(sys.stdin.read(), sys.argv[0]); print('err', file=sys.stderr); sys.exit(7)")
    assert (done.returncode, done.stdout) == (7, "in -c\n")
    assert done.stderr.endswith("err\n")


def test_the_command_keeps_the_process_so_signals_reach_it() -> None:
    done = python("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert done.returncode == -signal.SIGTERM


def test_its_options_are_variables_of_the_child() -> None:
    program = "import os; print({n: v for n, v in os.environ.items() if n.startswith('PROXYPROTOCOL_')})"
    done = launch(
        *(sys.executable, "-c", program),
        options=("--version", "v2", "--ports", "80,unix", "--tls-timeout", "3", "--uncovered", "allow"),
    )
    variables = eval(done.stdout)
    assert variables.pop("PROXYPROTOCOL_RUN").split(",")[0] == "on"
    assert variables == {
        "PROXYPROTOCOL_PORTS": "80,unix",
        "PROXYPROTOCOL_TLS_TIMEOUT": "3",
        "PROXYPROTOCOL_TRUSTED": "any",
        "PROXYPROTOCOL_UNCOVERED": "allow",
        "PROXYPROTOCOL_VERSION": "v2",
    }


def test_options_of_the_command_are_not_taken_for_those_of_run() -> None:
    done = launch(sys.executable, "-c", "import sys; print(sys.argv)", "--version", "v9", "--", "x")
    assert done.stdout == "['-c', '--version', 'v9', '--', 'x']\n"


@pytest.fixture(autouse=True)
def no_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a mistake in these tests from replacing their process."""
    monkeypatch.delattr(os, "execve")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--", "python"), "the following arguments are required: --trusted (see proxyprotocol run --help)"),
        (("--trusted", "any"), "the following arguments are required: COMMAND (see proxyprotocol run --help)"),
        (("--trusted", "10.0.0.0/99", "--", "python"), "--trusted takes networks, addresses and unix, "),
        (("--trusted", "any", "--version", "v3", "--", "python"), "--version takes detect, v1 or v2, not 'v3'"),
        (("--trusted", "any", "--timeout", "0", "--", "python"), "--timeout takes a number of seconds above 0, not"),
        (("--trusted", "any", "--ports", "http", "--", "python"), "--ports takes port numbers and unix, "),
        (("--trusted", "any", "--uncovered", "no", "--", "python"), "--uncovered takes refuse or allow, not 'no'"),
        (("--trusted", "any", "--metrics", "x", "--", "python"), "--metrics takes PORT, HOST:PORT or [IPV6]:PORT"),
        (("--trusted", "any", "gunicorn", "--bind", ":80"), "unknown option --bind"),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    ran = run("run", *arguments)
    assert (ran.status, ran.output) == (2, b"")
    assert ran.errors.startswith(f"proxyprotocol: {said}")
    assert ran.errors.count("\n") == 1


def test_a_wrong_variable_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("UNCOVERED", "no"), ("TLS_TIMEOUT", "x"), ("METRICS", "x")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(f"PROXYPROTOCOL_{name}", value)
            ran = run("run", "--trusted", "any", "--", "python")
        assert ran.errors.startswith(f"proxyprotocol: PROXYPROTOCOL_{name} takes ")
    monkeypatch.setenv("PROXYPROTOCOL_TIMOUT", "3")
    ran = run("run", "--trusted", "any", "--", "python")
    assert ran.status == 2
    assert "unknown environment variable PROXYPROTOCOL_TIMOUT; did you mean PROXYPROTOCOL_TIMEOUT?" in ran.errors


def test_no_such_program_and_no_permission_have_the_statuses_of_a_shell(tmp_path: Path) -> None:
    ran = run("run", "--trusted", "any", "--", "no-such-program")
    assert (ran.status, ran.errors) == (127, "proxyprotocol: There is no program no-such-program\n")
    script = tmp_path / "server.py"
    script.write_text("")
    ran = run("run", "--trusted", "any", "--", str(script))
    assert ran.status == 126
    assert f"{script} is not executable; if it is a Python program, run: python {script}" in ran.errors


TRAMPOLINES = {
    "direct": "#!/usr/bin/python3.11\n",
    "with-options": "#!/usr/bin/python3 -su\n",
    "env": "#!/usr/bin/env python3\n",
    "env-S": "#!/usr/bin/env -S A=b python3 -u\n",
    "pypy": "#!/opt/pypy/bin/pypy3.10\n",
    "free-threaded": "#!/opt/bin/python3.14t\n",
    "pip": "#!/bin/sh\n'''exec' /a/path/that/is/very/long/bin/python \"$0\" \"$@\"\n' '''\n",
    "pip-spaces": "#!/bin/sh\n'''exec' \"/a path/bin/python3.12\" \"$0\" \"$@\"\n' '''\n",
    "uv-relocatable": (
        "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python3' \"$0\" \"$@\"\n' '''\n"
    ),
}


@pytest.mark.parametrize("head", TRAMPOLINES.values(), ids=TRAMPOLINES)
def test_every_usual_kind_of_python_script_can_be_started(tmp_path: Path, head: str) -> None:
    script = tmp_path / "serve"
    script.write_text(head + "import sys\n")
    script.chmod(0o755)
    assert check_program([str(script)]) == str(script)
    script.write_text(head.replace("python", "ruby").replace("pypy", "ruby"))
    with pytest.raises(CommandError, match=r"serve is not a Python program, and no header can be read for it\."):
        check_program([str(script)])


@pytest.mark.parametrize(
    ("head", "option"),
    [
        ("#!/usr/bin/python3 -Es\n", "-E"),
        ("#!/usr/bin/env -S python3 -I\n", "-I"),
        ("#!/usr/bin/env -S A=b python3 -S\n", "-S"),
        ("#!/usr/bin/env -S python3 -X utf8=1 -I\n", "-I"),
        ("#!/bin/sh\n'''exec' /long/bin/python3 -sE \"$0\" \"$@\"\n' '''\n", "-E"),
    ],
)
def test_a_script_that_hides_us_from_its_python_is_refused(tmp_path: Path, head: str, option: str) -> None:
    script = tmp_path / "serve"
    script.write_text(head)
    script.chmod(0o755)
    with pytest.raises(CommandError, match=f"starts Python with the option {option}, which hides our integrations"):
        check_program([str(script)])


@pytest.mark.parametrize("words", ["-I x.py", "-uE x.py", "-W ignore -S x.py", "-Xdev -Im x", "-X dev -E -c 1"])
def test_so_are_options_of_python_that_hide_us(words: str) -> None:
    with pytest.raises(CommandError, match="hides our integrations"):
        check_program([sys.executable, *words.split()])


@pytest.mark.parametrize("words", ["-m x -E", "-c 1 -I", "x.py -S", "-u -W error -X dev x.py -E", "-", "-WE -XI", ""])
def test_arguments_of_the_program_hide_nothing(words: str) -> None:
    assert check_program([sys.executable, *words.split()]) == sys.executable


def test_a_program_that_is_not_python_is_refused() -> None:
    ran = run("run", "--trusted", "any", "--", "env", "gunicorn")
    assert ran.status == 2
    assert "env is not a Python program" in ran.errors
    assert "env ... proxyprotocol run ... -- COMMAND" in ran.errors
    assert "proxyprotocol-server with ?transparent=yes" in ran.errors


def test_a_python_without_our_package_is_told(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True, timeout=PATIENCE)
    other = str(tmp_path / "other" / "bin" / "python")
    words = [sys.executable, "-c", "from proxyprotocol.__main__ import main; raise SystemExit(main())"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*words, "run", "--trusted", "any", "--", other, "-c", "print('served')"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"proxyprotocol run: {other} cannot import proxyprotocol[run] (ModuleNotFoundError")
    assert done.stderr.count("\n") == 1


def test_run_inside_run_has_its_own_options() -> None:
    inner = [sys.executable, "-m", "proxyprotocol", "run", "--trusted", "192.0.2.1", "--"]
    program = "import os; print(os.environ['PROXYPROTOCOL_TRUSTED'])"
    assert launch(*inner, sys.executable, "-c", program).stdout == "192.0.2.1\n"
