"""A list of trusted proxies in a file that changes."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxyprotocol.options import parse_receiver, spell_variable
from proxyprotocol.policy import HeaderPolicy, parse_network
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
    with pytest.raises(ValueError, match="pipe: this is not a regular file"):
        TrustedProxiesFile(tmp_path / "pipe")


def test_a_file_that_is_overwritten_in_place_is_read_again(path: Path, time: Time) -> None:
    """`cp -p` and rsync set the time of modification back."""
    path.write_text("10.0.0.0/8\n")
    policy, state = TrustedProxiesFile(path, clock=time), path.stat()
    while path.stat().st_ctime_ns == state.st_ctime_ns:  # the clock of the file system is coarse
        path.write_text("11.0.0.0/8\n")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (state.st_mtime_ns, state.st_size)
    time.now += 2
    assert not policy.trusts(OLD)


@pytest.mark.parametrize("field", ["st_mtime_ns", "st_ctime_ns", "st_size", "st_ino"])
def test_each_part_of_the_state_tells_a_change(
    path: Path, time: Time, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    state = {"st_mode": 0o100644, "st_mtime_ns": 1, "st_ctime_ns": 1, "st_size": 1, "st_ino": 1}
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(**state))
    policy = TrustedProxiesFile(path, clock=time)
    path.write_text("192.0.2.0/24\n")
    time.now += 2
    assert not policy.trusts(NEW)
    state[field] += 1
    time.now += 2
    assert policy.trusts(NEW)


def test_a_byte_order_mark_is_no_part_of_the_first_network(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf10.0.0.0/8\r\n::1\r\n")
    assert TrustedProxiesFile(path).networks == ("10.0.0.0/8", "::1")


def test_a_file_is_bounded(path: Path, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    policy = TrustedProxiesFile(path, clock=time)
    path.write_bytes(b"10.0.0.0/8\n".ljust((1 << 20) + 1, b"#"))
    time.now += 2
    assert policy.trusts(("10.9.9.9", 1)) is False
    assert policy.trusts(OLD)
    assert caplog.messages == [
        f"The list of trusted proxies stays as it was: {path}: the file has more than 1,048,576 bytes"
    ]
    path.write_bytes(b"10.0.0.0/8\n".ljust(1 << 20, b"#"))
    assert TrustedProxiesFile(path).networks == ("10.0.0.0/8",)


def test_a_long_line_is_quoted_in_part(path: Path) -> None:
    path.write_text("10.0.0.0/8\n" + "x" * 100_000)
    with pytest.raises(ValueError, match=rf"^{path}, line 2: .{{1,300}}$"):
        TrustedProxiesFile(path)


def test_each_line_is_parsed_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def parse(text: str) -> Any:
        parsed.append(text)
        return parse_network(text)

    monkeypatch.setattr("proxyprotocol.policy.parse_network", parse)
    TrustedProxiesFile(path)
    assert parsed == ["10.0.0.0/8", "!10.9.0.0/16"]


def test_a_wrong_keyword_is_not_an_error_of_the_file(path: Path) -> None:
    with pytest.raises(ValueError, match=r"^trusted must be"):
        TrustedProxiesFile(path, trusted=HeaderPolicy.SKIP)


def test_an_error_of_the_whole_file_names_the_file(path: Path) -> None:
    path.write_text("!10.0.0.0/8\n")
    with pytest.raises(ValueError, match=rf"^{path}: Nothing is trusted: !10\.0\.0\.0/8 only excludes networks$"):
        TrustedProxiesFile(path)


def test_a_file_in_a_list_is_an_error_in_the_user_s_spelling(path: Path) -> None:
    for trusted in (f"10.0.0.0/8,@{path}", f"::1, @{path}"):
        with pytest.raises(
            ValueError, match=r"^PROXYPROTOCOL_TRUSTED: a list in a file stands alone, as PROXYPROTOCOL_TRUSTED=@FILE"
        ):
            parse_receiver({"trusted": trusted}, spell_variable)
    other = path.with_name("a@b")
    path.rename(other)
    assert isinstance(parse_receiver({"trusted": f"@{other}"}).policy, TrustedProxiesFile)
