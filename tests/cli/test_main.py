"""The `proxyprotocol` command itself: its errors are sentences, and a terminal gets other output than a pipe."""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

import pytest

import proxyprotocol
from proxyprotocol.__main__ import main as module_main
from proxyprotocol.cli.main import make_parser
from proxyprotocol.server.echo import main as echo_main
from proxyprotocol.server.echo import make_parser as make_echo_parser
from proxyprotocol.server.main import main as relay_main
from proxyprotocol.server.main import make_parser as make_relay_parser
from tests.cli.commands import run

if sys.platform != "win32":
    import pty

PATIENCE = 20.0  # seconds; every wait takes a fraction of one, unless the machine is very busy
COMMAND = [sys.executable, "-m", "proxyprotocol"]
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
CAPTURE = Path(__file__).parent.parent / "captures" / "ethernet.pcap"
WRONG = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 99999\r\n"


def test_python_runs_it_as_a_module() -> None:
    done = subprocess.run([*COMMAND, "decode"], input=LINE, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"192.0.2.1:1000" in done.stdout


def test_it_is_installed_as_a_command(project_root: Path) -> None:
    assert "    proxyprotocol = proxyprotocol.__main__:main\n" in (project_root / "setup.cfg").read_text()


def test_a_package_with_files_of_another_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # as after an installation of proxy-protocol over it, which tests/project/test_packaging.py makes
    monkeypatch.delattr(proxyprotocol, "ProxyProtocolError")
    monkeypatch.delattr(proxyprotocol._adapters, "installation")
    monkeypatch.delitem(sys.modules, "proxyprotocol._adapters.installation")
    assert module_main() == 2
    assert capsys.readouterr().err.startswith("proxyprotocol: The package proxy-protocol has replaced")


def test_it_says_its_version() -> None:
    assert run("--version").text == f"proxyprotocol {version('proxyprotocol')}\n"


@pytest.mark.parametrize("command", ["decode", "encode", "check", "echo", "relay", "demo"])
def test_so_does_every_subcommand(command: str) -> None:
    assert run(command, "--version").text == f"proxyprotocol {version('proxyprotocol')}\n"


@pytest.mark.parametrize(("name", "main"), [("server", relay_main), ("echo", echo_main)])
def test_so_do_the_servers(name: str, main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"proxyprotocol-{name} {version('proxyprotocol')}\n"


def test_so_does_the_package() -> None:
    assert proxyprotocol.__version__ == version("proxyprotocol")
    with pytest.raises(AttributeError, match="module 'proxyprotocol' has no attribute '__versoin__'"):
        proxyprotocol.__versoin__  # type: ignore[attr-defined]  # noqa: B018


def test_the_help_of_the_package_begins_with_an_example_that_works() -> None:
    documented = proxyprotocol.__doc__
    assert documented is not None
    assert documented.index(">>> ") < documented.index("This module")
    assert doctest.testmod(proxyprotocol).attempted == 5


def test_a_bare_command_shows_its_help() -> None:
    # 2 and not 0: a script that has lost its argument must not go on
    assert run() == (2, b"", run("--help").text)


def test_without_an_installation_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert run("--version").text == "proxyprotocol 0+checkout\n"
    assert proxyprotocol.__version__ == "0+checkout"
    assert run("decode", stdin=LINE).status == 0


PARSERS = {parser.prog: parser for parser in (make_parser(), make_relay_parser(), make_echo_parser())}
HELPS = [*PARSERS, *(f"proxyprotocol {name}" for name in ("decode", "encode", "check", "run", "echo", "relay", "demo"))]


@pytest.mark.parametrize("command", HELPS)
def test_every_help_has_examples_that_can_be_typed(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    program, *subcommand = command.split()
    with pytest.raises(SystemExit, match="0"):
        PARSERS[program].parse_args([*subcommand, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {command} [-h] [--version")
    assert max(map(len, text.splitlines())) <= 80
    examples = re.findall(rf"^  .*?\b{command}\b(.*)$", text.partition("\nexamples:\n")[2], re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        PARSERS[program].parse_args([*subcommand, *shlex.split(example.partition(" | ")[0])])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "unknown command nonsense; known are decode, encode, check, run, echo, relay, demo (see "),
        (("decod",), "unknown command decod; did you mean decode? (see proxyprotocol --help)"),
        (("--versoin",), "unknown option --versoin; did you mean --version? (see proxyprotocol --help)"),
        (("decode", "--nonsense"), "unknown option --nonsense (see proxyprotocol decode --help)"),
        (("decode", "--jsn"), "unknown option --jsn; did you mean --json? (see proxyprotocol decode --help)"),
        (("decode", "--he", "x"), "unknown option --he; did you mean --hex?"),
        (("decode", "--json=1"), "--json takes no value, not '1' (see"),
        (("decode", "a", "b"), "unexpected argument 'b'"),
        (
            ("decode", "--hex", "0d0a0d0a"),
            "FILE takes the name of a file; did you mean echo 0d0a0d0a | proxyprotocol dec",
        ),
        (("encode", "--soruce=::1"), "unknown option --soruce; did you mean --source?"),
        (("encode", "x", "--loca"), "unknown option --loca; did you mean --local?"),
        (("encode", "--source"), "--source needs ADDR:PORT after it"),
        (("check",), "the following arguments are required: HOST:PORT"),
        (("check", "a:80", "--timeout"), "--timeout needs SECONDS after it"),
        (("relay", "--service", ":80"), "--service needs SOURCE:PORT DEST:PORT after it"),
        (("relay", "--quite"), "unknown option --quite; did you mean --quiet?"),
        (("--print-completion", "fish"), "--print-completion: invalid choice: 'fish' (choose from "),
        (("decode", "a\x1b[31m\nb"), r"a\x1b[31m\nb: No such file"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    ran = run(*arguments)
    assert (ran.status, ran.output) == (2, b"")
    assert ran.errors.startswith("proxyprotocol: ")
    assert said in ran.errors
    assert len(ran.errors.split("\n")) == 2


def decode_into(output: IO[bytes], unbuffered: str) -> tuple[int, bytes]:
    """Decode a header into a file, and return the status and the text on standard error."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [*COMMAND, "decode"]
    done = subprocess.run(command, input=LINE, stdout=output, stderr=subprocess.PIPE, env=environment, timeout=PATIENCE)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_closed_pipe_causes_no_traceback(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as output:
        assert decode_into(output, unbuffered) == (128 + signal.SIGPIPE, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_disk_is_one_sentence(unbuffered: str) -> None:
    with open("/dev/full", "wb") as output:
        assert decode_into(output, unbuffered) == (2, b"proxyprotocol: No space left on device\n")


def closed(*command: str, redirections: str) -> tuple[int, bytes, bytes]:
    """Run Python with standard streams that a shell closes, and return the status and the text on the others."""
    words = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-X", "dev", "-m", *command]
    done = subprocess.run(words, input=LINE, capture_output=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def test_a_closed_standard_input_is_one_sentence() -> None:
    said = b"proxyprotocol: standard input is closed: name a file, or redirect one\n"
    assert closed("proxyprotocol", "decode", redirections="<&-") == (2, b"", said)
    assert closed("proxyprotocol", "decode", redirections="<&- >&- 2>&-") == (2, b"", b"")


@pytest.mark.parametrize("redirections", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("proxyprotocol", "decode", str(CAPTURE)), 0),
        (("proxyprotocol", "encode", "--local"), 0),
        (("proxyprotocol", "--version"), 0),
        (("proxyprotocol", "nonsense"), 2),
        (("proxyprotocol.server.main", "--help"), 0),
        (("proxyprotocol.server.main", "--nonsense"), 2),
    ],
    ids=["decode", "encode", "version", "mistake", "server", "server's mistake"],
)
def test_output_to_a_closed_stream_is_dropped(command: tuple[str, ...], status: int, redirections: str) -> None:
    ended, output, errors = closed(*command, redirections=redirections)
    assert ended == status
    assert b"Traceback" not in errors
    assert bool(errors) == (status == 2 and "2>" not in redirections)
    assert bool(output) == (status == 0 and redirections == "2>&-")


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system does not list the files of a process")
def test_no_other_file_takes_the_place_of_a_closed_stream() -> None:
    program = """
import os, sys
from proxyprotocol.server._process.program import run_program
sys.exit(run_program("x", lambda: sum(os.readlink(f"/proc/self/fd/{n}") != os.devnull for n in range(3))))
"""
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(words, timeout=PATIENCE).returncode == 0


def test_an_interruption_causes_no_traceback() -> None:
    with subprocess.Popen([*COMMAND, "demo", "--keep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            ports = filter(None, (re.search(rb"127\.0\.0\.1 (\d+)  ", line) for line in process.stdout))
            with contextlib.ExitStack() as stack:
                for match in (next(ports), next(ports)):
                    client = stack.enter_context(socket.create_connection(("127.0.0.1", int(match[1])), PATIENCE))
                    client.sendall(LINE + b"hello")
                    assert client.recv(5) == b"hello"
                    assert b"192.0.2.1:1000 -> 198.51.100.2:2000" in process.stdout.readline()
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, b"")


def test_a_terminal_that_lacks_a_character_causes_no_traceback() -> None:
    header = run("encode", "--source", "192.0.2.1:1", "--dest", "192.0.2.2:2", "--authority", "b\u00fccher").output
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*COMMAND, "decode"], input=header, capture_output=True, env=environment, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"b\xfccher" in done.stdout


def test_the_documentation_shows_the_real_output(project_root: Path) -> None:
    page = (project_root / "docs" / "cli.rst").read_text()
    addresses = ("--source", "203.0.113.7:5678", "--dest", "198.51.100.9:443")
    right = run("decode", stdin=run("encode", *addresses, "--authority", "app.example").output).text
    wrong = run("decode", stdin=b"PROXY TCP4 203.0.113.7 198.51.100.9 5678 99999\r\n").text
    option = run("decode", "--jsn").errors
    url = run("check", "http://localhost:8080/").errors
    for shown in (right, wrong, option, url):
        assert textwrap.indent(shown.rstrip(), "   ") in page


# On a terminal


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        with contextlib.suppress(OSError):
            os.close(theirs)


def on_a_terminal(arguments: Sequence[str], stdin: bytes = b"", **environment: str) -> tuple[int, bytes, bytes]:
    """Return the status, what the terminal shows, and standard error."""
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    with terminal() as (ours, theirs):
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env={**environ, "TERM": "xterm", **environment},
            timeout=PATIENCE,
        )
        os.write(theirs, b"\n")  # a read must not block if the command wrote nothing
        return done.returncode, os.read(ours, 65536), done.stderr


def test_there_are_colours_on_a_terminal_only() -> None:
    assert b"\x1b[31m" in on_a_terminal(["decode"], WRONG)[1]
    assert b"\x1b" not in run("decode", stdin=WRONG).output


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_the_environment_can_turn_colours_off(variable: dict[str, str]) -> None:
    status, shown, _ = on_a_terminal(["decode"], WRONG, **variable)
    assert (status, b"\x1b" in shown) == (1, False)


def test_a_binary_header_is_not_written_to_a_terminal() -> None:
    status, shown, errors = on_a_terminal(["encode", "--local"])
    assert status == 2
    assert b"QUIT" not in shown
    assert b"--hex" in errors
    assert on_a_terminal(["encode", "--local", "--hex"])[1].startswith(b"0d0a0d0a")
    assert on_a_terminal(["encode", "--unknown", "--v1"])[1].startswith(b"PROXY UNKNOWN")


def test_the_demonstration_tells_its_story_in_a_dozen_lines() -> None:
    done = subprocess.run([*COMMAND, "demo"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    before, *saw_before, after, saw_twisted, saw_asyncio, forger, log, next_, twisted, uvicorn, check = (
        done.stdout.splitlines()
    )
    assert before == "Before: a server behind a balancer sees the balancer."
    for framework, line in zip(("Twisted", "asyncio"), saw_before, strict=True):
        assert re.fullmatch(rf"  {framework}'s server saw  127\.0\.0\.1:\d+ -> 127\.0\.0\.1:\d+", line)
    assert after.startswith("After: the balancer sends PROXY TCP4 203.0.113.7 198.51.100.9 56324 443 first, and ")
    assert saw_twisted == "  Twisted's server saw  203.0.113.7:56324 -> 198.51.100.9:443"
    assert saw_asyncio == "  asyncio's server saw  203.0.113.7:56324 -> 198.51.100.9:443"
    assert forger.startswith("A forger")
    assert re.match(
        r"  Refused a connection from 127\.0\.0\.1:\d+.*: The peer is not one of the trusted proxies; ", log
    )
    assert log.endswith("; if it is your proxy, add it to trusted")
    assert next_.startswith("Next, for your server")
    assert ("ppTrusted=" in twisted, "PROXYPROTOCOL_TRUSTED=" in uvicorn) == (True, True)
    assert check.startswith("  proxyprotocol check ")


def test_decoding_needs_no_twisted() -> None:
    program = "import sys, proxyprotocol.cli; print([name for name in ('twisted', 'scapy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "[]\n"
