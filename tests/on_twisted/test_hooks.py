"""The user's functions and counters on Twisted: called before the application begins, and for each refusal."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import formatEventAsClassicLogText
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from proxyprotocol import HeaderPolicy, ProxyProtocolError, ProxyResult
from proxyprotocol.errors import ProxyProtocolInvalidError
from proxyprotocol.twisted import ProxyProtocolServerEndpoint
from tests.on_twisted.reactors import (
    CLIENT,
    HEADER,
    AppFactory,
    Log,
    MemoryTransport,
    accept,
    connect,
    run,
    until,
    wrap,
)


async def by_endpoint(reactor: Any, factory: Any, **keywords: Any) -> Any:
    plain = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    return await ProxyProtocolServerEndpoint(plain, **keywords).listen(factory)


def test_hooks_run_before_the_application_begins(reactor: Any, log: Log) -> None:
    told: list[Any] = []

    def validate(result: ProxyResult, peer: Any) -> bool:
        told.append(("validate", str(result)))
        if len(told) > 2:
            raise ProxyProtocolInvalidError("This client is not welcome")
        return True

    def accepted(result: ProxyResult | None, peer: Any) -> None:
        told.append(("accepted", [app.peer for app in factory.apps]))

    def refused(error: ProxyProtocolError, peer: Any) -> None:
        told.append(("refused", error.code.value, peer[0]))

    factory = AppFactory()

    async def scenario() -> None:
        port = await by_endpoint(
            reactor, factory, trusted="any", validate=validate, on_accepted=accepted, on_refused=refused
        )
        for count in (1, 2):
            client = await connect(reactor, port)
            client.transport.write(HEADER)
            await until(reactor, lambda: len(factory.apps) == 1 and (count == 1 or client.lost))  # noqa: B023

    run(reactor, scenario())
    header = ("validate", "192.0.2.1:1000 -> 198.51.100.2:2000")
    assert told == [header, ("accepted", []), header, ("refused", "invalid", "127.0.0.1")]
    ((level, line),) = log.lines
    assert (level, line.partition(": ")[2]) == ("warn", "This client is not welcome; see validate")
    assert factory.app.peer == CLIENT


@pytest.mark.parametrize("hook", ["validate", "on_accepted"])
def test_an_exception_in_a_hook_is_logged_with_its_traceback(hook: str, log: Log) -> None:
    def broken(*arguments: Any) -> bool:
        raise ZeroDivisionError("in the hook")

    factory = AppFactory()
    transport = accept(wrap(factory, **{hook: broken}))
    transport.receive(HEADER)
    assert (transport.aborts, factory.built) == (1, [])
    text = formatEventAsClassicLogText(log.events[-1]) or ""
    assert 'raise ZeroDivisionError("in the hook")' in text
    ((level, line),) = log.lines
    assert level == "error"
    assert re.search(rf": The server's {hook} function raised ZeroDivisionError\('in the hook'\)(\n|$)", line)
    assert log.fields["reason"] == "hook"
    assert log.flush(ZeroDivisionError) == 1


@pytest.mark.parametrize("hook", ["validate", "policy"])
@pytest.mark.parametrize("raised", [GeneratorExit, KeyboardInterrupt])
def test_an_exception_that_is_no_error_costs_the_connection_one_line(
    hook: str, raised: type[BaseException], log: Log
) -> None:
    def leave(*arguments: Any) -> bool:
        calls.append(arguments)
        raise raised

    calls: list[Any] = []
    factory, transport = AppFactory(), MemoryTransport()
    with pytest.raises(raised) if raised is KeyboardInterrupt else contextlib.nullcontext():
        accept(wrap(factory, **{hook: leave}), transport)
        transport.receive(HEADER)
    transport.protocol.connectionLost(Failure(raised()))
    assert (transport.aborts, factory.built, len(calls)) == (1, [], 1)
    ((level, line),) = log.lines
    assert level == "error"
    assert re.search(rf": The server's {hook} function raised {raised.__name__}\(\)(\n|$)", line)
    assert log.flush(raised) == 1


def test_only_an_error_of_tls_is_described_as_one(log: Log) -> None:
    transport = accept(wrap(AppFactory(), trusted="any"))
    transport.receive(HEADER[:9])
    transport.protocol.connectionLost(Failure(MemoryError()))
    ((_, line),) = log.lines
    assert "TLS" not in line


class Counts:
    """Counts connections by listener."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def connected(self, listener: str) -> Counts:
        self.told.append(listener)
        return self

    def handshake_failed(self, listener: str) -> None:
        pass

    def accepted(self, version: str | None) -> None:
        self.told.append(version)

    def refused(self, code: Any) -> None:
        self.told.append(code.value)


def test_metrics_are_told_of_each_listener(reactor: Any, log: Log) -> None:
    counts, factory = Counts(), AppFactory()

    async def scenario() -> None:
        port = await by_endpoint(reactor, factory, trusted="any", metrics=counts)
        for data in (HEADER, b"?"):
            client = await connect(reactor, port)
            client.transport.write(data)
            await until(reactor, lambda: factory.apps and (data == HEADER or client.lost))  # noqa: B023
        where = f"127.0.0.1:{port.getHost().port}"
        assert counts.told == [where, "v1", where, "no_header"]

    run(reactor, scenario())


def test_a_refusal_of_the_endpoint_itself_reaches_the_hooks(log: Log) -> None:
    """It comes before the policy is asked, which might let the connection in."""

    class Foreign(TCP4ServerEndpoint):
        """An endpoint of an unknown kind."""

    refused: list[Any] = []
    reactor = MemoryReactorClock()
    endpoint = ProxyProtocolServerEndpoint(
        Foreign(reactor, 0),  # type: ignore[no-untyped-call]
        policy=HeaderPolicy.SKIP,
        on_refused=lambda error, peer: refused.append((error.code.value, peer)),
    )
    endpoint.listen(AppFactory())
    transport = MemoryTransport()
    alsoProvides(transport, ISSLTransport)
    factory: Any = reactor.tcpServers[0][1]
    accept(factory, transport)
    assert (transport.aborts, refused) == (1, [("tls", ("10.1.2.3", 50000))])
