"""The rule that CI skips nothing, tested by running pytest on small test files."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SKIPS = {
    "a mark": """
        import pytest
        @pytest.mark.skip(reason="no reason")
        def test_it(): pass
        """,
    "a condition": """
        import pytest
        @pytest.mark.skipif(True, reason="no reason")
        def test_it(): pass
        """,
    "a call in the test": """
        import pytest
        def test_it(): pytest.skip("no reason")
        """,
    "a fixture": """
        import pytest
        @pytest.fixture
        def program(): pytest.skip("no reason")
        def test_it(program): pass
        """,
    "unittest": """
        import unittest
        class TestIt(unittest.TestCase):
            @unittest.skip("no reason")
            def test_it(self): pass
        """,
    "a whole module": """
        import pytest
        pytest.skip("no reason", allow_module_level=True)
        """,
    "a missing import": """
        import pytest
        pytest.importorskip("no_such_module_anywhere", reason="no reason")
        """,
}
workers = pytest.mark.parametrize("workers", ["0", "1"], ids=["in one process", "under xdist"])


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time would go into loading plugins that these runs do not need."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, workers: str) -> pytest.RunResult:
    pytester.makeconftest((Path(__file__).parent.parent / "conftest.py").read_text())
    return pytester.runpytest_subprocess("-p", "xdist.plugin", "-n", workers, "-p", "no:cacheprovider")


@workers
def test_every_way_to_skip_is_a_failure_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(**{f"test_{name.replace(' ', '_')}": text for name, text in SKIPS.items()})
    # Modules that fail to be collected would stop the run before the tests that skip.
    pytester.makeini("[pytest]\naddopts = --continue-on-collection-errors")

    result = run(pytester, workers)

    outcomes = result.parseoutcomes()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes["failed"] + outcomes["errors"] == len(SKIPS)
    assert outcomes.keys().isdisjoint({"passed", "skipped"})
    result.stdout.fnmatch_lines(["*test_a_mark.py::test_it was skipped, which CI=true does not allow: *no reason"])


def test_a_skipped_module_alone_fails_the_run_in_ci(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(SKIPS["a whole module"])

    result = run(pytester, "1")

    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    result.assert_outcomes(errors=1)


@pytest.mark.parametrize("ci", [None, "false"])
def test_a_skip_is_a_skip_elsewhere(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str | None) -> None:
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    pytester.makepyfile(**{f"test_{name.replace(' ', '_')}": text for name, text in SKIPS.items()})

    result = run(pytester, "0")

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(skipped=len(SKIPS))


@workers
def test_expected_failures_and_passes_stay_what_they_are_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile("""
        import pytest
        @pytest.mark.xfail(reason="known")
        def test_known(): assert False
        def test_fine(): pass
        """)

    result = run(pytester, workers)

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, xfailed=1)
