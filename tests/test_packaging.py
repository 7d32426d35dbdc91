"""The wheel, as a user gets it: in a clean environment, used from another directory, and taken out again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# One worker builds one wheel and one environment for them all.
pytestmark = pytest.mark.xdist_group("packaging")

PLUGIN = "twisted/plugins/proxyprotocol_plugin.py"
PREFIXES = """if True:
    from twisted.internet.interfaces import IStreamServerEndpointStringParser
    from twisted.plugin import getPlugins
    for plugin in getPlugins(IStreamServerEndpointStringParser):
        print(plugin.prefix)
"""


class Environment:
    """A virtual environment of its own, and a directory to work in that holds nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.elsewhere = directory / "elsewhere"
        self.elsewhere.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
        self.packages = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    def run(self, *arguments: str | Path) -> str:
        # Nothing of this process' own ways to find modules, nor of its measuring of coverage, goes with it.
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
        command = [self.directory / "venv" / "bin" / "python", *arguments]
        run = subprocess.run(command, cwd=self.elsewhere, env=environ, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def python(self, program: str) -> str:
        return self.run("-c", program)

    def pip(self, *arguments: str | Path) -> None:
        self.run("-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)

    def files_of_ours(self) -> list[str]:
        """What bears our name in site-packages, caches left aside: Python's, and the plugin cache of Twisted."""
        paths = (path.relative_to(self.packages) for path in self.packages.rglob("*") if path.is_file())
        return [str(path) for path in paths if "proxyprotocol" in str(path) and "__pycache__" not in path.parts]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, project_root: Path, project_files: list[Path]) -> Path:
    """A copy of the project: setuptools builds in place, and would pack what an earlier build left behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in project_files:
        target = copy / path.relative_to(project_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return copy


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, environment: Environment, checkout: Path) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    environment.pip("wheel", "--no-deps", "--wheel-dir", directory, checkout)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(environment: Environment, wheel: Path) -> Environment:
    environment.pip("install", wheel)
    return environment


@pytest.fixture
def uninstalled(installed: Environment, wheel: Path) -> Iterator[Environment]:
    # The plugin cache is written with our plugin in it, as it is for a user who has run us.
    installed.python(PREFIXES)
    installed.pip("uninstall", "--yes", "proxyprotocol")
    yield installed
    installed.pip("install", "--no-deps", "--force-reinstall", wheel)


def test_the_wheel_holds_every_module_the_plugin_and_nothing_else(
    wheel: Path, project_root: Path, project_files: list[Path]
) -> None:
    package = project_root / "proxyprotocol"
    ours = {path.relative_to(project_root).as_posix() for path in project_files if package in path.parents}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert packed == ours | {PLUGIN}
    assert "proxyprotocol/py.typed" in packed


def test_the_wheel_leaves_twisteds_packages_to_twisted(wheel: Path) -> None:
    assert not {"twisted/__init__.py", "twisted/plugins/__init__.py"} & set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_says_what_it_is_and_what_it_needs(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = archive.read(name).decode().splitlines()

    assert {"Name: proxyprotocol", "License-Expression: MIT", "Requires-Python: >=3.10"} <= set(metadata)
    needed = [line for line in metadata if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert [line.split()[1].split(">=")[0].lower() for line in needed] == ["twisted", "zope.interface", "crc32c"]
    assert any(name.endswith("/LICENSE") for name in archive.namelist())


def test_installed_the_plugin_is_found_from_another_directory(installed: Environment) -> None:
    assert "proxyprotocol" in installed.python(PREFIXES).split()


def test_installed_the_endpoint_string_makes_an_endpoint(installed: Environment) -> None:
    program = """if True:
        from twisted.internet import reactor
        from twisted.internet.endpoints import serverFromString
        import proxyprotocol
        print(type(serverFromString(reactor, "proxyprotocol:tcp:0")).__name__, proxyprotocol.__file__)
    """
    name, file = installed.python(program).split()
    assert name == "ProxyProtocolServerEndpoint"
    assert Path(file).is_relative_to(installed.packages)


def test_uninstalling_leaves_nothing_of_ours(uninstalled: Environment) -> None:
    assert uninstalled.files_of_ours() == []
    assert not (uninstalled.packages / "proxyprotocol").exists()


def test_uninstalling_leaves_twisted_whole(uninstalled: Environment) -> None:
    program = """if True:
        from importlib.metadata import files
        from twisted.internet import reactor
        from twisted.internet.endpoints import clientFromString, serverFromString
        import twisted.plugins
        print(type(serverFromString(reactor, "tcp:0")).__name__)
        print(type(clientFromString(reactor, "tcp:localhost:80")).__name__)
        print(*(path for path in files("Twisted") if not path.locate().exists()), "missing")
    """
    assert uninstalled.python(program).split() == ["TCP4ServerEndpoint", "TCP4ClientEndpoint", "missing"]
    prefixes = uninstalled.python(PREFIXES).split()
    assert "haproxy" in prefixes
    assert "proxyprotocol" not in prefixes


def test_an_editable_install_finds_the_plugin_too(uninstalled: Environment, checkout: Path) -> None:
    uninstalled.pip("install", "--no-deps", "--editable", checkout)

    assert "proxyprotocol" in uninstalled.python(PREFIXES).split()
