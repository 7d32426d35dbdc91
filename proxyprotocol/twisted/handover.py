"""Floor 5: the hand-over of a connection from the wrapper to the application, after which the wrapper is gone.

Nothing of ours stays in the read path: the application's protocol becomes the transport's protocol, as Twisted's own
startTLS does it, and the transport gets new answers as attributes of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol

from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.twisted.addresses import from_sockaddr, to_sockaddr

__all__ = [
    "AT_THE_SOCKET",
    "HEADER",
    "IN_A_LAYER",
    "abort",
    "deliver",
    "find_slot",
    "hand_over",
    "layers",
    "log_prefix",
    "own_attributes",
]

# where a transport keeps its result, and what it told as its ``client`` before: hand_over() sets it as any attribute,
# which is faster than by this name
HEADER = "_proxyprotocol_header"
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


def log_prefix(protocol: Any) -> str:
    """Give the name of a protocol in the log, as Twisted's transports make it.

    Args:
        protocol: The protocol.
    """
    prefix: str = protocol.logPrefix() if hasattr(protocol, "logPrefix") else type(protocol).__name__
    return prefix


def hand_over(transport: Any, slot: str, protocol: Any, peer: Any, client: Any, connection: ReceiverConnection) -> None:
    """Make an application's protocol that of a transport, and begin it.

    It gets the bytes that came with the header, unless it has paused, lost or aborted the connection in
    ``connectionMade``: Twisted gives it no more data then, and these bytes are data like any other. All three call
    ``stopReading`` of what reads the socket, which is watched for this.

    Written as one function, because calls are felt here: in six parts it took a fifth longer.

    Args:
        transport: The transport that the application gets.
        slot: The attribute in which it keeps its protocol.
        protocol: The application's protocol.
        peer: The client's address.
        client: The same as the socket module gives it, if the header named it.
        connection: What was decided.
    """
    if slot is AT_THE_SOCKET:
        transport.protocol = protocol
        below, above = transport, protocol
    else:
        setattr(transport, slot, protocol)
        below, above = _socket_below(transport)
    real = getattr(transport, "client", None)  # as Twisted's servers have it: the socket module's address of the peer
    if connection.result is not None:
        # which refer to nothing, so that there is no cycle
        transport._proxyprotocol_header = connection.result, real
    if client is None:
        # a UNIXAddress has no host, and in Twisted 22.4 no text either where its path is not UTF-8
        name = getattr(peer, "host", None) or describe_address(to_sockaddr(peer))
    else:
        # a bound method is made faster than a closure
        transport.getPeer = MethodType(_itself, peer)
        transport.getHost = MethodType(_destination, connection.addresses)
        if type(client) is str:
            name, client = describe_address(client), (client, None)
        else:
            name = client[0]
        if real is not None:
            transport.client, transport.hostname = client, client[0]

    session = getattr(below, "sessionno", "-")
    if hasattr(below, "logstr"):  # made at accept, of the wrapper's name and the proxy's address
        # what log_prefix() gives
        prefix = above.logPrefix() if hasattr(above, "logPrefix") else type(above).__name__
        below.logstr = f"{prefix},{session},{name}"
        text = getattr(below, "repstr", None)
        if text is not None:
            below.repstr = text.replace("ProxyProtocolWrapper", type(above).__name__)

    trailing = connection.trailing
    # what has a number is one of Twisted's sockets, and need not be asked
    if not trailing or not (type(session) is int or hasattr(type(below), "stopReading")):
        protocol.makeConnection(transport)
        if trailing:
            deliver(transport, slot, trailing)
        return
    unstopped = below.stopReading = MethodType(_ReadWatch, below)
    try:
        protocol.makeConnection(transport)
    except BaseException:
        _end_watch(below)
        raise
    watch = below.stopReading
    if watch is unstopped:
        del below.stopReading
    elif type(watch) is _ReadWatch:  # and not something of the application's
        if not watch.reading:
            watch.hold(transport, slot, trailing)
            return
        _end_watch(below)
    deliver(transport, slot, trailing)


def _itself(peer: IAddress) -> IAddress:
    return peer


def _destination(addresses: ProxyResult) -> IAddress:
    return from_sockaddr(addresses.sockname)


def _socket_below(transport: Any) -> tuple[Any, Any]:
    """Give what is at the socket, below a layer such as TLS, and what is right above that."""
    above, below = None, transport
    for layer in layers(transport):
        above, below = below, layer
    return below, above


def deliver(transport: Any, slot: str, data: bytes) -> None:
    """Give bytes to the present protocol of a transport: an application may have begun TLS in ``connectionMade``.

    Args:
        transport: The transport.
        slot: The attribute in which it keeps its protocol.
        data: The bytes.
    """
    protocol = getattr(transport, slot)
    if protocol is not None:  # there is none any more when the connection is lost
        protocol.dataReceived(data)


def _end_watch(descriptor: Any) -> None:
    for name in ("stopReading", "startReading"):
        vars(descriptor).pop(name, None)


class _ReadWatch:
    """Knows whether an application reads that has stopped, and holds bytes for it; is the ``stopReading`` watched.

    To make one is to stop: few applications ever do, and all others are spared it.
    """

    __slots__ = ("_call", "_data", "_descriptor", "_protocol", "_slot", "_transport", "reading")

    _call: IDelayedCall | None

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor
        self._transport: Any = None
        if "stopReading" in vars(descriptor):
            descriptor.stopReading = self
            self()
        else:  # somebody has kept it for after the hand-over
            descriptor.stopReading()

    def hold(self, transport: Any, slot: str, data: bytes) -> None:
        """Deliver bytes when the application reads again.

        Args:
            transport: The application's transport.
            slot: The attribute in which it keeps its protocol.
            data: The bytes.
        """
        self._transport, self._slot, self._data, self._call = transport, slot, data, None
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

    def __call__(self) -> None:
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
        self._call = None  # which refers to this
        self._release()
        self._descriptor.startReading()
        try:
            deliver(self._transport, self._slot, self._data)
        except BaseException:
            # the application's; this is not the reactor's read, and nobody else would drop the connection
            abort(self._transport)
            raise

    def _release(self) -> None:
        _end_watch(self._descriptor)
        if getattr(self._transport, self._slot, None) is self:
            setattr(self._transport, self._slot, self._protocol)
