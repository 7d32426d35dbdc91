"""`proxyprotocol decode` of what is still being written, and its interruption."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from tests.cli.commands import run

if sys.platform != "win32":
    import fcntl
    import termios

PATIENCE = 20.0  # seconds; every wait takes a fraction of one, unless the machine is very busy
CAPTURE = Path(__file__).parent.parent / "captures" / "ethernet.pcap"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"


@contextlib.contextmanager
def decoding(*options: str, before: Callable[[], object] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run `decode` with pipes for its standard streams."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "proxyprotocol", "decode", *options]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=before) as process:
        try:
            yield process
        finally:
            process.kill()


def write(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def interrupted(process: subprocess.Popen[bytes], rest: bytes = b"") -> tuple[bytes, bytes]:
    """Interrupt the process, close its input after *rest*, and return the rest of its output."""
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(rest or None, timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGINT
    return output, errors


def wait_until_reading(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has done its imports, and has read all that was written."""
    deadline = time.monotonic() + PATIENCE
    assert process.stdin is not None
    unread = b"...."
    while any(unread) or "pipe_read" not in Path(f"/proc/{process.pid}/wchan").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
        unread = fcntl.ioctl(process.stdin, termios.FIONREAD, b"....")


def test_a_read_that_is_interrupted_ends_quietly() -> None:
    with decoding() as process:
        wait_until_reading(process)
        assert interrupted(process) == (b"", b"")


def test_a_header_from_a_capture_is_shown_before_the_capture_ends() -> None:
    capture = CAPTURE.read_bytes()
    with decoding("--json") as process:
        assert process.stdout is not None
        for at in range(0, len(capture), 100):
            write(process, capture[at : at + 100])
        found = [json.loads(process.stdout.readline()) for _ in range(2)]  # the pipe is open, more may come
        assert [each["version"] for each in found] == [2, 1]
        assert process.poll() is None
        assert process.communicate(timeout=PATIENCE) == (b"", b"")
        assert process.returncode == 0


def test_the_text_of_a_header_is_shown_at_once_too() -> None:
    capture = CAPTURE.read_bytes()
    with decoding() as process:
        assert process.stdout is not None
        write(process, capture)
        assert process.stdout.readline().startswith(b"Packet 4, TCP from 127.0.0.1:")


def test_an_interruption_shows_the_header_that_the_capture_cuts() -> None:
    packets = [Ether() / IP() / TCP(flags="S", seq=7), Ether() / IP() / TCP(flags="A", seq=8) / Raw(LINE[:20])]
    with tempfile.NamedTemporaryFile() as file, decoding("--json") as process:
        wrpcap(file.name, packets)
        write(process, Path(file.name).read_bytes())
        wait_until_reading(process)
        output, errors = interrupted(process)
    assert (json.loads(output)["error"]["kind"], errors) == ("ProxyProtocolIncompleteError", b"")


def test_an_interruption_shows_the_bytes_that_have_come() -> None:
    with decoding("--json") as process:
        write(process, LINE + b"GET")
        wait_until_reading(process)
        output, errors = interrupted(process)
    assert (json.loads(output)["following"], errors) == (3, b"")


def test_what_comes_right_after_an_interruption_is_read() -> None:
    # tcpdump without -U writes its packets when the same Ctrl-C ends it
    with decoding("--json") as process:
        write(process, CAPTURE.read_bytes()[:24])
        wait_until_reading(process)
        output, errors = interrupted(process, CAPTURE.read_bytes()[24:])
    assert (len(output.splitlines()), errors) == (2, b"")


@pytest.mark.parametrize("times", [1, 2])
def test_an_input_that_does_not_end_cannot_hold_an_interruption_up(times: int) -> None:
    with decoding("--json") as process:
        write(process, LINE)
        wait_until_reading(process)
        began = time.monotonic()
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert process.wait(PATIENCE) == 128 + signal.SIGINT
        assert (time.monotonic() - began > 1) == (times == 1)
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["ok"]


def test_a_background_job_ignores_the_interruption() -> None:
    # which a shell without job control makes of `decode &`
    with decoding("--json", before=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) as process:
        write(process, LINE)
        wait_until_reading(process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(b"GET", timeout=PATIENCE)
    assert (process.returncode, json.loads(output)["following"], errors) == (0, 3, b"")


def test_a_thread_may_run_the_command() -> None:
    with ThreadPoolExecutor() as threads:
        assert threads.submit(run, "decode", "--json", str(CAPTURE)).result(PATIENCE).status == 0
