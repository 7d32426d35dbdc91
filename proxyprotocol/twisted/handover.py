"""Hands a connection over from the wrapper to the application, after which the wrapper is gone.

None of our code stays in the read path. As in Twisted's own startTLS, the application's protocol becomes the
transport's protocol. The transport gets new ``getPeer``, ``getHost`` and ``client`` as instance attributes.
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

# the attribute in which a transport keeps its result and its former ``client``; hand_over() writes the name out,
# because setattr() is slower
HEADER = "_proxyprotocol_header"
# the attributes in which Twisted's transports keep their protocol
AT_THE_SOCKET: Final = "protocol"
IN_A_LAYER: Final = "wrappedProtocol"
# far more than anybody stacks; it also ends the search if transports form a ring
_MOST_LAYERS: Final = 32


def own_attributes(transport: Any) -> Mapping[str, Any]:
    """Return the attributes of a transport itself, without those it looks up on another transport below it.

    Args:
        transport: The transport, or any other object.
    """
    attributes: Mapping[str, Any] = getattr(transport, "__dict__", {})
    return attributes


def layers(transport: Any) -> Iterator[Any]:
    """Yield a transport and the transports below it, as layers such as TLS keep them.

    Args:
        transport: The transport, or any other object.
    """
    for _ in range(_MOST_LAYERS):
        if transport is None:
            return
        yield transport
        # own attributes only: a mock in a test makes up every attribute, so it would never run out of transports
        transport = own_attributes(transport).get("transport")


def find_slot(transport: Any, protocol: IProtocol) -> str | None:
    """Return the name of the attribute in which a transport keeps its protocol.

    Args:
        transport: The transport.
        protocol: Its protocol.

    Returns:
        The name; None for a transport of an unknown kind, which may keep its protocol elsewhere.
    """
    # first: a ProtocolWrapper, such as TLS, looks up "protocol" on the socket below it
    if getattr(transport, AT_THE_SOCKET, None) is protocol:
        return AT_THE_SOCKET
    return IN_A_LAYER if getattr(transport, IN_A_LAYER, None) is protocol else None


def abort(transport: Any) -> None:
    """Drop a connection at once; a transport without ``abortConnection``, such as standard input, closes normally.

    Args:
        transport: The connection's transport.
    """
    (getattr(transport, "abortConnection", None) or transport.loseConnection)()


def log_prefix(protocol: Any) -> str:
    """Return the name of a protocol in the log, as Twisted's transports make it.

    Args:
        protocol: The protocol.
    """
    prefix: str = protocol.logPrefix() if hasattr(protocol, "logPrefix") else type(protocol).__name__
    return prefix


def hand_over(transport: Any, slot: str, protocol: Any, peer: Any, client: Any, connection: ReceiverConnection) -> None:
    """Make the application's protocol the protocol of a transport, and start it.

    The protocol then gets the bytes that arrived after the header. If it pauses, loses or aborts the connection in
    ``connectionMade``, they wait until it reads again: Twisted delivers no data meanwhile, and these bytes are data
    like any other. All three call ``stopReading`` on the object that reads the socket, so this function watches that
    method.

    This is one long function because calls cost time here: split into six, it took a fifth longer.

    Args:
        transport: The transport that the application gets.
        slot: The attribute in which the transport keeps its protocol.
        protocol: The application's protocol.
        peer: The client's address.
        client: The same address in the form of the socket module; None if the header did not name a client.
        connection: The decided connection.
    """
    if slot is AT_THE_SOCKET:
        transport.protocol = protocol
        below, above = transport, protocol
    else:
        setattr(transport, slot, protocol)
        below, above = _socket_below(transport)
    real = getattr(transport, "client", None)  # Twisted's servers keep the peer's socket address there
    if connection.result is not None:
        # neither value refers to the transport, so there is no reference cycle
        transport._proxyprotocol_header = connection.result, real
    if client is None:
        # a UNIXAddress lacks a host, and Twisted 22.4 cannot format one if its path is not UTF-8
        name = getattr(peer, "host", None) or describe_address(to_sockaddr(peer))
    else:
        # Python makes a bound method faster than a closure
        transport.getPeer = MethodType(_itself, peer)
        transport.getHost = MethodType(_destination, connection.effective)
        if type(client) is str:
            name, client = describe_address(client), (client, None)
        else:
            name = client[0]
        if real is not None:
            transport.client, transport.hostname = client, client[0]

    session = getattr(below, "sessionno", "-")
    if hasattr(below, "logstr"):  # made at accept from the wrapper's name and the proxy's address
        # log_prefix(), inline for speed
        prefix = above.logPrefix() if hasattr(above, "logPrefix") else type(above).__name__
        below.logstr = f"{prefix},{session},{name}"
        text = getattr(below, "repstr", None)
        if text is not None:
            below.repstr = text.replace("ProxyProtocolWrapper", type(above).__name__)

    trailing = connection.trailing
    # an int session number means a Twisted socket, which has stopReading
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
    elif type(watch) is _ReadWatch:  # otherwise the application has replaced it
        if not watch.reading:
            watch.hold(transport, slot, trailing)
            return
        _end_watch(below)
    deliver(transport, slot, trailing)


def _itself(peer: IAddress) -> IAddress:
    return peer


def _destination(effective: ProxyResult) -> IAddress:
    return from_sockaddr(effective.sockname)


def _socket_below(transport: Any) -> tuple[Any, Any]:
    """Return the object at the socket, below layers such as TLS, and the object right above it."""
    above, below = None, transport
    for layer in layers(transport):
        above, below = below, layer
    return below, above


def deliver(transport: Any, slot: str, data: bytes) -> None:
    """Pass bytes to the current protocol of a transport: ``connectionMade`` may have replaced it to start TLS.

    Args:
        transport: The transport.
        slot: The attribute in which the transport keeps its protocol.
        data: The bytes.
    """
    protocol = getattr(transport, slot)
    if protocol is not None:  # None after the connection was lost
        protocol.dataReceived(data)


def _end_watch(descriptor: Any) -> None:
    for name in ("stopReading", "startReading"):
        vars(descriptor).pop(name, None)


class _ReadWatch:
    """Replaces ``stopReading`` of a transport; holds bytes for an application that has stopped reading.

    The instance is made when the application calls ``stopReading``. Few applications ever do, and the others pay
    nothing.
    """

    __slots__ = ("_call", "_data", "_descriptor", "_protocol", "_slot", "_transport", "reading")

    _call: IDelayedCall | None

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor
        self._transport: Any = None
        if "stopReading" in vars(descriptor):
            descriptor.stopReading = self
            self()
        else:  # somebody kept a reference and calls it after the hand-over
            descriptor.stopReading()

    def hold(self, transport: Any, slot: str, data: bytes) -> None:
        """Keep bytes, and deliver them when the application reads again."""
        self._transport, self._slot, self._data, self._call = transport, slot, data, None
        self._protocol = getattr(transport, slot)
        if transport is not self._descriptor:
            # Layers such as TLS may have read more already, and deliver it even to an application that pauses.
            setattr(transport, slot, self)

    def dataReceived(self, data: bytes) -> None:
        """Hold more bytes, in place of the application's protocol."""
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
            # Wait until the application's resumeProducing has returned: it does not expect data yet. Until then do not
            # read the socket: its bytes came after the held ones.
            self._call = descriptor.reactor.callLater(0, self._resume)

    def _resume(self) -> None:
        self._call = None  # the delayed call refers to this object
        self._release()
        self._descriptor.startReading()
        try:
            deliver(self._transport, self._slot, self._data)
        except BaseException:
            # from the application; outside the reactor's read nobody else would drop the connection
            abort(self._transport)
            raise

    def _release(self) -> None:
        _end_watch(self._descriptor)
        if getattr(self._transport, self._slot, None) is self:
            setattr(self._transport, self._slot, self._protocol)
