"""Datagrams on asyncio and uvloop: policies, and refused datagrams."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy, TrustedProxies
from proxyprotocol.result import describe_address
from proxyprotocol.typing import SockAddr
from tests.core.test_fuzz import mutated
from tests.on_asyncio.datagrams import CLIENT, HEADER, App, keep_quiet, listening, peer_of
from tests.on_asyncio.loops import Log, Run, until
from tests.on_asyncio.test_datagram import bound
from tests.vectors import SIGNATURE, VERSION_1

pytestmark = pytest.mark.usefixtures("log")


def test_a_datagram_without_a_header_is_dropped_and_logged(run: Run, log: Log) -> None:
    async def story() -> None:
        app = App()
        async with listening(app) as here:
            with peer_of(here) as proxy:
                proxy.send(b"\x1b[2J\n")
                await proxy.ask(HEADER + b"a")
                number = proxy.sock.getsockname()[1]
        assert app.datagrams == [(b"a", CLIENT)]
        assert log.lines == [
            (
                "WARNING",
                f"Refused a datagram from 127.0.0.1:{number} on {describe_address(here)}: There is no PROXY protocol "
                "header: the data begins with b'\\x1b[2J\\n' (at byte 0); if 127.0.0.1 is your proxy, make it send "
                "the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on); see policy",
            )
        ]

    run(story)


def test_a_flood_does_not_fill_the_log(run: Run, log: Log) -> None:
    async def story() -> None:
        async with listening(App()) as here:
            with peer_of(here) as proxy:
                for _ in range(50):
                    proxy.send(b"flood")
                await proxy.ask(HEADER + b"a")
        # ten lines and a summary a second
        lines = [line for _, line in log.lines]
        more = [
            re.fullmatch(rf"Refused (\d+) more datagrams within a second on {describe_address(here)}: .*", x)
            for x in lines
        ]
        hidden = [int(match[1]) for match in more if match]
        assert sum(hidden) + len(lines) - len(hidden) == 50
        assert len(lines) <= 11 * len(hidden) < 50

    run(story)


def test_senders_that_are_not_trusted_are_refused(run: Run, log: Log) -> None:
    async def story() -> None:
        app = App()
        async with listening(app, policy=TrustedProxies(["127.0.0.2"])) as here:
            with peer_of(here) as stranger, peer_of(here, ("127.0.0.2", 0)) as proxy:
                stranger.send(HEADER + b"lie")
                assert await proxy.ask(HEADER + b"truth") == [b"re: truth"]
        assert app.datagrams == [(b"truth", CLIENT)]
        ((level, line),) = log.lines
        assert level == "WARNING"
        assert line.endswith(": The peer is not one of the trusted proxies; if it is your proxy, add it to trusted")

    run(story)


def test_the_log_names_a_refused_unix_peer_by_its_path_or_as_unnamed(run: Run, log: Log, short_path: Path) -> None:
    async def story() -> None:
        app = App()
        policy = TrustedProxies(["0.0.0.0/0"])
        async with listening(app, sock=bound(str(short_path / "app")), policy=policy) as here:
            with peer_of(here) as nameless:
                nameless.send(HEADER)
                await until(lambda: log.lines)
        assert app.datagrams == []
        ((_, line),) = log.lines
        where = f"UNIX socket '{short_path / 'app'}'"
        assert line.startswith(f"Refused a datagram from an unnamed UNIX socket on {where}: ")

    run(story)


def test_the_policy_gets_both_addresses(run: Run) -> None:
    asked: list[tuple[SockAddr, SockAddr]] = []

    def policy(sender: SockAddr, local: SockAddr) -> HeaderPolicy:
        asked.append((sender, local))
        return HeaderPolicy.REQUIRE

    async def story() -> None:
        async with listening(App(), policy=policy) as here:
            with peer_of(here) as proxy:
                await proxy.ask(HEADER + b"a")
                assert asked == [(proxy.sock.getsockname(), here)]

    run(story)


@pytest.mark.parametrize(
    ("policy", "data", "payload", "believed"),
    [
        (HeaderPolicy.OPTIONAL, HEADER + b"a", b"a", True),
        (HeaderPolicy.OPTIONAL, b"plain", b"plain", False),
        (HeaderPolicy.OPTIONAL, VERSION_1[0].header, VERSION_1[0].header, False),
        (HeaderPolicy.IGNORE, HEADER + b"a", b"a", False),
        (HeaderPolicy.SKIP, HEADER + b"a", HEADER + b"a", False),
    ],
)
def test_each_policy_gives_its_client_and_payload(
    run: Run, policy: HeaderPolicy, data: bytes, payload: bytes, believed: bool
) -> None:
    async def story() -> None:
        app = App()
        async with listening(app, policy=policy) as here:
            with peer_of(here) as sender:
                assert await sender.ask(data) == [b"re: " + payload]
                assert app.datagrams == [(payload, CLIENT if believed else sender.sock.getsockname())]
        assert (app.results == [None]) is (payload == data)

    run(story)


def test_any_bad_datagram_causes_only_a_log_line(run: Run, log: Log) -> None:
    async def story() -> None:
        app, random, accepted = App(keep_quiet), Random(0), 0
        async with listening(app) as here:
            with peer_of(here) as sender:
                for count in range(300):
                    sender.send(mutated(random)[:60000], HEADER + b"%d" % count)
                    # wait for each, or the socket's buffer would fill up
                    await until(lambda count=count: app.datagrams[-1:] == [(b"%d" % count, CLIENT)])  # type: ignore[misc]
                    accepted += len(app.datagrams) - 1
                    app.datagrams.clear()
        assert 30 < accepted < 240
        assert app.errors == []
        assert {level for level, _ in log.lines} == {"WARNING"}

    run(story)


def test_a_policy_that_raises_drops_the_datagram_and_is_logged(run: Run, log: Log) -> None:
    def policy(sender: SockAddr, local: SockAddr) -> HeaderPolicy:
        if log.lines:
            return HeaderPolicy.REQUIRE
        raise ZeroDivisionError("the policy's")

    async def story() -> None:
        app = App()
        async with listening(app, policy=policy) as here:
            with peer_of(here) as proxy:
                proxy.send(HEADER + b"dropped")
                await until(lambda: log.lines)
                await proxy.ask(HEADER + b"a")
        assert app.datagrams == [(b"a", CLIENT)]
        assert len(log.take_tracebacks()) == 1

    run(story)


@pytest.mark.parametrize("data", [b"", SIGNATURE, HEADER[:-1]], ids=["nothing", "signature", "cut"])
def test_a_cut_header_in_a_datagram_is_refused(run: Run, log: Log, data: bytes) -> None:
    async def story() -> None:
        app: Any = App()
        policy = HeaderPolicy.OPTIONAL if data else HeaderPolicy.REQUIRE
        async with listening(app, policy=policy) as here:
            with peer_of(here) as proxy:
                proxy.send(data)
                await until(lambda: log.lines)
        assert app.datagrams == []
        assert [f"The datagram has {len(data)} bytes" in line for _, line in log.lines] == [True]

    run(story)


def test_a_second_header_in_a_datagram_is_warned_of(run: Run, log: Log) -> None:
    async def story() -> None:
        app = App()
        async with listening(app, trusted="any") as here:
            with peer_of(here) as proxy:
                await proxy.ask(HEADER + HEADER + b"a")
                number = proxy.sock.getsockname()[1]
        assert app.datagrams == [(HEADER + b"a", CLIENT)]
        ((level, line),) = log.lines
        where = f"from 127.0.0.1:{number} on {describe_address(here)}"
        assert level == "WARNING"
        assert line.startswith(f"A second PROXY protocol header follows the first {where}, and the application gets it")

    run(story)
