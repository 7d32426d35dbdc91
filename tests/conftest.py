"""Shared by all tests: the project's files, the profiles of hypothesis, and the rule that CI skips nothing."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

# tests/on_twisted/reactors.py knows the modules
REACTORS = ("select", "poll", "epoll", "asyncio")

_ROOT = Path(__file__).parent.parent
_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)

# No deadline, because the time of one example depends on the other workers. CI uses the same examples every time, so
# that a failure comes from the change. HYPOTHESIS_PROFILE=thorough looks for new failures now and then.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=5000)


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if _in_ci() else "default"))


def _skip_is_failure(report: _Report) -> _Report:
    """In CI, turn a skip into a failure. An expected failure stays one."""
    if _in_ci() and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, which CI=true does not allow: {reason}"
    return report


# Both hooks run in pytest-xdist's workers, which then send the changed reports. They are outermost (tryfirst), because
# pytest's own wrapper marks the expected failures.
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
    """Add an option that runs the tests of Twisted on some kinds of reactors only, to save time."""
    parser.addoption("--reactors", default=",".join(REACTORS), help="the kinds of reactors to test on, with commas")


@pytest.hookimpl(optionalhook=True)  # only pytest-xdist has it
def pytest_xdist_auto_num_workers() -> int:
    """Start three workers for two processors: many tests wait for other programs or for time-outs.

    More would slow down the tests that measure time.
    """
    return max(2, 3 * (os.cpu_count() or 1) // 2)


def pytest_collection_finish() -> None:
    """Hide the collected tests from the garbage collector: many tests call it, and each call would walk them all."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of Twisted on every kind of reactor, unless the test names its reactors."""
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
    """Every file of the project that .gitignore does not name, in git or not yet.

    It does not ask git, so that the answer is the same in an unpacked archive.
    """
    lines = (project_root / ".gitignore").read_text().splitlines()
    return list(_walk(project_root, [line for line in lines if line and not line.startswith("#")]))
