"""What packagers and shells get from the parsers: manual pages, and the completion of words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxyprotocol.server.echo import main as echo_main
from tests.cli.commands import run

PAGES = ("proxyprotocol", "proxyprotocol-echo", "proxyprotocol-server")
# What a shell does when the user types the words and then a tab.
COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
compopt() { :; }
$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    folder = tmp_path_factory.mktemp("man")
    # this environment has all that is needed: -o keeps make from installing it again
    virtual = Path(sys.prefix)
    command = ["make", "--silent", f"VENV={virtual}", "-o", str(virtual / ".installed-test"), f"MAN={folder}", "man"]
    subprocess.run(command, cwd=project_root, check=True, timeout=60)
    return folder


@pytest.mark.xdist_group("manual")
def test_each_command_has_a_manual_page(manual: Path) -> None:
    assert tuple(sorted(path.stem for path in manual.iterdir())) == PAGES
    text = (manual / "proxyprotocol.1").read_text("utf-8")
    assert "\nproxyprotocol \\- show and write and test PROXY protocol headers\n" in text
    for name in ("decode", "encode", "check", "echo", "relay", "demo"):
        assert f"COMMAND \\fI\\,'proxyprotocol {name}'\\/\\fR" in text
    for name in PAGES:
        assert ".SH EXAMPLES\n" in (manual / f"{name}.1").read_text("utf-8")


@pytest.mark.xdist_group("manual")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_mistake_that_man_finds(manual: Path, page: str) -> None:
    checks = {"man": ["man", "--warnings", "-l"], "groff": ["groff", "-man", "-Tutf8", "-ww"]}
    for program, command in checks.items():
        if shutil.which(program):
            done = subprocess.run([*command, str(manual / f"{page}.1")], capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stderr) == (0, "")
            assert page in done.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (("dec",), ["decode"]),
        (("e",), ["encode", "echo"]),
        (("decode", "--j"), ["--json"]),
        (("encode", "--so"), ["--source"]),
        (("relay", "--conn"), ["--connect-timeout"]),
    ],
)
def test_bash_completes_the_command(tmp_path: Path, words: tuple[str, ...], completed: list[str]) -> None:
    script = tmp_path / "completion"
    script.write_bytes(run("--print-completion", "bash").output)
    command = ["bash", "-c", COMPLETE, "bash", str(script), "proxyprotocol", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (completed, "")


def test_a_name_of_a_file_is_completed_with_files(tmp_path: Path) -> None:
    (tmp_path / "some.pcap").touch()
    script = tmp_path / "completion"
    script.write_bytes(run("--print-completion", "bash").output)
    command = ["bash", "-c", COMPLETE, "bash", str(script), "proxyprotocol", "decode", "so"]
    assert subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60).stdout == "some.pcap\n"


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_their_own_code(shell: str) -> None:
    ran = run("--print-completion", shell)
    assert (ran.status, ran.errors) == (0, "")
    for word in ("decode", "authority", "print-completion", "proxyprotocol"):
        assert word in ran.text


def test_the_servers_have_completion_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert echo_main(["--print-completion", "bash"]) == 0
    assert " -F _shtab_proxyprotocol_echo proxyprotocol-echo" in capsys.readouterr().out


def test_without_shtab_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    ran = run("--print-completion", "bash")
    assert (ran.status, ran.output) == (2, b"")
    assert ran.errors.startswith("proxyprotocol: --print-completion needs shtab (")
    assert ran.errors.endswith("): pip install 'proxyprotocol[completion]'\n")
