"""The wheel, which is built once for all tests that a worker runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.project.environment import Environment


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory, project_root: Path, project_files: list[Path]) -> Path:
    """A copy of the project: setuptools builds in place, and would pack the leftovers of an earlier build."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in project_files:
        target = copy / path.relative_to(project_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return copy


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """The wheel that users get."""
    directory = tmp_path_factory.mktemp("wheel")
    Environment(directory / "builder").pip("wheel", "--no-deps", "--wheel-dir", directory, checkout)
    (built,) = directory.glob("*.whl")
    return built
