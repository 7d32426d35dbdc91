"""anyio: a listener for connections that begin with a header; ``remote_address`` of its streams is the client."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketListener, TaskGroup
from anyio.abc import Listener as AnyListener

from proxyprotocol._adapters.listener import Listener, ThreadClock, logging_to
from proxyprotocol._adapters.overlay import ClientSocket, Overlay
from proxyprotocol._adapters.settings import covered, process_settings
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords
from proxyprotocol.result import ProxyResult

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ProxyProtocolListener", "ProxyProtocolStream", "switch_on"]

_log = logging.getLogger("proxyprotocol.asyncio")


class ProxyProtocolListener(Overlay, AnyListener[ByteStream]):
    """Listens as another anyio listener does, and reads a header at the start of every connection.

    It takes what ``anyio.create_tcp_listener`` and ``create_unix_listener`` return, on asyncio, uvloop and trio. TLS
    comes after the header: wrap this listener in a ``TLSListener``.

    Args:
        listener: The other listener.
        receiver: The rules for the header, in place of all other keywords.
        keywords: ``pp``, ``policy``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver` takes them.

    Raises:
        TypeError, ValueError: As :class:`.Receiver`.
    """

    aclose: Any  # this and the next come from Overlay; anyio's class declares them abstract
    extra_attributes: Any

    def __init__(
        self, listener: Any, *, receiver: Receiver | None = None, **keywords: Unpack[ReceiverKeywords]
    ) -> None:
        self._below = listener
        self._listener = Listener(Receiver.of(receiver, keywords, ["receiver"]), logging_to(_log), ThreadClock())
        self._sockets = [_raw_socket(one) for one in getattr(listener, "listeners", [listener])]
        covered.update(self._sockets)

    async def serve(self, handler: Callable[[Any], Any], task_group: TaskGroup | None = None) -> None:
        """Accept connections, and call *handler* with a :class:`ProxyProtocolStream` for each accepted header."""

        async def begin(stream: ByteStream) -> None:
            async def read() -> None:
                while not connection.begun:
                    try:
                        connection.feed(await stream.receive())
                    except (anyio.EndOfStream, anyio.BrokenResourceError):  # a reset counts as the end
                        connection.eof()

            sock, peer = _raw_socket(stream), None
            with contextlib.suppress(OSError):  # the peer may be gone already
                peer = sock.getpeername()
            try:
                connection = receiver.connection(peer, sock.getsockname())
                # what arrived while the process was stopped is not late: anyio cancels no wait that has ended
                with anyio.move_on_after(receiver.timeout) as scope:
                    await read()
                if scope.cancelled_caught:
                    connection.timed_out()
            except ProxyProtocolError as error:
                self._listener.refuse(error, peer)
                await anyio.aclose_forcefully(stream)
            else:
                if connection.trailing and connection.repeated:
                    self._listener.warn_of_second_header(peer)
                await handler(ProxyProtocolStream(stream, connection))

        self._listener.start(*(sock.getsockname() for sock in self._sockets))
        receiver = self._listener.receiver
        try:
            await self._below.serve(begin, task_group)
        finally:
            self._listener.stop()


class ProxyProtocolStream(Overlay, ByteStream):
    """A connection's stream with the client's addresses. Everything else is the real stream's own.

    The extra attributes ``remote_address``, ``remote_port``, ``local_address``, ``local_port``, ``family`` and
    ``raw_socket`` show them. If the header gives no address they are the real connection's.

    Attributes:
        result: What the header said, with its TLVs; None if there was no header.
    """

    result: ProxyResult | None
    _below: ByteStream
    aclose: Any  # these come from Overlay; anyio's class declares them abstract
    send: Any
    send_eof: Any
    extra: Any = ByteStream.extra  # type: ignore[misc]  # not the real stream's: it reads the extra_attributes of this one

    def __init__(self, stream: ByteStream, connection: ReceiverConnection) -> None:
        self._below, self._trailing = stream, connection.trailing
        self.result, self._effective = connection.result, connection.effective

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive the bytes that came with the header, and later the stream's."""
        if not self._trailing:
            return await self._below.receive(max_bytes)
        data, self._trailing = self._trailing[:max_bytes], self._trailing[max_bytes:]
        return data

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the real stream, with the client's addresses."""
        effective, known = self._effective, SocketAttribute
        if effective is None:
            return self._below.extra_attributes
        sock = ClientSocket(_raw_socket(self._below), effective)
        facts: dict[Any, Any] = {known.raw_socket: sock, known.family: sock.family}
        others: dict[Any, Any] = {**self._below.extra_attributes}
        client = known.remote_address, known.remote_port, effective.peername
        own = known.local_address, known.local_port, effective.sockname
        for address_name, port_name, address in (client, own):
            if isinstance(address, tuple):
                facts |= {address_name: address[:2], port_name: address[1]}
            else:  # UNIX addresses have no port
                facts[address_name] = address
                others.pop(port_name, None)
        return others | {name: lambda fact=fact: fact for name, fact in facts.items()}


@functools.cache
def switch_on() -> None:
    """Let every listener for TCP and UNIX sockets read headers, by the variables ``PROXYPROTOCOL_*``.

    Listeners inside a :class:`ProxyProtocolListener` keep their own rules.
    """
    settings, kind = process_settings(), cast(Any, SocketListener)
    below = kind.serve

    @functools.wraps(below)
    async def serve(listener: Any, handler: Any, task_group: TaskGroup | None = None) -> None:
        sock = _raw_socket(listener)
        if sock not in covered and settings.covers(sock):
            await ProxyProtocolListener(listener, receiver=settings.receiver).serve(handler, task_group)
        else:
            await below(listener, handler, task_group)

    kind.serve = serve


def _raw_socket(provider: Any) -> Any:
    return provider.extra_attributes[SocketAttribute.raw_socket]()
