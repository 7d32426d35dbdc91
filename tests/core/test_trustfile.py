"""A list of trusted proxies in a file that changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxyprotocol.options import parse_receiver
from proxyprotocol.policy import HeaderPolicy
from proxyprotocol.trustfile import TrustedProxiesFile

OLD, NEW, LOCAL = ("10.0.0.1", 1), ("192.0.2.1", 1), ("10.0.0.2", 80)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "proxies"
    path.write_text("# our balancers\n\n10.0.0.0/8   # in every zone\n!10.9.0.0/16\nunix\n")
    return path


@pytest.fixture
def time() -> Time:
    return Time()


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def test_a_line_is_a_network(path: Path) -> None:
    policy = TrustedProxiesFile(path)
    assert policy.networks == ("10.0.0.0/8", "!10.9.0.0/16", "unix")
    assert policy(OLD, LOCAL) is HeaderPolicy.REQUIRE
    assert policy(("10.9.1.1", 1), LOCAL) is HeaderPolicy.REJECT
    assert policy("", "/run/a.sock") is HeaderPolicy.REQUIRE


def test_a_changed_file_is_read_again_within_a_second(path: Path, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    policy = TrustedProxiesFile(path, clock=time)
    write(path, "192.0.2.0/24\n")
    time.now += 0.9
    assert policy.trusts(OLD) and not policy.trusts(NEW)  # noqa: PT018
    time.now += 0.1
    assert policy.trusts(NEW)
    assert not policy.trusts(OLD)
    assert [record.message for record in caplog.records] == [
        f"The trusted proxies in {path} have changed: 192.0.2.0/24"
    ]


def test_the_file_is_looked_at_once_a_second(path: Path, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, looks, stat = TrustedProxiesFile(path, clock=time), [], os.stat

    def look(path: str) -> os.stat_result:
        looks.append(path)
        return stat(path)

    monkeypatch.setattr(os, "stat", look)
    for _ in range(1000):
        time.now += 0.003
        policy.trusts(OLD)
    assert len(looks) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "10.0.0.0/8\n10.0.0.1/24\n",
            r"line 2: .*'10\.0\.0\.1/24' \(it has host bits set; did you mean 10\.0\.0\.0/24\?\)",
        ),
        ("!10.0.0.0/8\n", "Nothing is trusted"),
        ("10.0.0.0/8\n!10.9.0.1/16\n", r"line 2: .*did you mean !10\.9\.0\.0/16\?"),
        ("# nobody\n", "names no network"),
        ("any\n", "line 1: .*it means everybody, and stands alone"),
        ("\0", "line 1: "),
    ],
)
def test_a_wrong_file_keeps_the_old_list(
    path: Path, time: Time, caplog: pytest.LogCaptureFixture, text: str, complaint: str
) -> None:
    policy = TrustedProxiesFile(path, clock=time)
    write(path, text)
    with pytest.raises(ValueError, match=complaint):
        TrustedProxiesFile(path)
    for _ in range(3):
        time.now += 2
        assert policy.trusts(OLD)
    [record] = caplog.records  # one complaint for each change, not one a second
    assert record.levelname == "ERROR"
    assert record.message.startswith("The list of trusted proxies stays as it was: ")
    write(path, "192.0.2.0/24\n")
    time.now += 2
    assert policy.trusts(NEW)


def test_a_missing_file_keeps_the_old_list(path: Path, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    policy = TrustedProxiesFile(path, clock=time)
    path.unlink()
    for _ in range(3):
        time.now += 2
        assert policy.trusts(OLD)
    assert len(caplog.records) == 1
    with pytest.raises(FileNotFoundError):
        TrustedProxiesFile(path)


def test_bytes_that_are_not_utf_8_keep_the_old_list(path: Path, time: Time) -> None:
    policy = TrustedProxiesFile(path, clock=time)
    path.write_bytes(b"\xff\n")
    time.now += 2
    assert policy.trusts(OLD)


def test_a_relative_path_stays_where_it_was(
    path: Path, time: Time, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    policy = TrustedProxiesFile("proxies", clock=time)
    monkeypatch.chdir("/")
    write(path, "192.0.2.0/24\n")
    time.now += 2
    assert policy.trusts(NEW)


def test_every_string_form_takes_a_file(path: Path) -> None:
    policy = parse_receiver({"trusted": f"@{path}", "untrusted": "direct"}).policy
    assert isinstance(policy, TrustedProxiesFile)
    assert policy(NEW, LOCAL) is HeaderPolicy.SKIP
    with pytest.raises(ValueError, match=r"^ppTrusted takes networks, .*: \[Errno 2\] No such file"):
        parse_receiver({"trusted": f"@{path}.txt"}, lambda option: f"pp{option.title()}")


def test_an_error_that_passes_is_tried_again(
    path: Path, time: Time, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy = TrustedProxiesFile(path, clock=time)
    write(path, "192.0.2.0/24\n")

    def fail(*arguments: object, **keywords: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", fail)
        for _ in range(3):
            time.now += 2
            assert policy.trusts(OLD)
    assert len(caplog.records) == 1
    time.now += 2
    assert policy.trusts(NEW)


def test_a_pipe_is_no_list(path: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file"):
        TrustedProxiesFile(tmp_path / "pipe")
