"""Event loops of both kinds, applications of every kind, and a client, for the tests of asyncio's adapter.

Everything runs on real sockets. The client does TLS itself, so that a test decides what goes into which segment. It
sends from the server's own loop: two turns later the server has read the segment.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

from proxyprotocol.asyncio import create_server, start_server
from proxyprotocol.result import describe_address
from tests.interop._certificates import SERVER_NAME, Certificates
from tests.vectors import single_bytes

PATIENCE = 10.0  # seconds; everything takes a fraction of one, unless the machine is very busy

HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
CLIENT, DESTINATION = ("192.0.2.1", 1000), ("198.51.100.2", 2000)
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}

_T = TypeVar("_T")
Story = Callable[[], Coroutine[Any, Any, None]]


class Run:
    """Runs stories in a loop in debug mode, and fails if the loop reports an error or a task is left.

    Args:
        new_loop: Makes the loop.
    """

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.new_loop = new_loop
        #: The errors that the loop has reported. A test removes those that it expects.
        self.complaints: list[dict[str, Any]] = []

    def __call__(self, story: Story) -> None:
        loop = self.new_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = PATIENCE  # a busy machine makes callbacks slow
        loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        try:
            loop.run_until_complete(asyncio.wait_for(story(), PATIENCE))
            assert loop.run_until_complete(_left_behind()) == set()
        finally:
            loop.close()
        # asyncio reports an exception that nobody has retrieved when its task is freed; cycles need the collector
        gc.collect()
        assert self.complaints == []

    @property
    def on_uvloop(self) -> bool:
        return self.new_loop is LOOPS["uvloop"]

    def take_mistakes(self, kind: type[Exception]) -> int:
        """Remove the reports of errors that an application raised, and return their number."""
        mistakes = [context for context in self.complaints if isinstance(context.get("exception"), kind)]
        self.complaints = [context for context in self.complaints if context not in mistakes]
        return len(mistakes)


async def _left_behind() -> set[asyncio.Task[Any]]:
    await turns(3)
    return asyncio.all_tasks() - {asyncio.current_task()}


class Security:
    """How a server and its client do TLS after the header, if they do.

    Args:
        certificates: The certificates; None for no TLS.
    """

    def __init__(self, certificates: Certificates | None) -> None:
        self._certificates = certificates

    @property
    def server(self) -> dict[str, Any]:
        """The server's keywords."""
        return {} if self._certificates is None else {"ssl": self._certificates.server_context()}

    @property
    def client(self) -> dict[str, Any]:
        """The client's keywords."""
        return {} if self._certificates is None else {"context": self._certificates.client_context()}

    def __bool__(self) -> bool:
        return self._certificates is not None


async def turns(count: int = 2) -> None:
    """Let the loop turn. Each turn looks at every socket."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until a condition holds."""

    async def turn() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(turn(), PATIENCE)


class Facts:
    """The facts that an application saw of its connection as it began."""

    def __init__(self, transport: Any) -> None:
        for name in ("peername", "sockname", "proxy_protocol", "proxy_peername", "sslcontext"):
            setattr(self, name, transport.get_extra_info(name))
        sock = transport.get_extra_info("socket")
        self.family = sock.family
        self.socket_names = sock.getpeername(), sock.getsockname()

    peername: Any
    sockname: Any
    proxy_protocol: Any
    proxy_peername: Any
    sslcontext: Any


class Record:
    """A record of what happened to an application of any kind.

    Args:
        begin: What it does in ``connection_made``.
        read: What it does after each read; by default it answers every line.
    """

    def __init__(
        self, begin: Callable[[Any], object] = lambda app: None, read: Callable[[Any], object] | None = None
    ) -> None:
        self.begin = begin
        self.read = _answer if read is None else read
        self.transport: Any = None
        self.received = b""
        self.reads = 0
        self.facts: Facts
        self.ended = False
        self.lost: list[Exception | None] = []

    def made(self, transport: Any) -> None:
        self.transport = transport
        self.facts = Facts(transport)
        self.begin(self)

    def got(self, data: bytes) -> None:
        self.received += data
        self.reads += 1
        self.read(self)


def _answer(app: Any) -> None:
    if app.received.endswith(b"\n"):
        app.transport.write(b"answer to " + app.received)


class App(Record, asyncio.Protocol):
    """An application that is a protocol."""

    def connection_made(self, transport: Any) -> None:
        self.made(transport)

    def data_received(self, data: bytes) -> None:
        self.got(data)

    def eof_received(self) -> bool | None:
        self.ended = True
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class BufferedApp(Record, asyncio.BufferedProtocol):
    """An application with a small buffer of its own."""

    buffer: bytearray

    def connection_made(self, transport: Any) -> None:
        self.made(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(7)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.got(bytes(self.buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        self.ended = True
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Apps:
    """A protocol factory that remembers its protocols.

    Args:
        kind: The class of its protocols.
        keywords: The arguments of that class.
    """

    def __init__(self, kind: type[Record] = App, **keywords: Any) -> None:
        self._kind, self._keywords = kind, keywords
        self.made: list[Any] = []

    def __call__(self) -> Any:
        self.made.append(self._kind(**self._keywords))
        return self.made[-1]

    @property
    def app(self) -> Any:
        """The one application that was made."""
        (app,) = self.made
        return app

    def listen(self, host: str = "127.0.0.1", **keywords: Any) -> Awaitable[Any]:
        """Listen on a free port."""
        return create_server(self, host, 0, **keywords)


class StreamApps(Apps):
    """A callback of streams that behaves like the applications above."""

    def __init__(self) -> None:
        super().__init__(Record)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        app = self()
        app.made(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(100):
                app.got(data)
        app.ended = True
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def listen(self, host: str = "127.0.0.1", **keywords: Any) -> Awaitable[Any]:
        """Listen on a free port."""
        return start_server(self.connected, host, 0, **keywords)


KINDS: dict[str, Callable[[], Apps]] = {
    "Protocol": lambda: Apps(App),
    "BufferedProtocol": lambda: Apps(BufferedApp),
    "streams": StreamApps,
}


@contextlib.asynccontextmanager
async def listening(apps: Apps, **keywords: Any) -> AsyncIterator[Any]:
    """Listen on a free port, and yield the server. At the end close it and wait until it is closed."""
    server = await apps.listen(**keywords)
    try:
        yield server
    finally:
        server.close()
        for app in apps.made:
            if app.transport is not None:
                getattr(app.transport, "transport", app.transport).abort()  # a stream writer has one
        await asyncio.wait_for(server.wait_closed(), PATIENCE)


class Peer:
    """The other end of a connection.

    Args:
        sock: Its socket, connected.
        context: Its TLS context; None without TLS.
        cut: Cuts what it sends into segments.
        server_side: Whether it is the TLS server.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext | None = None,
        cut: Callable[[bytes], list[bytes]] = lambda data: [data],
        server_side: bool = False,
    ) -> None:
        self.sock = sock
        self.cut = cut
        self.received = b""
        self._tls: ssl.SSLObject | None = None
        if context is not None:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            name = None if server_side else SERVER_NAME
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, name)

    async def send(self, *pieces: bytes) -> None:
        """Send bytes without TLS, each piece cut into segments."""
        loop = asyncio.get_running_loop()
        for segment in (segment for piece in pieces for segment in self.cut(piece)):
            await loop.sock_sendall(self.sock, segment)
            await turns()

    async def begin(self, header: bytes, data: bytes = b"") -> None:
        """Send a header and the first data: in one segment, or with a handshake in between."""
        if self._tls is None:
            await self.send(header + data)
            return
        await self.shake_hands(header)
        await self.say(data)

    async def shake_hands(self, before: bytes = b"", *, answer: bytes = b"", last: bool = True) -> None:
        """Do the handshake.

        Args:
            before: Bytes to send before the ClientHello, in one segment with it.
            answer: What the other end answers in the clear, before it begins TLS.
            last: Whether to send the last flight at once, rather than with the next data.
        """
        assert self._tls is not None
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.send(before + self._outgoing.read())
                before, data = b"", await self._read()
                if not data:
                    raise ConnectionError("the connection has ended in the handshake") from None
                self._incoming.write(data.removeprefix(answer))
        if last:
            await self.send(self._outgoing.read())

    async def say(self, data: bytes, *, and_close: bool = False) -> None:
        """Send application data. With TLS the unsent flight, the data and maybe a close_notify share a segment."""
        if self._tls is None:
            await self.send(data)
            return
        self._tls.write(data)
        if and_close:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
        await self.send(self._outgoing.read())

    async def hear(self, end: bytes) -> bytes:
        """Receive application data until it ends with these bytes."""
        while not self.received.endswith(end):
            data = await self._read()
            assert data, f"the connection has ended after {self.received[-100:]!r}"
            self._take(data)
        return self.received

    async def hear_all(self) -> bytes:
        """Receive application data until the connection ends; a reset is an end too."""
        while data := await self._read():
            self._take(data)
        return self.received

    def _take(self, data: bytes) -> None:
        if self._tls is None:
            self.received += data
            return
        self._incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while more := self._tls.read(2**16):
                self.received += more

    async def _read(self) -> bytes:
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 2**16), PATIENCE)
        return b""

    def reset(self) -> None:
        """End the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def place(server: Any) -> str:
    """Return where a server listens, as the log names it."""
    return " and ".join(describe_address(sock.getsockname()) for sock in server.sockets)


@contextlib.asynccontextmanager
async def connected(address: Any, **keywords: Any) -> AsyncIterator[Peer]:
    """Connect to a server or an address, and close the connection at the end."""
    if hasattr(address, "sockets"):
        address = address.sockets[0].getsockname()
    family = (
        socket.AF_UNIX if isinstance(address, (str, bytes)) else socket.AF_INET6 if len(address) > 2 else socket.AF_INET
    )
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
        await turns()
        yield Peer(sock, **keywords)


CUTS = pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "byte by byte"])


class Log(logging.Handler):
    """Everything that was logged during a test. A traceback fails the test."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines of the adapter, except for the start lines of its listeners: level and text."""
        return self._lines(starts=False)

    @property
    def starts(self) -> list[tuple[str, str]]:
        """The start lines of its listeners."""
        return self._lines(starts=True)

    def take_tracebacks(self) -> list[logging.LogRecord]:
        """The records with a traceback, which then fails no test."""
        taken = [record for record in self.records if record.exc_info]
        for record in taken:
            record.exc_info = None
        return taken

    def _lines(self, starts: bool) -> list[tuple[str, str]]:
        ours = [r for r in self.records if r.name == "proxyprotocol.asyncio"]
        of_starts = [
            r for r in ours if hasattr(r, "listener") and not hasattr(r, "reason") and not hasattr(r, "refusals")
        ]
        return [(r.levelname, r.getMessage()) for r in ours if (r in of_starts) == starts]
