"""Floor 5: the hand-over of a connection from the wrapper to the application, after which the wrapper is gone.

Nothing of ours stays in the read path: the application's protocol becomes the transport's protocol, as Twisted's own
startTLS does it, and the transport gets new answers as attributes of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol

from proxyprotocol.receiver import describe_address
from proxyprotocol.result import ProxyResult
from proxyprotocol.twisted._addresses import from_sockaddr, to_sockaddr

__all__: list[str] = []

# Where a transport keeps its result, which refers to nothing, so that there is no cycle.
RESULT = "_proxyprotocol_result"
# the attributes in which Twisted's transports keep their protocol
AT_THE_SOCKET: Final = "protocol"
IN_A_LAYER: Final = "wrappedProtocol"
# far more than anybody stacks, and an end for those that are in a ring
_MOST_LAYERS: Final = 32


def own_attributes(transport: Any) -> Mapping[str, Any]:
    """Give what a transport itself has, and not what it may answer with for another below it.

    Args:
        transport: The transport, or any other object.
    """
    attributes: Mapping[str, Any] = getattr(transport, "__dict__", {})
    return attributes


def layers(transport: Any) -> Iterator[Any]:
    """Give a transport and those below it, as layers such as TLS keep them.

    Args:
        transport: The transport, or any other object.
    """
    for _ in range(_MOST_LAYERS):
        if transport is None:
            return
        yield transport
        # a double in somebody's test makes up whatever it is asked for, a transport below each transport too
        transport = own_attributes(transport).get("transport")


def find_slot(transport: Any, protocol: IProtocol) -> str | None:
    """Give the name of the attribute in which a transport keeps its protocol.

    Args:
        transport: The transport.
        protocol: Its protocol.

    Returns:
        The name; None for a transport of a kind not known here, which may keep it elsewhere.
    """
    # a ProtocolWrapper, such as TLS, answers "protocol" with that of the socket below it: so this first
    if getattr(transport, AT_THE_SOCKET, None) is protocol:
        return AT_THE_SOCKET
    return IN_A_LAYER if getattr(transport, IN_A_LAYER, None) is protocol else None


def abort(transport: Any) -> None:
    """Drop a connection at once; in good order where a transport knows no other way, as standard input does not.

    Args:
        transport: The connection's transport.
    """
    (getattr(transport, "abortConnection", None) or transport.loseConnection)()


def answer(transport: Any, peer: IAddress, result: ProxyResult) -> None:
    """Give a transport the client's answers to ``getPeer`` and ``getHost``.

    Args:
        transport: The transport.
        peer: The client's address.
        result: The result, for the address that the client connected to.
    """
    transport.getPeer = lambda: peer
    transport.getHost = lambda: from_sockaddr(result.sockname)


def rename_in_log(transport: Any, slot: str, protocol: Any, peer: Any) -> None:
    """Name the application's protocol and the client in the log prefix, as the transport does itself at accept.

    Args:
        transport: The transport. The prefix is that of the layer at the socket, which was given the wrapper's name and
            the proxy's address.
        slot: The attribute in which it keeps its protocol.
        protocol: The application's protocol.
        peer: The client's address.
    """
    above, layer = protocol, transport
    if slot != AT_THE_SOCKET:
        for below in islice(layers(transport), 1, None):
            above, layer = layer, below
    if hasattr(layer, "logstr"):
        prefix = above.logPrefix() if hasattr(above, "logPrefix") else type(above).__name__
        # a UNIXAddress has no host, and in Twisted 22.4 no text either where its path is not UTF-8
        client = peer.host if hasattr(peer, "host") else describe_address(to_sockaddr(peer))
        layer.logstr = f"{prefix},{getattr(layer, 'sessionno', '-')},{client}"


def connect(transport: Any, slot: str, protocol: IProtocol, trailing: bytes) -> None:
    """Begin the application, and give it the bytes that came with the header.

    They go to whatever is the transport's protocol by then: an application may have begun TLS in ``connectionMade``.
    It may also have paused, lost or aborted the connection there, and Twisted gives it no more data then; these bytes
    are data like any other. All three call ``stopReading`` of what reads the socket, which is watched for this.

    Args:
        transport: The transport, already handed over.
        slot: The attribute in which it keeps its protocol.
        protocol: The application's protocol.
        trailing: The bytes.
    """
    descriptor = _descriptor(transport, slot) if trailing else None
    if descriptor is None:
        protocol.makeConnection(transport)
    else:
        watch = _ReadWatch(descriptor)
        try:
            protocol.makeConnection(transport)
        except BaseException:
            watch.end()
            raise
        if not watch.reading:
            watch.hold(transport, slot, trailing)
            return
        del descriptor.stopReading
    if trailing:
        deliver(transport, slot, trailing)


def deliver(transport: Any, slot: str, data: bytes) -> None:
    """Give bytes to the present protocol of a transport.

    Args:
        transport: The transport.
        slot: The attribute in which it keeps its protocol.
        data: The bytes.
    """
    protocol = getattr(transport, slot)
    if protocol is not None:  # there is none any more when the connection is lost
        protocol.dataReceived(data)


def _descriptor(transport: Any, slot: str) -> Any:
    """Give what reads the socket below a transport, or None where there is no such thing."""
    below = (transport,) if slot == AT_THE_SOCKET else layers(transport)
    for layer in below:
        if hasattr(type(layer), "stopReading"):
            return layer
    return None


class _ReadWatch:
    """Knows whether an application reads, and holds bytes for it while it does not."""

    # most watches are over when these still hold
    reading = True
    _transport: Any = None
    _call: IDelayedCall | None = None

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor
        descriptor.stopReading = self._stop_reading

    def end(self) -> None:
        """Watch no longer."""
        del self._descriptor.stopReading
        if not self.reading:
            del self._descriptor.startReading

    def hold(self, transport: Any, slot: str, data: bytes) -> None:
        """Deliver bytes when the application reads again.

        Args:
            transport: The application's transport.
            slot: The attribute in which it keeps its protocol.
            data: The bytes.
        """
        self._transport, self._slot, self._data = transport, slot, data
        self._protocol = getattr(transport, slot)
        if transport is not self._descriptor:
            # Layers such as TLS may have read more already, and do not keep it for an application that pauses.
            setattr(transport, slot, self)

    def dataReceived(self, data: bytes) -> None:
        """Hold more bytes, in the place of the application's protocol.

        Args:
            data: The bytes.
        """
        self._data += data

    def _stop_reading(self) -> None:
        self.reading = False
        descriptor = self._descriptor
        descriptor.startReading = self._start_reading
        type(descriptor).stopReading(descriptor)
        if self._transport is not None:
            if self._call is not None:
                self._call.cancel()
                self._call = None
            if getattr(descriptor, "disconnected", False):
                self._release()

    def _start_reading(self) -> None:
        descriptor = self._descriptor
        if self._transport is None:
            self.reading = True
            del descriptor.startReading
            descriptor.startReading()
        elif self._call is None:
            # Not from inside the application's resumeProducing, which expects no data yet; and the socket is not read
            # before these bytes have gone, which came before what is in it.
            self._call = descriptor.reactor.callLater(0, self._resume)

    def _resume(self) -> None:
        self._release()
        self._descriptor.startReading()
        try:
            deliver(self._transport, self._slot, self._data)
        except BaseException:
            # the application's; this is not the reactor's read, and nobody else would drop the connection
            abort(self._transport)
            raise

    def _release(self) -> None:
        self.end()
        if getattr(self._transport, self._slot, None) is self:
            setattr(self._transport, self._slot, self._protocol)
