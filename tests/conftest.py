"""What all tests share: the project's files, hypothesis' profiles, and the rule that CI skips nothing."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

# where Twisted keeps them is for tests/on_twisted/reactors.py to know
REACTORS = ("select", "poll", "epoll", "asyncio")

_ROOT = Path(__file__).parent.parent
_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)

# No deadline: one example's time says more of the other workers than of the code. In CI the same examples every time,
# so that a red run is the change's doing; HYPOTHESIS_PROFILE=thorough is for a look around, now and then.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=5000)


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if _in_ci() else "default"))


def _skip_is_failure(report: _Report) -> _Report:
    """Turn the report of a skip into one of a failure, in CI; an expected failure stays what it is."""
    if _in_ci() and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, which CI=true does not allow: {reason}"
    return report


# Both hooks run in pytest-xdist's workers, which send their reports on already turned. Outermost (tryfirst), because
# pytest's own wrapper is what marks an expected failure.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _skip_is_failure((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _skip_is_failure((yield))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of Twisted run on one kind of reactor alone, where the time for all is not to be had."""
    parser.addoption("--reactors", default=",".join(REACTORS), help="the kinds of reactors to test on, with commas")


def pytest_collection_finish() -> None:
    """Hide the collected tests from the garbage collector: many tests call it, and each call would walk them all."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of Twisted on every kind of reactor, unless it says itself on which."""
    chosen = any("reactor" in marker.args[0] for marker in metafunc.definition.iter_markers("parametrize"))
    if "reactor" in metafunc.fixturenames and not chosen:
        metafunc.parametrize("reactor", metafunc.config.getoption("reactors").split(","), indirect=True)


def _walk(directory: Path, ignored: list[str]) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name == ".git" or any(fnmatch(path.name, pattern) for pattern in ignored):
            continue
        if path.is_dir():
            yield from _walk(path, ignored)
        else:
            yield path


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The directory that holds setup.cfg."""
    return _ROOT


@pytest.fixture(scope="session")
def project_files(project_root: Path) -> list[Path]:
    """Every file of the project: what is there and .gitignore does not name, in git or not yet.

    Not asked of git, so that the answer is the same in an unpacked archive.
    """
    lines = (project_root / ".gitignore").read_text().splitlines()
    return list(_walk(project_root, [line for line in lines if line and not line.startswith("#")]))
