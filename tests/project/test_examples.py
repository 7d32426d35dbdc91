"""Runs the README's code and the examples, with a client that plays the proxy."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from itertools import islice
from pathlib import Path
from typing import IO

import pytest

from proxyprotocol import ProxyProtocolV2, ProxyResultIPv4
from proxyprotocol.tlv import ProxyProtocolTLV

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
_RUN, TWISTD, UVICORN, COMMANDS = SHELL
HEADER = b"PROXY TCP4 203.0.113.7 198.51.100.9 56324 443\r\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def free_port() -> int:
    """Return a free port; the next one is free too."""
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port


@contextmanager
def running(command: list[str], **options: object) -> Iterator[IO[str]]:
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        bufsize=1,
        **options,  # type: ignore[call-overload]
    ) as process:
        try:
            yield process.stdout
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def connect(port: int) -> socket.socket:
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 10)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # the server is another process, which is only starting


def exchange(port: int, data: bytes, until: bytes = b"") -> bytes:
    """Send *data*, and receive until the answer ends with *until* or the server closes."""
    with connect(port) as client:
        client.sendall(data)
        answer = b""
        while not (until and answer.endswith(until)) and (more := client.recv(4096)):
            answer += more
        return answer


def test_the_readmes_examples_are_short() -> None:
    assert all(len(block.splitlines()) <= 20 for block in [*SHELL, *blocks("python")])


@pytest.mark.parametrize("block", blocks("python"), ids=["twisted", "asyncio"])
def test_the_readmes_servers_see_the_client(block: str) -> None:
    port = free_port()
    with running([sys.executable, "-c", block.replace("8080", str(port))]) as output:
        assert exchange(port, HEADER) == b""
        assert any("203.0.113.7" in line and "56324" in line for line in output)


@pytest.mark.parametrize("block", blocks("python"), ids=["twisted", "asyncio"])
def test_the_readmes_servers_show_what_they_refuse(block: str) -> None:
    port = free_port()
    with running([sys.executable, "-c", block.replace("8080", str(port))]) as output:
        with suppress(ConnectionResetError):
            assert exchange(port, b"GET / HTTP/1.0\r\n\r\n") == b""
        assert any(
            "Refused a connection from 127.0.0.1:" in line and "no PROXY protocol header" in line for line in output
        )


def test_the_readmes_command_serves_files_and_logs_the_client() -> None:
    port = free_port()
    arguments = TWISTD.replace("8080", f"{port}:interface=127.0.0.1").split()
    assert arguments.pop(0) == "twistd"
    with running([sys.executable, "-m", "twisted", *arguments[1:]]) as output:
        assert b"proxyprotocol" in exchange(port, HEADER + b"GET /README.md HTTP/1.0\r\n\r\n")
        assert any("203.0.113.7" in line for line in output)


APP = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(scope["client"]).encode()})
"""


def test_the_readmes_uvicorn_tells_its_application_who_the_client_is(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    variable, command, *arguments = UVICORN.split()
    assert command == "uvicorn"
    arguments += ["--lifespan", "off", "--port", str(port), "--app-dir", str(tmp_path)]
    name, _, value = variable.partition("=")
    with running([sys.executable, "-m", "uvicorn", *arguments], env={**os.environ, name: value}):
        answer = exchange(port, HEADER + b"GET / HTTP/1.0\r\n\r\n")
    assert b"('203.0.113.7', 56324)" in answer


def run_command(command: str, data: bytes = b"") -> bytes:
    """Run one command of a pipeline in the README, and return its output."""
    name, *arguments = command.partition("#")[0].split()
    assert name == "proxyprotocol"
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments], input=data, capture_output=True, cwd=ROOT, timeout=60, check=True
    )
    return done.stdout


def test_the_readmes_commands_encode_decode_and_check() -> None:
    encode, decode, check = COMMANDS.splitlines()
    header = run_command(encode.partition("|")[0])
    assert b"203.0.113.7:5678" in run_command(decode.partition("|")[2], header)
    port = free_port()
    with running([sys.executable, "examples/twisted_echo.py", str(port)]):
        connect(port).close()
        assert b"version 2" in run_command(check.replace("app.example:8080", f"127.0.0.1:{port}"))


@pytest.mark.parametrize("name", ["asyncio_echo.py", "twisted_echo.py"])
def test_an_example_echoes_and_says_who_the_client_is(name: str) -> None:
    with running([sys.executable, f"examples/{name}", "0"]) as output:
        found = (re.search(r"Listening on.*(?:127\.0\.0\.1 |port=)(\d+)", line) for line in output)
        match = next(filter(None, found))
        assert exchange(int(match[1]), HEADER + b"hello\n", b"\n") == b"hello\n"


def test_the_client_example_gets_a_page_for_another_client() -> None:
    port = free_port()
    listen = ["--listen", f"proxyprotocol:tcp:{port}:interface=127.0.0.1", "--path", "."]
    named = r"ppSource=203.0.113.7\:5678:ppDest=198.51.100.9\:443"
    endpoint = f"proxyprotocol:tcp:127.0.0.1:{port}:{named}"
    with running([sys.executable, "-m", "twisted", "web", *listen]) as output:
        connect(port).close()  # it listens now
        done = subprocess.run(
            [sys.executable, "examples/treq_client.py", endpoint, "http://app.example/LICENSE"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
        assert done.stdout == f"200 {(ROOT / 'LICENSE').read_text('utf-8')}\n", done.stderr
        assert any("203.0.113.7" in line for line in output)


def test_the_checked_server_accepts_only_its_own_endpoint_and_counts() -> None:
    port = free_port()
    ours, other = (
        ProxyProtocolV2().pack(
            ProxyResultIPv4(
                (IPv4Address("203.0.113.7"), 5678),
                (IPv4Address("198.51.100.9"), 443),
                tlv=ProxyProtocolTLV(aws_vpce_id=name),
            )
        )
        for name in ("vpce-08d2bf15fac5001c9", "vpce-0")
    )
    with running([sys.executable, "examples/checked_server.py", str(port)]) as output:
        assert exchange(port, ours) == b""
        with suppress(ConnectionResetError):
            assert exchange(port, other) == b""
        page = exchange(port + 1, b"GET /metrics HTTP/1.0\r\n\r\n").decode()
        listener = f'listener="127.0.0.1:{port}"'
        assert f'proxyprotocol_headers_received_total{{{listener},version="v2"}} 1.0' in page
        assert f'proxyprotocol_refusals_total{{{listener},reason="invalid"}} 1.0' in page
        lines = [line.strip() for line in islice(output, 3)]
        assert lines[:2] == ["client 203.0.113.7 5678", "refused invalid"]
        assert "rejected the header; see validate" in lines[2]


def test_a_json_log_has_the_fields_of_a_refusal() -> None:
    port = free_port()
    with running([sys.executable, "examples/json_logging.py", str(port)]) as output:
        with suppress(ConnectionResetError):
            assert exchange(port, b"GET / HTTP/1.0\r\n\r\n") == b""
        start, refusal = (json.loads(line) for line in islice(output, 2))
    assert start["listener"] == refusal["listener"] == f"127.0.0.1:{port}"
    assert (refusal["levelname"], refusal["reason"]) == ("WARNING", "no_header")
    assert refusal["network_peer_address"] == "127.0.0.1"


def test_twisteds_json_log_has_the_fields_of_a_refusal() -> None:
    port = free_port()
    listen = ["--listen", f"proxyprotocol:tcp:{port}:interface=127.0.0.1:ppTrusted=127.0.0.1", "--path", "."]
    options = ["-n", "--pidfile=", "--logger=json_logging_twisted.observer", "web", *listen]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "examples")}
    twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", *options]
    with running(twistd, env=environment) as output:
        with suppress(ConnectionResetError):
            assert exchange(port, b"GET / HTTP/1.0\r\n\r\n") == b""
        events = (json.loads(line.lstrip("\x1e")) for line in output)
        refusal = next(event for event in events if event.get("reason") == "no_header")
    assert refusal["listener"] == f"127.0.0.1:{port}"
    assert refusal["network_peer_address"] == "127.0.0.1"


@pytest.mark.parametrize("name", ["http_client.py", "urllib3_client.py"])
def test_a_blocking_client_gets_a_page_for_another_client_from_the_blocking_server(name: str) -> None:
    with running([sys.executable, "examples/http_server.py", "0"]) as output:
        match = re.fullmatch(r"Listening on 127\.0\.0\.1 (\d+)\n", output.readline())
        assert match is not None
        done = subprocess.run(
            [sys.executable, f"examples/{name}", f"http://127.0.0.1:{match[1]}/LICENSE"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
        assert done.stdout == f"200 {(ROOT / 'LICENSE').read_text('utf-8')}\n", done.stderr
        assert output.readline().startswith("203.0.113.7 - - [")


@pytest.mark.parametrize(("variables", "lines"), [((), range(10, 14)), (("VERBOSE=1",), range(40, 60))])
def test_make_demo_tells_the_story(variables: tuple[str, ...], lines: range) -> None:
    virtual = Path(sys.prefix)
    command = ["make", "--silent", f"VENV={virtual}", "-o", str(virtual / ".installed"), "demo", *variables]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) in lines
    story = re.findall("^(Before|After|A forger|  Refused|Next)", done.stdout, re.MULTILINE)
    assert story == ["Before", "After", "A forger", "  Refused", "Next"]


def test_the_demonstration_shows_what_each_server_saw_of_each_version() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "examples/demo.py", "--verbose"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    # asyncio's debug mode reports each step of more than 0.1 s, which happens on a busy machine
    assert re.sub(r"^Executing <.*> took \d+\.\d+ seconds\n", "", done.stderr, flags=re.MULTILINE) == ""
    assert done.stdout.count("203.0.113.7:56324 -> 198.51.100.9:443") == 6
    assert done.stdout.count("AUTHORITY app.example.com") == 2
    assert done.stdout.count(r"b'hello\n'") == 8  # two without a header
    assert "Refused a connection" in done.stdout


def test_the_demonstration_can_leave_its_servers_running() -> None:
    sent = HEADER.replace(b"56324", b"56325") + b"hello\n"
    with running([sys.executable, "-u", "examples/demo.py", "--keep"]) as output:
        shown = iter(output)
        found = (re.search(r"nc -w 2 127\.0\.0\.1 (\d+)", line) for line in shown)
        ports = [int(match[1]) for match in islice(filter(None, found), 2)]
        assert [exchange(port, sent, b"\n") for port in ports] == [b"hello\n"] * 2
        assert ["203.0.113.7:56325" in next(shown) for _ in ports] == [True, True]
