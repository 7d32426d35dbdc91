"""Applications that pause, end the connection or fail in connectionMade, on each kind of reactor."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from tests.on_twisted.reactors import HEADER, App, AppFactory, Log, connected, run, turns, until, watched


def test_pausing_in_connectionMade_holds_the_bytes_until_the_application_resumes(reactor: Any) -> None:
    factory = AppFactory(begin=lambda app: app.transport.pauseProducing())

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"one ")
        await until(reactor, lambda: factory.apps)
        client.transport.write(b"two ")
        await turns(reactor)
        assert factory.app.received == b""

        factory.app.transport.resumeProducing()
        assert factory.app.received == b"", "data from inside of resumeProducing"
        await until(reactor, lambda: len(factory.app.received) >= 8)
        client.transport.write(b"three")
        await until(reactor, lambda: len(factory.app.received) >= 13)
        assert factory.app.received == b"one two three"
        assert watched(factory.app.transport) == []

    run(reactor, scenario())


def test_pausing_and_resuming_in_connectionMade_delivers_everything(reactor: Any) -> None:
    def begin(app: App) -> None:
        app.transport.pauseProducing()
        app.transport.pauseProducing()
        app.transport.resumeProducing()

    factory = AppFactory(begin=begin)

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"one ")
        await until(reactor, lambda: factory.apps and factory.app.received)
        client.transport.write(b"two")
        await until(reactor, lambda: len(factory.app.received) >= 7)
        assert factory.app.received == b"one two"
        assert watched(factory.app.transport) == []

    run(reactor, scenario())


def test_a_paused_connection_is_freed_when_it_ends(reactor: Any) -> None:
    """It must not wait for the garbage collector."""
    factory = AppFactory(begin=lambda app: app.transport.pauseProducing())

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"data")
        await until(reactor, lambda: factory.apps)
        factory.app.transport.resumeProducing()
        await until(reactor, lambda: factory.app.received)
        transport = weakref.ref(factory.app.transport)
        client.transport.loseConnection()
        await until(reactor, lambda: factory.app.lost)
        factory.app.transport = client.transport  # the test keeps the application itself
        await turns(reactor)
        assert transport() is None

    gc.disable()
    try:
        run(reactor, scenario())
    finally:
        gc.enable()


@pytest.mark.parametrize("begin", [lambda app: setattr(app.transport, "stopReading", lambda: None), lambda app: None])
def test_an_application_can_replace_stopReading(reactor: Any, begin: Any) -> None:
    kept = []

    def keep(app: App) -> None:
        kept.append(app.transport.stopReading)
        begin(app)

    factory = AppFactory(begin=keep)

    async def scenario() -> None:
        await connected(reactor, factory, HEADER + b"data")
        await until(reactor, lambda: factory.apps and factory.app.received)
        before = dict(vars(factory.app.transport))
        kept[0]()  # the application may still call the method it saved, and that leaves no attribute
        factory.app.transport.startReading()
        assert vars(factory.app.transport).keys() == before.keys()

    run(reactor, scenario())


def test_an_application_can_pause_again_before_the_bytes_arrive(reactor: Any) -> None:
    factory = AppFactory(begin=lambda app: app.transport.pauseProducing())

    async def scenario() -> None:
        await connected(reactor, factory, HEADER + b"data")
        await until(reactor, lambda: factory.apps)
        factory.app.transport.resumeProducing()
        factory.app.transport.resumeProducing()
        factory.app.transport.pauseProducing()
        await turns(reactor)
        assert factory.app.received == b""
        factory.app.transport.resumeProducing()
        await until(reactor, lambda: factory.app.received)
        assert factory.app.received == b"data"

    run(reactor, scenario())


def test_an_application_can_pause_again_when_the_held_bytes_arrive(reactor: Any) -> None:
    factory = AppFactory(
        begin=lambda app: app.transport.pauseProducing(), read=lambda app: app.transport.pauseProducing()
    )

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"one ")
        await until(reactor, lambda: factory.apps)
        client.transport.write(b"two")
        for received in (b"one ", b"one two"):
            factory.app.transport.resumeProducing()
            await until(reactor, lambda: factory.app.received == received)  # noqa: B023
            await turns(reactor)
            assert factory.app.received == received

    run(reactor, scenario())


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
@pytest.mark.parametrize("pauses", [False, True])
def test_an_application_that_ends_the_connection_in_connectionMade_gets_no_byte(
    reactor: Any, end: str, pauses: bool
) -> None:
    def begin(app: App) -> None:
        if pauses:
            app.transport.pauseProducing()
        getattr(app.transport, end)()

    factory = AppFactory(begin=begin)

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"data")
        await until(reactor, lambda: client.lost and factory.app.lost)
        await turns(reactor)

    run(reactor, scenario())
    assert (factory.app.received, len(factory.app.lost)) == (b"", 1)
    assert watched(factory.app.transport) == []


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
def test_an_application_that_ends_the_connection_never_gets_held_bytes(reactor: Any, end: str, resumes: bool) -> None:
    factory = AppFactory(begin=lambda app: app.transport.pauseProducing())

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"data")
        await until(reactor, lambda: factory.apps)
        if resumes:
            factory.app.transport.resumeProducing()
        getattr(factory.app.transport, end)()
        await until(reactor, lambda: client.lost and factory.app.lost)
        await turns(reactor)

    run(reactor, scenario())
    assert (factory.app.received, len(factory.app.lost)) == (b"", 1)
    assert watched(factory.app.transport) == []


def test_an_error_in_dataReceived_with_held_bytes_drops_the_connection(reactor: Any, log: Log) -> None:
    """The reactor would not drop it, because the bytes do not come from its read."""

    def mistake(app: App) -> None:
        raise ZeroDivisionError("in dataReceived")

    factory = AppFactory(begin=lambda app: app.transport.pauseProducing(), read=mistake)

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"data")
        await until(reactor, lambda: factory.apps)
        factory.app.transport.resumeProducing()
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert (len(factory.app.lost), log.flush(ZeroDivisionError)) == (1, 1)


def test_an_error_after_a_pause_restores_the_transport(reactor: Any, log: Log) -> None:
    def begin(app: App) -> None:
        app.transport.pauseProducing()
        raise ZeroDivisionError("in connectionMade")

    factory = AppFactory(begin=begin)

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"data")
        await until(reactor, lambda: client.lost)

    run(reactor, scenario())
    assert watched(factory.app.transport) == []
    assert log.flush(ZeroDivisionError) == 1


def test_the_end_of_the_stream_does_not_overtake_held_bytes(reactor: Any) -> None:
    factory = AppFactory(begin=lambda app: app.transport.pauseProducing())

    async def scenario() -> None:
        client = await connected(reactor, factory, HEADER + b"data")
        client.transport.loseConnection()
        await until(reactor, lambda: factory.apps and client.lost)
        await turns(reactor)
        assert (factory.app.received, factory.app.lost) == (b"", [])
        factory.app.transport.resumeProducing()
        await until(reactor, lambda: factory.app.lost)

    run(reactor, scenario())
    assert (factory.app.received, len(factory.app.lost)) == (b"data", 1)
