"""How our loops are set: by keywords, and by the variables for ports and for metrics."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol import Receiver
from proxyprotocol.asyncio import ProxyProtocolServer, new_event_loop, new_uvloop_event_loop
from tests.on_asyncio.loops import CLIENT, HEADER, PATIENCE, App, Apps, Log, Run, connected, place

LOOPS = {"asyncio": new_event_loop, "uvloop": new_uvloop_event_loop}
every_loop = pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


# keywords


@every_loop
def test_keywords_set_a_loop(new_loop: Any, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the environment does not."""
    monkeypatch.setenv("PROXYPROTOCOL_TRUSTED", "192.0.2.1")

    async def story() -> None:
        server: Any = await asyncio.get_running_loop().create_server(App, "127.0.0.1", 0)
        assert log.starts == [("INFO", f"Reads version 1 and 2 headers on {place(server)} from 10.0.0.0/8")]
        server.close()

    Run(lambda: new_loop(trusted=["10.0.0.0/8"]))(story)


@every_loop
def test_a_loop_takes_a_receiver(new_loop: Any, log: Log) -> None:
    async def story() -> None:
        server: Any = await asyncio.get_running_loop().create_server(App, "127.0.0.1", 0)
        assert log.starts == [
            ("INFO", f"Reads version 1 and 2 headers on {place(server)} from everybody, as trusted says")
        ]
        server.close()

    Run(lambda: new_loop(receiver=Receiver(trusted="any"), tls_timeout=None))(story)


@every_loop
@pytest.mark.parametrize(
    ("ports", "covered"),
    [
        (lambda port: [port], True),
        (lambda port: [str(port)], True),
        (lambda port: f"1,{port}", True),
        (lambda port: [1], False),
    ],
)
def test_a_loop_takes_ports(new_loop: Any, free_port: int, ports: Any, covered: bool) -> None:
    async def story() -> None:
        server = await asyncio.get_running_loop().create_server(App, "127.0.0.1", free_port)
        assert isinstance(server, ProxyProtocolServer) is covered
        server.close()

    Run(lambda: new_loop(trusted="any", ports=ports(free_port)))(story)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "trusted": ({"trusted": "10.0.0.1/8"}, ValueError, "did you mean 10.0.0.0/8?"),
    "misspelt": ({"truested": "any"}, TypeError, "unknown keyword truested; did you mean trusted?"),
    "ports misspelt": ({"prots": [80]}, TypeError, "unknown keyword prots; did you mean ports?"),
    "tls_timeout misspelt": ({"tls_timout": 3}, TypeError, "unknown keyword tls_timout; did you mean tls_timeout?"),
    "ports": (
        {"ports": ["http"]},
        ValueError,
        "ports takes port numbers and unix, with commas between them, not 'http'",
    ),
    "one port": ({"ports": 8080}, TypeError, 'ports must be several, such as [8080, "unix"], not 8080'),
    "no ports": ({"ports": []}, ValueError, "ports takes port numbers and unix, with commas between them, not ''"),
    "tls_timeout": ({"tls_timeout": 0}, ValueError, "tls_timeout must be a number of seconds above 0, not 0"),
    "timeout": ({"timeout": "soon"}, TypeError, "timeout must be a number of seconds or None, not 'soon'"),
    "both": ({"receiver": Receiver(), "timeout": 3}, TypeError, "timeout= cannot be given with it"),
}


@every_loop
@pytest.mark.parametrize(("keywords", "kind", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_keyword_raises(new_loop: Any, keywords: Any, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind) as raised:
        new_loop(**keywords)
    assert sentence in str(raised.value)


if sys.version_info >= (3, 11):  # which has asyncio.Runner

    @every_loop
    @pytest.mark.parametrize("keywords", [{}, {"trusted": "any"}], ids=["environment", "keywords"])
    def test_a_runner_takes_the_loop(new_loop: Any, keywords: dict[str, Any]) -> None:
        apps = Apps()

        async def story() -> None:
            server: Any = await asyncio.get_running_loop().create_server(apps, "127.0.0.1", 0)
            async with server, connected(server) as peer:
                await peer.send(HEADER + b"question\n")
                await peer.hear(b"\n")
                assert apps.app.facts.peername == CLIENT
                apps.app.transport.abort()

        factory = functools.partial(new_loop, **keywords) if keywords else new_loop
        library: Any = asyncio  # mypy checks for Python 3.10
        with library.Runner(loop_factory=factory) as runner:
            runner.run(story())


# ports on which nobody listens


class Timers:
    """Takes the timer of a loop that looks at the ports, and lets the test run it."""

    def __init__(self, loop: Any) -> None:
        self.taken: list[Any] = []
        self._call_later = loop.call_later
        loop.call_later = self

    def __call__(self, seconds: float, function: Any, *args: Any, **keywords: Any) -> Any:
        if seconds != 5.0:
            return self._call_later(seconds, function, *args, **keywords)
        self.taken.append(partial(function, *args))
        return None


@every_loop
def test_a_port_on_which_nobody_listens_is_told(
    new_loop: Any, log: Log, free_port: int, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    monkeypatch.setenv("PROXYPROTOCOL_PORTS", f"1,{free_port},unix")
    monkeypatch.setenv("PROXYPROTOCOL_TRUSTED", "any")

    async def story() -> None:
        loop = asyncio.get_running_loop()
        timers = Timers(loop)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            plain = sock.getsockname()[1]
            servers: list[Any] = [
                await loop.create_server(App, "127.0.0.1", free_port),
                await loop.create_server(App, sock=sock),
                await loop.create_unix_server(App, str(short_path / "app")),
            ]
            (check,) = timers.taken
            check()
            for server in servers:
                server.close()
        assert log.lines == [
            (
                "WARNING",
                "PROXYPROTOCOL_PORTS names 1, but this process does not listen there; it listens on "
                f"{' and '.join(sorted([str(plain), str(free_port), 'unix']))}",
            )
        ]

    Run(new_loop)(story)


@every_loop
def test_a_listener_outside_the_ports_says_that_it_reads_no_headers(
    new_loop: Any, caplog: pytest.LogCaptureFixture, free_port: int
) -> None:
    caplog.set_level("INFO", "proxyprotocol")

    async def story() -> None:
        (await asyncio.get_running_loop().create_server(App, "127.0.0.1", free_port)).close()

    Run(lambda: new_loop(trusted="any", ports=[1]))(story)
    assert caplog.messages == [f"Reads no PROXY protocol headers on 127.0.0.1:{free_port}"]


@every_loop
def test_ports_on_which_the_loop_listens_in_any_way_are_not_told(new_loop: Any, log: Log) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        timers = Timers(loop)
        with first, second:
            accepting = asyncio.create_task(loop.sock_accept(first))
            loop.add_reader(second, lambda: None)
            await asyncio.sleep(0)
            loop.remove_reader(second)
            accepting.cancel()
            (check,) = timers.taken
            check()
        assert [line for _, line in log.lines if "names" in line] == []

    first, second = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    first.setblocking(False)
    second.setblocking(False)
    ports = [sock.getsockname()[1] for sock in (first, second)]
    Run(lambda: new_loop(trusted="any", ports=ports))(story)


# metrics


PROGRAM = """
import asyncio, logging, sys
import proxyprotocol.asyncio as p

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
loop = p.new_event_loop()

async def main():
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

loop.run_until_complete(main())
"""


class Worker:
    """A process with a loop of ours, which ends with its standard input."""

    def __init__(self, **variables: str) -> None:
        environment = {**os.environ, "PROXYPROTOCOL_TRUSTED": "any", **variables}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or 0)

    def refuse(self, times: int) -> None:
        """Let the server refuse connections."""
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as client:
                client.sendall(b"?")
                client.recv(1)

    def end(self) -> str:
        """End the process, and return what it said."""
        said = self.process.communicate("", PATIENCE)[1]
        assert self.process.returncode == 0, said
        return said


def scrape(port: int, host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.parametrize(("where", "host"), [("{}", "127.0.0.1"), ("127.0.0.1:{}", "127.0.0.1"), ("[::1]:{}", "[::1]")])
def test_a_variable_serves_metrics(free_port: int, ipv6: None, where: str, host: str) -> None:
    worker = Worker(PROXYPROTOCOL_METRICS=where.format(free_port))
    try:
        worker.refuse(3)
        listener = f'listener="127.0.0.1:{worker.port}"'
        text = scrape(free_port, host)
        assert f"proxyprotocol_connections_total{{{listener}}} 3.0\n" in text
        assert f'proxyprotocol_refusals_total{{{listener},reason="no_header"}} 3.0\n' in text
        assert f"proxyprotocol_pending_headers{{{listener}}} 0.0\n" in text
    finally:
        worker.end()


@pytest.mark.parametrize("shared", [False, True], ids=["one by one", "together"])
def test_of_several_workers_the_first_serves_and_no_other_fails(free_port: int, tmp_path: Path, shared: bool) -> None:
    variables = {"PROXYPROTOCOL_METRICS": str(free_port)}
    if shared:
        variables["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    workers = [Worker(**variables) for _ in range(2)]
    try:
        for worker in workers:
            worker.refuse(2)
        text = scrape(free_port)
        count = 'proxyprotocol_connections_total{{listener="127.0.0.1:{}"}} 2.0\n'
        assert [count.format(worker.port) in text for worker in workers] == [True, shared]
    finally:
        first, second = [worker.end() for worker in workers]
    line = f"Another process, probably another worker, serves the metrics on {free_port}"
    hint = "" if shared else "; set PROMETHEUS_MULTIPROC_DIR to let it count the connections of all workers"
    assert f"{line}{hint}\n" in second
    assert line not in first


@pytest.mark.parametrize("value", ["", "0", "65536", "::1:9100", "http", "127.0.0.1:", "a:b:1"])
def test_a_wrong_address_for_metrics_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PROXYPROTOCOL_METRICS", value)
    with pytest.raises(SystemExit) as stop:
        new_event_loop()
    assert str(stop.value) == f"PROXYPROTOCOL_METRICS takes PORT, HOST:PORT or [IPV6]:PORT, not {value!r}"


def test_an_address_that_is_not_here_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYPROTOCOL_METRICS", "192.0.2.1:9100")
    with pytest.raises(SystemExit, match=r"^PROXYPROTOCOL_METRICS=192\.0\.2\.1:9100 cannot be served: .* address"):
        new_event_loop()


def test_without_prometheus_client_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYPROTOCOL_METRICS", "9100")
    monkeypatch.setitem(sys.modules, "proxyprotocol.metrics", None)
    with pytest.raises(SystemExit, match=r"^PROXYPROTOCOL_METRICS needs prometheus_client .*\[metrics\]$"):
        new_event_loop()
