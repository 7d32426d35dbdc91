"""The wheel that users get: installed in a clean environment, used from another directory, and uninstalled.

The environment also gets ``proxy-protocol``: its test suite, and the package, installed before this one or after it.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.environment import Environment

# One worker runs all of these tests, with one wheel and one environment.
pytestmark = pytest.mark.xdist_group("packaging")

PLUGIN = "twisted/plugins/proxyprotocol_plugin.py"
PREFIXES = """if True:
    from twisted.internet.interfaces import IStreamServerEndpointStringParser
    from twisted.plugin import getPlugins
    for plugin in getPlugins(IStreamServerEndpointStringParser):
        print(plugin.prefix)
"""

OTHER = "proxy-protocol"
RELEASE = f"{OTHER}==0.11.3"
# The tests of proxy-protocol that fail by decision; docs/migration.rst lists the reasons.
DECIDED = {
    "test_v1.py::TestProxyProtocolV1::test_pack_unknown": "section 2.1 has no four spaces after UNKNOWN",
    "test_v2.py::TestProxyProtocolV2::test_pack_not_proxied": "section 2.2 wants a length of zero for LOCAL",
    "test_sock.py::TestSocketInfo::test_sockname_override": "we write a mapped address as getsockname() does",
    "test_tlv.py::TestProxyProtocolTLV::test_bytes_auto": "bytes() works before pack() adds the CRC32C",
}
# Prints the result of importing each module through which users enter the package.
ENTRIES = """if True:
    from importlib import import_module
    names = ("asyncio", "asyncio.loop", "twisted", "twisted.strings", "twisted.service", "sync", "cli")
    for name in (*(f"proxyprotocol.{name}" for name in names), "twisted.plugins.proxyprotocol_plugin"):
        try:
            import_module(name)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
        else:
            print("imported")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def installed(environment: Environment, wheel: Path) -> Environment:
    environment.pip("install", wheel)
    return environment


@pytest.fixture
def uninstalled(installed: Environment, wheel: Path) -> Iterator[Environment]:
    # This writes the plugin cache with our plugin in it, as any use of the plugin does.
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


def test_the_metadata_of_the_wheel_is_complete(wheel: Path, project_root: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = archive.read(name).decode().splitlines()

    assert {"Name: proxyprotocol", "License-Expression: MIT", "Requires-Python: >=3.10"} <= set(metadata)
    needed = [line for line in metadata if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert [line.split()[1].split(">=")[0].lower() for line in needed] == ["twisted", "zope.interface", "crc32c"]
    assert any(name.endswith("/LICENSE") for name in archive.namelist())
    tested = re.search(r"^PYTHONS \?= (.+)", (project_root / "Makefile").read_text(), re.MULTILINE)
    assert tested is not None
    assert {f"Classifier: Programming Language :: Python :: {version}" for version in tested[1].split()} == {
        line for line in metadata if re.fullmatch(r"Classifier: .* :: 3\.\d+", line)
    }


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


def test_uninstalling_removes_all_files(uninstalled: Environment) -> None:
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


# Beside proxy-protocol


@pytest.fixture(scope="module")
def its_tests(tmp_path_factory: pytest.TempPathFactory, environment: Environment) -> Path:
    directory = tmp_path_factory.mktemp("its_source")
    environment.pip("install", "pytest")  # the tests need it
    environment.pip("download", "--no-deps", "--no-binary", OTHER, "--dest", directory, RELEASE)
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        # without its package, which Python would find before ours
        for member in files:
            if name := re.fullmatch(r"[^/]+/test/(\w+\.py)", member.name):
                (directory / name[1]).write_bytes(files.extractfile(member).read())  # type: ignore[union-attr]
    return directory


def test_the_tests_of_proxy_protocol_pass_except_four_that_differ_by_decision(
    installed: Environment, its_tests: Path
) -> None:
    options = ("-rf", "--tb=no", "-p", "no:cacheprovider", "--rootdir", its_tests)
    run = installed.call("python", "-m", "pytest", *options, its_tests)
    failed = re.findall(r"^FAILED (?:.*/)?(test_\w+\.py::\w+::\w+)", run.stdout, re.MULTILINE)
    assert set(failed) == DECIDED.keys(), run.stdout
    assert " 4 failed, 127 passed in " in run.stdout


@pytest.fixture
def without_either(uninstalled: Environment) -> Iterator[Environment]:
    yield uninstalled
    uninstalled.pip("uninstall", "--yes", OTHER)


def entries(environment: Environment) -> set[str]:
    return set(environment.python(ENTRIES).splitlines())


def test_with_proxy_protocol_over_it_every_entry_names_the_two_commands_to_run(
    without_either: Environment, wheel: Path
) -> None:
    environment = without_either
    environment.pip("install", "--no-deps", wheel)
    environment.pip("install", RELEASE)

    (said,) = entries(environment)
    error, _, sentence = said.partition(": ")
    assert error == "ImportError"
    for command in (["proxyprotocol", "--version"], ["python", "-m", "proxyprotocol"]):
        run = environment.call(*command)
        assert (run.returncode, run.stdout, run.stderr) == (2, "", f"proxyprotocol: {sentence}\n")
    # these two are now files of proxy-protocol, and start its programs
    for program in ("proxyprotocol-server", "proxyprotocol-echo"):
        assert environment.call(program, "--help").returncode == 0
    assert "haproxy" in environment.python(PREFIXES).split()
    twistd = environment.call("twistd", "--help")
    assert twistd.returncode == 0
    assert re.search(r"^ +web ", twistd.stdout, re.MULTILINE)
    assert twistd.stderr.count(sentence) == 1

    uninstall, install = re.findall(r"`(pip [^`]+)`", sentence)
    assert (uninstall, install) == ("pip uninstall proxy-protocol", "pip install --force-reinstall proxyprotocol")
    environment.pip(*uninstall.split()[1:], "--yes")
    assert entries(environment) == {said}
    environment.pip(*install.split()[1:-1], "--no-deps", wheel)
    assert entries(environment) == {"imported"}
    assert environment.call("proxyprotocol", "--version").stdout.startswith("proxyprotocol ")


def test_over_proxy_protocol_it_works_until_that_is_uninstalled(without_either: Environment, wheel: Path) -> None:
    environment = without_either
    environment.pip("install", RELEASE)
    environment.pip("install", "--no-deps", wheel)
    assert entries(environment) == {"imported"}
    assert re.search(r"^ +proxyprotocol ", environment.call("twistd", "--help").stdout, re.MULTILINE)

    environment.pip("uninstall", "--yes", OTHER)
    (said,) = entries(environment)
    assert said.startswith("ImportError: The package proxy-protocol has replaced or removed files of proxyprotocol")
