"""The log of servers of the standard library: their start line, and the bound on the lines about refusals."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol import Receiver, TrustedProxies
from proxyprotocol.result import describe_address
from proxyprotocol.sync import ProxyProtocolMixIn
from tests.interop._programs import Program, connect, wait_for
from tests.sockets.servers import PATIENCE
from tests.sockets.test_sync_socketserver import FORKING, Handler, ask, read_all, refusals, serving


@pytest.mark.parametrize(
    ("receiver", "level", "line"),
    [
        (Receiver(trusted=["10.0.0.0/8", "!10.9.0.0/16"]), "INFO", "from 10.0.0.0/8, !10.9.0.0/16"),
        (Receiver(trusted="any"), "INFO", "from everybody, as trusted says"),
        (
            Receiver(),
            "WARNING",
            "from everybody: anyone who can connect can claim any address; name your proxies with trusted=..., or say "
            'trusted="any" (in the class of the server: receiver = Receiver(trusted=...))',
        ),
    ],
)
def test_the_start_line_says_who_is_trusted(
    caplog: pytest.LogCaptureFixture, receiver: Receiver, level: str, line: str
) -> None:
    caplog.set_level(logging.INFO)
    with serving(receiver=receiver) as server:
        where = f"127.0.0.1:{server.address[1]}"
    ((*_, message),) = {(record.levelname, record.getMessage()) for record in caplog.records}
    assert (caplog.records[0].levelname, message) == (level, f"Reads version 1 and 2 headers on {where} {line}")


def test_a_receiver_that_is_set_before_the_server_listens_counts(caplog: pytest.LogCaptureFixture) -> None:
    class Later(ProxyProtocolMixIn, socketserver.TCPServer):
        pass

    caplog.set_level(logging.INFO)
    with Later(("127.0.0.1", 0), Handler, bind_and_activate=False) as server:
        server.receiver = Receiver(trusted=["192.0.2.0/24"])
        server.server_bind()
        server.server_activate()
        assert isinstance(server.receiver.effective_policy, TrustedProxies)
    assert caplog.messages == [
        f"Reads version 1 and 2 headers on 127.0.0.1:{server.server_address[1]} from 192.0.2.0/24"
    ]


def test_many_bad_connections_leave_a_short_log(caplog: pytest.LogCaptureFixture) -> None:
    """Ten lines a second, and one that counts the others; no refusal is lost."""
    count = 400
    begun = time.monotonic()
    with serving(family="UNIX") as server:
        for _ in range(count):
            assert ask(server.address, b"GET / HTTP/1.1\r\n") == b""
    seconds = int(time.monotonic() - begun) + 1
    lines = refusals(caplog)
    single = [line for line in lines if line.startswith("Refused a connection from ")]
    summaries = [line for line in lines if line not in single]
    assert len(single) <= 10 * (seconds + 1)
    assert len(summaries) <= seconds + 1
    counts = []
    for line in summaries:
        text, _, reasons = line.rpartition(": ")
        assert text.startswith("Refused ")
        assert text.endswith(f" more connections within a second on UNIX socket {server.server_address!r}")
        number, _, reason = reasons.partition(" ")
        assert reason == "no_header"
        counts.append(int(number.replace(",", "")))
    assert len(single) + sum(counts) == count


def test_a_child_process_logs_its_refusal_even_if_the_parent_has_refused_many(tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", FORKING], tmp_path)
    try:
        address = ("127.0.0.1", int(program.line()))
        for _ in range(50):
            with socket.create_connection(address, PATIENCE, ("127.0.0.9", 0)) as untrusted:
                read_all(untrusted)
        with connect(address) as wrong:
            wrong.sendall(b"GET / HTTP/1.1\r\n")
            assert read_all(wrong) == b""
    finally:
        log = program.stop()
    assert 10 <= log.count("The peer is not one of the trusted proxies") < 50
    assert log.count("There is no PROXY protocol header") == 1


def test_the_mix_in_must_come_first() -> None:
    with pytest.raises(TypeError, match="ProxyProtocolMixIn must come first"):
        type("Server", (socketserver.TCPServer, ProxyProtocolMixIn), {})


def test_a_second_header_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    header = b"PROXY TCP4 203.0.113.7 198.51.100.9 5678 443\r\n"
    with serving(receiver=Receiver(trusted="any")) as server:
        ask(server.address, header + header)
        where = describe_address(server.server_address)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith("A second PROXY protocol header follows the first from 127.0.0.1:")
    assert f" on {where}, and the application gets it as data" in lines[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("trusted", ["10.0.0.0/8"]), ("policy", TrustedProxies(["::1"])), ("receivr", Receiver(trusted=["10.0.0.0/8"]))],
)
def test_a_class_attribute_that_would_not_be_used_is_an_error(name: str, value: object) -> None:
    message = rf"Open\.{name} has no effect: write receiver = Receiver\(trusted=\.\.\.\)"
    with pytest.raises(TypeError, match=message):
        type("Open", (ProxyProtocolMixIn, socketserver.TCPServer), {name: value})


def test_the_time_out_of_socketserver_may_be_set() -> None:
    class Timed(ProxyProtocolMixIn, socketserver.TCPServer):
        timeout = 5

    assert Timed.timeout == 5


# pytest's hook of threading shows a SystemExit, which Python's own ignores
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("hook", "raised"), [("validate", SystemExit), ("validate", GeneratorExit), ("policy", GeneratorExit)]
)
def test_a_hook_that_ends_its_thread_costs_only_its_connection_and_is_logged(
    caplog: pytest.LogCaptureFixture, hook: str, raised: type[BaseException]
) -> None:
    def leave(*arguments: object) -> bool:
        calls.append(arguments)
        raise raised

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.exc_info]

    calls: list[object] = []
    rules: dict[str, Any] = {hook: leave}
    with serving(receiver=Receiver(**rules)) as server:
        for count in (1, 2):
            assert ask(server.address) == b""
            wait_for(lambda: len(lines()) == count)  # noqa: B023
    assert lines()[0].endswith(f": The server's {hook} function raised {raised()!r}")
    assert len(calls) == 2
