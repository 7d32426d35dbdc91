"""What a user of the wheel hears from type checkers that know nothing about zope.interface.

``typed/good_*.py``, the README's code and the examples must be clean. Each line of ``typed/mistakes.py`` that ends with
``# wrong`` has a mistake, which every checker must find.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.project.environment import Environment

# One worker runs all of these tests, with one environment.
pytestmark = pytest.mark.xdist_group("typing")

# What the integrations and the examples import.
OTHERS = ("aiohttp", "aiosmtpd", "anyio", "tornado", "treq", "trio", "urllib3", "uvicorn")

#: Checks files, and returns what is wrong as (file, line, message).
Check: TypeAlias = Callable[[Environment, "list[str]"], "list[tuple[str, int, str]]"]


def mypy(environment: Environment, files: list[str]) -> list[tuple[str, int, str]]:
    # Much of Twisted has no annotations, and each call of it would be an error.
    options = ("--strict", "--untyped-calls-exclude=twisted", "--config-file=", "--python-executable")
    python = environment.directory / "venv" / "bin" / "python"
    run = environment.call(Path(sys.executable), "-m", "mypy", *options, python, *files)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = re.findall(r"^([^:\n]+):(\d+): error: (.*)", run.stdout, re.MULTILINE)
    assert bool(found) == run.returncode, run.stdout
    return [(file, int(line), message) for file, line, message in found]


def pyright(environment: Environment, files: list[str]) -> list[tuple[str, int, str]]:
    run = environment.call(Path(sys.executable), "-m", "pyright", "--outputjson", *files)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = json.loads(run.stdout)["generalDiagnostics"]
    return [(Path(entry["file"]).name, entry["range"]["start"]["line"] + 1, entry["message"]) for entry in found]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path, project_root: Path) -> Environment:
    """The wheel, and in the working directory the files to check."""
    environment = Environment(tmp_path_factory.mktemp("user"))
    environment.pip("install", wheel, *OTHERS)
    for path in [*project_root.glob("examples/*.py"), *project_root.glob("tests/project/typed/*.py")]:
        shutil.copy(path, environment.elsewhere)
    readme = (project_root / "README.md").read_text("utf-8")
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)):
        (environment.elsewhere / f"readme_{number}.py").write_text(block)
    return environment


@pytest.mark.parametrize("check", [mypy, pyright])
def test_the_readme_the_examples_and_more_correct_code_are_clean(environment: Environment, check: Check) -> None:
    files = sorted(path.name for path in environment.elsewhere.glob("*.py") if path.name != "mistakes.py")
    assert {"readme_0.py", "readme_1.py", "good_asyncio.py", "good_twisted.py", "twisted_echo.py"} <= set(files)
    assert check(environment, files) == []


@pytest.mark.parametrize("check", [mypy, pyright])
def test_each_mistake_is_found(environment: Environment, check: Check) -> None:
    lines = (environment.elsewhere / "mistakes.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) > 30
    found = check(environment, ["mistakes.py"])
    assert wrong == {line for _, line, _ in found}, found


def test_pyright_knows_the_type_of_every_public_name(environment: Environment) -> None:
    run = environment.call(
        Path(sys.executable), "-m", "pyright", "--outputjson", "--ignoreexternal", "--verifytypes", "proxyprotocol"
    )
    report = json.loads(run.stdout)["typeCompleteness"]
    unknown = [symbol["name"] for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert unknown == []
    assert report["completenessScore"] == 1
    assert report["exportedSymbolCounts"]["withKnownType"] > 800
