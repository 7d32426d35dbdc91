"""What still works after the application has begun: pausing, half-close, flow control, sendfile, another protocol."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy
from proxyprotocol.asyncio import ProxyProtocolTransport, wrap_protocol_factory
from tests.interop._certificates import Certificates
from tests.on_asyncio.loops import (
    CLIENT,
    HEADER,
    App,
    Apps,
    BufferedApp,
    Record,
    Run,
    Security,
    connected,
    listening,
    turns,
    until,
)
from tests.on_asyncio.streams import Transport
from tests.vectors import LOCAL, v2

pytestmark = pytest.mark.usefixtures("log")

both_kinds = pytest.mark.parametrize("kind", [App, BufferedApp])


class Reading(Transport):
    """A transport that reads as asyncio's own."""

    max_size = 256 * 1024

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass


def test_only_the_read_of_the_header_is_smaller_than_asyncios_own(run: Run) -> None:
    sizes, transport = [], Reading(("192.0.2.9", 40000), None)

    class Application(asyncio.Protocol):
        def connection_made(self, above: asyncio.BaseTransport) -> None:
            sizes.append(transport.max_size)

    async def story() -> None:
        protocol: Any = wrap_protocol_factory(Application)()
        protocol.connection_made(transport)
        for byte in HEADER:
            sizes.append(transport.max_size)
            protocol.data_received(bytes([byte]))

    run(story)
    assert sizes == [16 * 1024] * len(HEADER) + [256 * 1024]


def test_an_upload_over_tls_leaves_a_small_buffer(run: Run, certificates: Certificates) -> None:
    """asyncio's own buffer has 256 KiB, and each record is decrypted into as much."""
    apps, security, block = Apps(), Security(certificates), bytes(256 * 1024)

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server, **security.client) as peer:
            await peer.begin(HEADER)
            tracemalloc.start()
            for _ in range(8):
                await peer.say(block)
            await until(lambda: len(apps.app.received) == 8 * len(block))
            apps.app.received = b""
            assert tracemalloc.get_traced_memory()[0] < 128 * 1024

    try:
        run(story)
    finally:
        tracemalloc.stop()


def pause(app: Any) -> None:
    app.transport.pause_reading()


@both_kinds
def test_an_application_that_paused_as_it_began_gets_what_came_with_the_header_when_it_resumes(
    run: Run, kind: type[Record]
) -> None:
    apps = Apps(kind, begin=pause)

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER + b"first, ", b"second\n")
            await turns(5)
            app = apps.app
            assert (app.received, app.transport.is_reading()) == (b"", False)

            app.transport.resume_reading()
            assert (app.received, app.transport.is_reading()) == (b"", True)
            await until(lambda: app.received == b"first, second\n")
            assert await peer.hear(b"\n") == b"answer to first, second\n"

    run(story)


@both_kinds
def test_an_application_may_pause_again_before_it_gets_anything(run: Run, kind: type[Record]) -> None:
    apps = Apps(kind, begin=pause)

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER + b"data\n")
            transport = apps.app.transport
            for _ in range(2):
                transport.resume_reading()
                transport.resume_reading()
                transport.pause_reading()
                await turns(5)
            assert (apps.app.received, transport.is_reading()) == (b"", False)
            transport.resume_reading()
            assert await peer.hear(b"\n") == b"answer to data\n"

    run(story)


@both_kinds
def test_an_application_may_pause_at_every_read(run: Run, kind: type[Record]) -> None:
    def read(app: Any) -> None:
        app.transport.pause_reading()
        asyncio.get_running_loop().call_later(0.001, app.transport.resume_reading)

    apps = Apps(kind, begin=pause, read=read)
    data = bytes(range(100))

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER + data[:60], data[60:])
            apps.app.transport.resume_reading()
            await until(lambda: apps.app.received == data)

    run(story)


def test_an_application_above_tls_may_pause_as_it_begins(run: Run, certificates: Certificates) -> None:
    apps = Apps(begin=pause)

    async def story() -> None:
        security = Security(certificates)
        async with listening(apps, **security.server) as server, connected(server, **security.client) as peer:
            await peer.begin(HEADER)
            await until(lambda: apps.made and apps.app.transport)
            await peer.say(b"data\n")
            await turns(5)
            assert apps.app.received == b""
            apps.app.transport.resume_reading()
            assert await peer.hear(b"\n") == b"answer to data\n"

    run(story)


@pytest.mark.parametrize("end", ["close", "abort"])
@both_kinds
def test_an_application_that_closes_as_it_begins_gets_nothing_more(run: Run, kind: type[Record], end: str) -> None:
    apps = Apps(kind, begin=lambda app: getattr(app.transport, end)())

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER + b"data\n")
            await until(lambda: apps.app.lost)
            assert apps.app.received == b""
            assert apps.app.transport.is_closing()

    run(story)


def test_bytes_are_dropped_with_the_connection_while_the_application_pauses(run: Run) -> None:
    apps = Apps(begin=pause)

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER + b"data\n")
            apps.app.transport.resume_reading()
            apps.app.transport.abort()
            apps.app.transport.resume_reading()
            await until(lambda: apps.app.lost)
            assert apps.app.received == b""

    run(story)


def test_an_error_of_the_application_with_held_bytes_drops_the_connection(run: Run) -> None:
    def read(app: Any) -> None:
        raise ZeroDivisionError("in data_received")

    apps = Apps(begin=pause, read=read)

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER + b"data\n")
            apps.app.transport.resume_reading()
            await until(lambda: apps.app.lost)
            assert await peer.hear_all() == b""
            assert run.take_mistakes(ZeroDivisionError) == 1

    run(story)


def test_an_empty_buffer_is_an_error(run: Run) -> None:
    class Empty(BufferedApp):
        def get_buffer(self, sizehint: int) -> bytearray:
            return bytearray()

    async def story() -> None:
        async with listening(Apps(Empty)) as server, connected(server) as peer:
            await peer.send(HEADER + b"data\n")
            assert await peer.hear_all() == b""
            assert run.take_mistakes(RuntimeError) == 1

    run(story)


def test_the_application_may_answer_after_the_client_s_half_close(run: Run) -> None:
    class HalfClosing(App):
        def eof_received(self) -> bool:
            self.transport.write(b"goodbye\n")
            return True

    apps = Apps(HalfClosing)

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER + b"hello\n")
            peer.sock.shutdown(socket.SHUT_WR)
            assert await peer.hear(b"goodbye\n") == b"answer to hello\ngoodbye\n"
            assert apps.app.lost == []
            apps.app.transport.close()
            assert await peer.hear_all() == b"answer to hello\ngoodbye\n"

    run(story)


def test_the_application_may_half_close(run: Run) -> None:
    apps = Apps(begin=lambda app: app.transport.write_eof())

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER)
            assert await peer.hear_all() == b""
            assert apps.app.transport.can_write_eof()
            await peer.send(b"still heard")
            await until(lambda: apps.app.received == b"still heard")

    run(story)


@both_kinds
def test_a_protocol_may_be_replaced_as_it_begins(run: Run, security: Security, kind: Callable[[], Any]) -> None:
    """WebSocket upgrades do so."""
    other = kind()

    def begin(app: Any) -> None:
        other.transport = app.transport
        app.transport.set_protocol(other)

    apps = Apps(begin=begin)

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server, **security.client) as peer:
            await peer.begin(HEADER, b"data\n")
            assert await peer.hear(b"\n") == b"answer to data\n"
            assert apps.app.received == b""
            assert apps.app.transport.get_protocol() is other
            peer.sock.close()
            await until(lambda: other.lost)

    run(story)


def test_a_protocol_may_be_replaced_while_bytes_wait(run: Run) -> None:
    apps, other = Apps(begin=pause), BufferedApp()

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER + b"data\n")
            other.transport = transport = apps.app.transport
            transport.set_protocol(other)
            transport.resume_reading()
            assert await peer.hear(b"\n") == b"answer to data\n"

    run(story)


def test_repr_names_the_client(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER)
            transport = apps.app.transport
            assert type(transport) is ProxyProtocolTransport
            assert isinstance(transport, asyncio.Transport)
            assert "for 192.0.2.1:1000 over <" in repr(transport)
            sock = transport.get_extra_info("socket")
            assert "for 192.0.2.1:1000 over <" in repr(sock)
            assert (sock.type, sock.fileno() > 0) == (socket.SOCK_STREAM, True)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            assert transport.get_extra_info("nothing", "default") == "default"
            with pytest.raises(AttributeError):
                transport.nothing  # noqa: B018 (the look-up itself is the test)

    run(story)


def test_the_class_can_be_inspected() -> None:
    """Documentation tools do so."""
    assert {"write", "close", "get_extra_info"} <= {name for name, _ in inspect.getmembers(ProxyProtocolTransport)}


def test_extra_info_of_a_connection_without_a_header(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, policy=HeaderPolicy.SKIP) as server, connected(server) as peer:
            await until(lambda: apps.made and apps.app.transport)
            transport = apps.app.transport
            assert transport.get_extra_info("proxy_protocol", "default") == "default"
            assert repr(transport).startswith("<ProxyProtocolTransport over <")
            assert transport.get_extra_info("proxy_peername") == peer.sock.getsockname()

    run(story)


@pytest.mark.parametrize("header", [HEADER, v2(LOCAL, 0x00)], ids=["PROXY", "LOCAL"])
def test_the_client_is_still_known_when_the_connection_is_lost(run: Run, security: Security, header: bytes) -> None:
    seen: list[Any] = []

    class Asking(App):
        def connection_lost(self, exc: Exception | None) -> None:
            self.transport.close()
            self.transport.close()
            seen.extend(self.transport.get_extra_info(name) for name in ("peername", "proxy_peername"))
            super().connection_lost(exc)

    apps = Apps(Asking)

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server, **security.client) as peer:
            await peer.begin(header, b"data\n")
            await peer.hear(b"\n")
            real = peer.sock.getsockname()
            peer.reset()
            await until(lambda: apps.app.lost)
            assert seen == [CLIENT if header is HEADER else real, real]

    run(story)


def test_flow_control_of_what_is_written(run: Run, security: Security) -> None:
    class Pausing(App):
        paused = 0

        def pause_writing(self) -> None:
            self.paused += 1

        def resume_writing(self) -> None:
            self.paused -= 1

    apps = Apps(Pausing)

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server, **security.client) as peer:
            await peer.begin(HEADER, b"data\n")
            await peer.hear(b"\n")
            app = apps.app
            app.transport.set_write_buffer_limits(high=1000)
            assert app.transport.get_write_buffer_limits()[1] == 1000
            for _ in range(1000):
                app.transport.write(bytes(100_000))
                if app.paused:
                    break
            assert (app.paused, app.transport.get_write_buffer_size() > 1000) == (1, True)
            app.transport.writelines([b"the ", b"end\n"])
            await peer.hear(b"end\n")
            await until(lambda: app.paused == 0)

    run(story)


@pytest.fixture(scope="module")
def three_megabytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sendfile") / "file"
    path.write_bytes(os.urandom(3_000_000))
    return path


def test_a_file_arrives_whole(certificates: Certificates, security: Security, three_megabytes: Path) -> None:
    apps = Apps()  # not on uvloop, which has no sendfile

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server, **security.client) as peer:
            await peer.begin(HEADER, b"data\n")
            await peer.hear(b"\n")
            peer.received = b""
            transport = apps.app.transport
            with three_megabytes.open("rb") as file:
                sending = asyncio.create_task(asyncio.get_running_loop().sendfile(transport, file))
                content = three_megabytes.read_bytes()
                assert await peer.hear(content[-20:]) == content
                assert await sending == len(content)
            assert transport.get_protocol() is apps.app
            await peer.say(b"more\n")
            await peer.hear(b"more\n")

    Run(asyncio.SelectorEventLoop)(story)
