"""The benchmark that compares the relay with HAProxy shows each aim, and whether the relay reaches it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks import relay
from benchmarks.relay import Row, main

from ._programs import find_program

# Loads that are too small to measure anything, but run every part of the benchmark.
LITTLE = ["--samples=1", "--mebibytes=4", "--connections=40", "--idle=100", "--stall=0.1", "--hold=0.1"]
WANTED = [
    "bulk, 4 MiB .* 1.0 of HAProxy's",
    "new connections .* a third of HAProxy's",
    "4 MiB, answer after the half-close +exact +exact .* exact +reached",
    "idle, each of 100 .* under 8 KiB",
    "stalled for 0.1 s, worst of 8 .* under 256 KiB",
    "64 descriptors, 640 clients: served +1[0-9] .* reached",
    "  processor, for 0.1 s .* under 10%",
    "  lines in the log .* at most 2",
    "  serves again after .* under 2 s",
]


def test_one_run_shows_every_aim() -> None:
    find_program("haproxy")
    command = [sys.executable, relay.__file__, *LITTLE]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    for line in WANTED:
        assert re.search(f"^{line}", ran.stdout, re.MULTILINE), f"{line!r} is not in\n{ran.stdout}{ran.stderr}"
    verdicts = re.findall("(reached|short)$", ran.stdout, re.MULTILINE)
    assert len(verdicts) == len(WANTED)
    assert ran.returncode == int("short" in verdicts), ran.stderr


@pytest.mark.parametrize(("reached", "verdict", "status"), [(True, "reached", 0), (None, "", 0), (False, "short", 1)])
def test_its_status_is_1_if_a_row_is_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reached: bool | None, verdict: str, status: int
) -> None:
    rows = [Row("this", "1", "3", 0.333, "more", reached), Row("that", "1", wanted="less", reached=True)]
    monkeypatch.setattr(relay, "measure_all", lambda options: rows)

    assert main([]) == status

    *_, line, last = capsys.readouterr().out.splitlines()
    assert line.split() == f"this 1 3 0.333 more {verdict}".split()
    assert last.split() == ["that", "1", "-", "-", "less", "reached"]
