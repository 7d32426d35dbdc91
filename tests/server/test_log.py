"""What the relay says: at its start, about each refusal, and about ten thousand of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from proxyprotocol import ProxyProtocolV2
from proxyprotocol.errors import RefusalCode
from proxyprotocol.server._relay.metrics import REFUSALS  # the counters have no public names
from proxyprotocol.server._relay.options import parse_source
from tests.interop._programs import wait_for
from tests.server.programs import Starter
from tests.server.relays import Relaying, Running, lines
from tests.server.test_header import VECTORS, closed, result

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
V2 = ProxyProtocolV2(checksum=False).pack(result(VECTORS))


def name(running: Running) -> str:
    return "{}:{}".format(*running.address)


@pytest.mark.parametrize(
    ("options", "level", "before", "after"),
    [
        ("", "INFO", "Reads no PROXY protocol headers on ", ""),
        ("?pp=noop", "INFO", "Reads no PROXY protocol headers on ", ""),
        ("?accept=noop", "INFO", "Reads no PROXY protocol headers on ", ""),
        (
            "?accept=detect&trusted=10.0.0.0/8,!10.9.0.0/16,unix",
            "INFO",
            "Reads version 1 and 2 headers on ",
            " from 10.0.0.0/8, !10.9.0.0/16, unix",
        ),
        (
            "?pp=v1&trusted=10.0.0.0/8&untrusted=direct",
            "INFO",
            "Reads version 1 headers on ",
            " from 10.0.0.0/8, and serves all others without a header",
        ),
        ("?accept=v2&trusted=any", "INFO", "Reads version 2 headers on ", " from everybody, as trusted says"),
        (
            "?accept=v2",
            "WARNING",
            "Reads version 2 headers on ",
            " from everybody: anyone who can connect can claim any address; name your proxies with trusted=..., or say "
            "trusted=any",
        ),
    ],
)
def test_the_start_line_says_what_is_read_from_whom(
    relaying: Relaying, caplog: pytest.LogCaptureFixture, options: str, level: str, before: str, after: str
) -> None:
    running = relaying.relay("127.0.0.1:1", f"127.0.0.1:0{options}")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("INFO", f"Listening on {name(running)} for 127.0.0.1:1"),
        (level, f"{before}{name(running)}{after}"),
    ]


@pytest.mark.parametrize(
    ("options", "data", "reason"),
    [
        (
            "accept=detect",
            b"GET / HTTP/1.0\r\n",
            "There is no PROXY protocol header: the data begins with b'GET / HTTP/1.0\\r\\n' (at byte 0); if 127.0.0.1 "
            "is your proxy, make it send the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on); see policy",
        ),
        ("accept=v1", V2, "A version 2 header came, but only version 1 is accepted here (at byte 0); see accept"),
        ("pp=v2", LINE, "A version 1 header came, but only version 2 is accepted here (at byte 0); see pp"),
        (
            "accept=v2&max_header=30",
            V2,
            "The header has 58 bytes where max_header allows 30 (at byte 14); see max_header",
        ),
        (
            "accept=v1&timeout=0.1",
            b"PROXY",
            "No complete PROXY protocol header came within 0.1 seconds, only 5 bytes; see timeout",
        ),
        (
            "accept=v1&trusted=127.0.0.0/8,!127.0.0.1",
            b"",
            "The peer is not one of the trusted proxies; if it is your proxy, add it to trusted",
        ),
    ],
)
def test_a_refusal_names_the_listener_the_peer_and_the_option(
    relaying: Relaying, caplog: pytest.LogCaptureFixture, options: str, data: bytes, reason: str
) -> None:
    running = relaying.relay("127.0.0.1:1", f"127.0.0.1:0?{options}")
    client = relaying.keep(running.connect_and_send(data))
    peer = "{}:{}".format(*client.getsockname())
    assert closed(client)
    assert lines(caplog) == [f"Refused a connection from {peer} on {name(running)}: {reason}"]
    record = caplog.records[-1]
    assert vars(record)["listener"] == name(running)
    assert (vars(record)["network_peer_address"], vars(record)["network_peer_port"]) == client.getsockname()


@pytest.mark.parametrize("second", [LINE, V2])
def test_a_second_header_is_relayed_with_a_warning(
    relaying: Relaying, caplog: pytest.LogCaptureFixture, second: bytes
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, "127.0.0.1:0?accept=detect&trusted=127.0.0.1")
    client = relaying.keep(running.connect_and_send(LINE + second))
    assert backend.accept().first == second
    peer = "{}:{}".format(*client.getsockname())
    assert lines(caplog)[0] == (
        f"A second PROXY protocol header follows the first from {peer} on {name(running)}, and the application gets "
        "it as data: probably two proxies in a chain send one each; let only one of them do it"
    )


@pytest.mark.parametrize(("options", "reason"), [("?accept=v1&trusted=192.0.2.1", "untrusted"), ("", "destination")])
def test_many_refused_connections_leave_a_short_log(
    relaying: Relaying, caplog: pytest.LogCaptureFixture, options: str, reason: str
) -> None:
    """Ten lines a second, and one that counts the others; no refusal is lost, even if the relay ends."""
    nowhere = relaying.backend()
    nowhere.sock.close()
    running = relaying.relay(nowhere.address, f"127.0.0.1:0{options}")
    count, begun = 300, time.monotonic()
    for _ in range(count):
        with running.connect() as client:
            assert closed(client)
    running.wait_until_empty()
    running.call(running.relay.close)
    seconds = int(time.monotonic() - begun) + 2
    told = lines(caplog)
    summaries = [line for line in told if " more connections within a second " in line]
    assert len(summaries) <= seconds
    assert len(told) - len(summaries) <= 10 * seconds
    hidden = [line.removeprefix("Refused ").partition(" ")[0] for line in summaries]
    where = f"more connections within a second on {name(running)}"
    assert summaries == [f"Refused {number} {where}: {number} {reason}" for number in hidden]
    assert len(told) - len(summaries) + sum(map(int, hidden)) == count


def test_what_waits_for_its_header_when_the_relay_ends_leaves_a_short_log_too(
    relaying: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    running = relaying.relay("127.0.0.1:1", "127.0.0.1:0?accept=v1&trusted=any")
    for _ in range(30):
        relaying.keep(running.connect())
    wait_for(lambda: running.open == 30)
    running.call(running.relay.close)
    told = lines(caplog)
    assert len(told) == 11
    assert told[0].endswith(": the relay ends")
    assert told[-1] == f"Refused 20 more connections within a second on {name(running)}: 20 closed"
    assert running.call(lambda: running.values[REFUSALS[RefusalCode.CLOSED]]) == 30


def test_the_list_of_proxies_in_a_file_may_change_while_the_relay_runs(start: Starter, tmp_path: Path) -> None:
    file, new = tmp_path / "a list", tmp_path / "new"
    file.write_text("# our proxies\n192.0.2.0/24\n")
    server = start("--workers", "2", source=f"127.0.0.1:0?accept=v1&trusted=@{file}")
    server.wait_for_line(r"Reads version 1 headers on \S+ from 192.0.2.0/24\n", 2)

    def trusts() -> bool:
        with server.connect() as client:
            client.sendall(LINE + b"hello")
            client.settimeout(0.2)
            try:
                return client.recv(1) != b""
            except TimeoutError:
                return True
            except ConnectionResetError:
                return False

    assert not trusts()
    new.write_text("192.0.2.0/24\n127.0.0.0/8\n")
    os.replace(new, file)
    # of two workers, each looks at the file when a connection comes
    wait_for(lambda: trusts() and server.log.count("have changed: 192.0.2.0/24, 127.0.0.0/8") == 2)
    new.write_text("127.0.0.1/8\n")
    os.replace(new, file)
    wait_for(lambda: trusts() and "The list of trusted proxies stays as it was: " in server.log)
    assert f"{file}, line 1: " in server.log
    assert "did you mean 127.0.0.0/8?" in server.log
    start.end_others()
    assert server.end() == 0


def test_a_path_in_an_address_may_be_quoted_as_in_a_url(tmp_path: Path) -> None:
    file = tmp_path / "a&b+c#d%"
    file.write_text("192.0.2.0/24")
    quoted = str(file).replace("%", "%25").replace("&", "%26").replace("+", "%2B").replace("#", "%23")
    for address in ("127.0.0.1:0", "unix:/run/x", "[::1]:0"):
        policy = parse_source(f"{address}?accept=v1&trusted=@{quoted}").receiver.policy
        assert getattr(policy, "networks", None) == ("192.0.2.0/24",)
