"""Hands a connection over from the wrapper to the application, after which the wrapper is gone.

None of our code stays in the read path. As in Twisted's own startTLS, the application's protocol becomes the
transport's protocol. The transport gets new ``getPeer``, ``getHost`` and ``client`` as instance attributes.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall

from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.twisted.transport import AT_THE_SOCKET, HEADER, abort, from_sockaddr, layers, to_sockaddr

__all__ = ["hand_over"]


def hand_over(transport: Any, slot: str, protocol: Any, peer: Any, client: Any, connection: ReceiverConnection) -> None:
    """Make the application's protocol the protocol of a transport, and start it.

    The protocol then gets the bytes that arrived after the header. If it pauses, loses or aborts the connection in
    ``connectionMade``, they wait until it reads again: Twisted delivers no data meanwhile, and these bytes are data
    like any other. All three call ``stopReading`` on the object that reads the socket, so this function watches that
    method.

    *client* is the address *peer* in the form of the socket module, or None if the header did not name a client.

    This is one long function because calls cost time here: split into six, it took a fifth longer.
    """
    below, above = transport, protocol  # the object at the socket, and the object right above it
    if slot is AT_THE_SOCKET:
        transport.protocol = protocol
    else:
        setattr(transport, slot, protocol)
        _, *lower = layers(transport)
        for layer in lower:
            above, below = below, layer
    real = getattr(transport, "client", None)  # Twisted's servers keep the peer's socket address there
    if connection.result is not None:
        # neither value refers to the transport, so there is no reference cycle
        setattr(transport, HEADER, (connection.result, real))
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
    else:
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
    # Ask again for the protocol: connectionMade may have replaced it to start TLS. It is None after a loss.
    if trailing and (current := getattr(transport, slot)) is not None:
        current.dataReceived(trailing)


def _itself(peer: IAddress) -> IAddress:
    return peer


def _destination(effective: ProxyResult) -> IAddress:
    return from_sockaddr(effective.sockname)


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
        else:  # the application kept a reference, and calls it after the hand-over
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
            if (protocol := getattr(self._transport, self._slot)) is not None:  # None after the connection was lost
                protocol.dataReceived(self._data)
        except BaseException:
            # from the application; outside the reactor's read nobody else would drop the connection
            abort(self._transport)
            raise

    def _release(self) -> None:
        _end_watch(self._descriptor)
        if getattr(self._transport, self._slot, None) is self:
            setattr(self._transport, self._slot, self._protocol)
