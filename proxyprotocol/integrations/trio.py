"""trio: a listener for connections that begin with a header; ``socket.getpeername()`` of its streams is the client."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import trio

from proxyprotocol._adapters.listener import Listener, ThreadClock, logging_to
from proxyprotocol._adapters.overlay import ClientSocket, Overlay
from proxyprotocol._adapters.settings import covered, process_settings
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords
from proxyprotocol.result import ProxyResult, describe_address

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxyProtocolListener", "ProxyProtocolStream", "switch_on"]

_log = logging.getLogger("proxyprotocol.trio")


class ProxyProtocolListener(Overlay, trio.abc.Listener["ProxyProtocolStream"]):
    """Listens as a ``trio.SocketListener`` does, and reads a header at the start of every connection.

    ``accept()`` returns a connection as soon as its header has arrived, and meanwhile accepts others: a silent peer
    holds up nobody. TLS comes after the header: wrap this listener in a ``trio.SSLListener``. Everything else is the
    other listener's own.

    Args:
        listener: The other listener.
        receiver: The rules for the header, in place of all other keywords.
        keywords: ``pp``, ``policy``, ``trusted``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver`
            takes them.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`.
    """

    def __init__(
        self,
        listener: trio.SocketListener,
        *,
        receiver: Receiver | None = None,
        **keywords: Unpack[ReceiverKeywords],
    ) -> None:
        self._below: Any = listener
        self._accept = listener.accept
        self._listener = Listener(Receiver.of(receiver, keywords, ["receiver"]), logging_to(_log), ThreadClock())
        self._started = False
        self._send, self._ready = trio.open_memory_channel[Any](math.inf)
        covered.add(listener.socket)  # type: ignore[arg-type]

    async def accept(self) -> ProxyProtocolStream:
        """Return a connection whose header was accepted. Raises whatever the other listener's method raises."""
        if not self._started:
            self._started = True
            self._listener.start(self._below.socket.getsockname())
        stream: Any = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept_others)
                stream = await self._ready.receive()
                nursery.cancel_scope.cancel()
        except BaseException:
            if stream is not None:  # this task was cancelled just then
                self._send.send_nowait(stream)
            raise
        if isinstance(stream, Exception):
            raise stream
        return stream  # type: ignore[no-any-return]

    async def _accept_others(self) -> None:
        while True:
            try:
                stream = await self._accept()
            except Exception as error:  # the task that waits in accept() raises it, outside of the nursery
                self._send.send_nowait(error)
                return
            # a system task, because a header may take longer than this call of accept()
            trio.lowlevel.spawn_system_task(self._begin, stream)

    async def _begin(self, stream: trio.SocketStream) -> None:
        """Read a connection's header. It raises nothing: an error of a system task would end the program."""
        peer, receiver, begun = None, self._listener.receiver, False
        try:
            with contextlib.suppress(OSError):  # the peer may be gone already
                peer = stream.socket.getpeername()
            connection = receiver.connection(peer, stream.socket.getsockname())
            await self._read(stream, connection, math.inf if receiver.timeout is None else receiver.timeout)
            if connection.trailing and connection.repeated:
                self._listener.warn_of_second_header(peer)
            begun = self._below.socket.fileno() >= 0  # else the listener was closed meanwhile
            if begun:
                self._send.send_nowait(ProxyProtocolStream(stream, connection))
        except ProxyProtocolError as error:
            self._listener.refuse(error, peer)
        except OSError as error:
            _log.debug("The connection from %s was lost: %s", describe_address(peer), error)
        except Exception:
            _log.exception("The policy of %s raised an exception", receiver.listener)
        finally:
            if not begun:
                stream.socket.close()

    async def _read(self, stream: trio.SocketStream, connection: ReceiverConnection, timeout: float) -> None:
        # What arrived while the program was stopped is not late: trio reads sockets before it looks at deadlines.
        with trio.move_on_after(timeout) as scope:
            while not connection.begun:
                try:
                    data = await stream.receive_some()
                    connection.feed(bytes(data)) if data else connection.eof()
                except trio.BrokenResourceError:  # a reset counts as the end
                    connection.eof()
        if scope.cancelled_caught:
            connection.timed_out()

    async def aclose(self) -> None:
        """Close the listener, and the connections that nobody has accepted."""
        await self._below.aclose()
        self._listener.stop()
        with contextlib.suppress(trio.WouldBlock):
            while True:
                stream = self._ready.receive_nowait()
                if not isinstance(stream, Exception):
                    stream.socket.close()


class ProxyProtocolStream(Overlay, trio.abc.HalfCloseableStream):
    """A connection's stream with the client's addresses. Everything else is the real stream's own.

    If the header gives no address, ``socket`` is the real connection's.

    Attributes:
        result: What the header said, with its TLVs; None if there was no header.
        socket: A socket with the client's addresses, as ``trio.SocketStream`` has one.
    """

    result: ProxyResult | None
    socket: Any
    send_all: Any  # these come from Overlay; trio's classes declare them abstract
    send_eof: Any
    wait_send_all_might_not_block: Any
    aclose: Any

    def __init__(self, stream: trio.SocketStream, connection: ReceiverConnection) -> None:
        self._below, self._trailing = stream, connection.trailing
        self.result, self._effective = connection.result, connection.effective
        below = stream.socket
        self.socket = below if self._effective is None else ClientSocket(below, self._effective)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive the bytes that came with the header, and later the stream's."""
        if not self._trailing:
            return await self._below.receive_some(max_bytes)  # type: ignore[no-any-return]
        await trio.lowlevel.checkpoint()
        size = len(self._trailing) if max_bytes is None else max_bytes
        data, self._trailing = self._trailing[:size], self._trailing[size:]
        return data


@functools.cache
def switch_on() -> None:
    """Let every ``trio.SocketListener`` of this process read headers, by the variables ``PROXYPROTOCOL_*``.

    Listeners inside a :class:`ProxyProtocolListener` keep their own rules.
    """
    settings, below = process_settings(), trio.SocketListener.accept
    listeners: WeakKeyDictionary[Any, ProxyProtocolListener] = WeakKeyDictionary()  # by socket

    async def accept(listener: trio.SocketListener) -> Any:
        sock: Any = listener.socket
        if sock not in listeners and sock not in covered and settings.covers(sock):
            listeners[sock] = ProxyProtocolListener(listener, receiver=settings.receiver)
            listeners[sock]._accept = functools.partial(below, listener)
        proxied = listeners.get(sock)
        return await (below(listener) if proxied is None else proxied.accept())

    trio.SocketListener.accept = accept  # type: ignore[assignment, method-assign]
