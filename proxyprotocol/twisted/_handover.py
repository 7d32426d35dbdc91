"""Floor 5: the hand-over of a connection from the wrapper to the application, after which the wrapper is gone.

Nothing of ours stays in the read path: the application's protocol becomes the transport's protocol, as Twisted's own
startTLS does it, and the transport gets new answers as attributes of its own.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, ILoggingContext, IProtocol

__all__: list[str] = []


def replace_protocol(transport: Any, old: IProtocol, new: IProtocol) -> bool:
    """Make *new* the protocol of a transport in the place of *old*.

    Args:
        transport: The transport.
        old: Its protocol so far.
        new: Its protocol from now on.

    Returns:
        Whether that was possible: a transport of a kind not known here may keep its protocol elsewhere.
    """
    # a ProtocolWrapper, such as TLS, answers "protocol" with that of the socket below it: so this first
    if getattr(transport, "protocol", None) is old:
        transport.protocol = new
    elif getattr(transport, "wrappedProtocol", None) is old:
        transport.wrappedProtocol = new
    else:
        return False
    return True


def answer(transport: Any, peer: IAddress, host: IAddress) -> None:
    """Give a transport other answers to ``getPeer`` and ``getHost``.

    Args:
        transport: The transport.
        peer: The client's address.
        host: The address that it connected to.
    """
    transport.getPeer = lambda: peer
    transport.getHost = lambda: host


def rename_in_log(transport: Any, protocol: IProtocol, peer: IAddress) -> None:
    """Name the application's protocol and the client in the transport's log prefix, as it does itself at accept.

    Args:
        transport: The transport; its prefix is made at accept, with the wrapper's name and the proxy's address.
        protocol: The application's protocol.
        peer: The client's address.
    """
    if hasattr(transport, "logstr"):
        prefix = protocol.logPrefix() if ILoggingContext.providedBy(protocol) else type(protocol).__name__
        number = getattr(transport, "sessionno", "-")
        transport.logstr = f"{prefix},{number},{getattr(peer, 'host', peer)}"


def connect(transport: Any, protocol: IProtocol, trailing: bytes) -> None:
    """Begin the application, and give it the bytes that came with the header.

    They go to whatever is the transport's protocol by then: an application may have begun TLS in ``connectionMade``.

    Args:
        transport: The transport, already handed over.
        protocol: The application's protocol.
        trailing: The bytes.
    """
    if not trailing:
        protocol.makeConnection(transport)
        return
    descriptor = _descriptor(transport)
    if descriptor is None:
        protocol.makeConnection(transport)
        deliver(transport, trailing)
    else:
        held = _HeldBytes(transport, descriptor, trailing)
        protocol.makeConnection(transport)
        held.release()


def deliver(transport: Any, data: bytes) -> None:
    """Give bytes to the present protocol of a transport.

    Args:
        transport: The transport.
        data: The bytes.
    """
    below = "wrappedProtocol" if "wrappedProtocol" in vars(transport) else "protocol"
    protocol = getattr(transport, below)
    if protocol is not None:  # a ProtocolWrapper has none any more when its connection is lost
        protocol.dataReceived(data)


def _descriptor(transport: Any) -> Any:
    """Give what reads the socket below a transport, or None where there is no such thing."""
    while transport is not None and "stopReading" not in dir(type(transport)):
        transport = vars(transport).get("transport")
    return transport


class _HeldBytes:
    """The bytes behind a header, held while the application does not read.

    An application may pause, lose or abort its connection in ``connectionMade``, and Twisted gives it no more data
    then; these bytes are data like any other. All three call ``stopReading`` of what reads the socket, and resuming
    calls ``startReading``, so these two are watched until the bytes are gone.
    """

    def __init__(self, transport: Any, descriptor: Any, data: bytes) -> None:
        self._transport = transport
        self._descriptor = descriptor
        self._data = data
        self._reading = True
        self._connecting = True
        self._call: IDelayedCall | None = None
        descriptor.stopReading = self._stop_reading
        descriptor.startReading = self._start_reading

    def release(self) -> None:
        """Deliver the bytes now that the application has begun, or when it reads again."""
        self._connecting = False
        if self._reading:
            self._deliver()

    def _stop_reading(self) -> None:
        self._reading = False
        if self._call is not None:
            self._call.cancel()
            self._call = None
        type(self._descriptor).stopReading(self._descriptor)
        if getattr(self._descriptor, "disconnected", False):
            self._forget()

    def _start_reading(self) -> None:
        self._reading = True
        if self._connecting:
            type(self._descriptor).startReading(self._descriptor)
        elif self._call is None:
            # Not from inside the application's resumeProducing, which expects no data yet; and the socket is not read
            # before these bytes have gone, which came before what is in it.
            self._call = self._descriptor.reactor.callLater(0, self._resume)

    def _resume(self) -> None:
        self._call = None
        type(self._descriptor).startReading(self._descriptor)
        self._deliver()

    def _deliver(self) -> None:
        self._forget()
        deliver(self._transport, self._data)

    def _forget(self) -> None:
        del self._descriptor.stopReading, self._descriptor.startReading
