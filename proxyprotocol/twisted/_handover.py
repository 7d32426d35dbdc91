"""Floor 5: the hand-over of a connection from the wrapper to the application, after which the wrapper is gone.

Nothing of ours stays in the read path: the application's protocol becomes the transport's protocol, as Twisted's own
startTLS does it, and the transport gets new answers as attributes of its own.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol
from twisted.protocols.policies import ProtocolWrapper

from proxyprotocol.result import ProxyResult
from proxyprotocol.twisted._addresses import from_sockaddr

__all__: list[str] = []

# Where a transport keeps its result, which refers to nothing, so that there is no cycle.
RESULT = "_proxyprotocol_result"


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


def answer(transport: Any, peer: IAddress, result: ProxyResult) -> None:
    """Give a transport the client's answers to ``getPeer`` and ``getHost``.

    Args:
        transport: The transport.
        peer: The client's address.
        result: The result, for the address that the client connected to.
    """
    transport.getPeer = lambda: peer
    transport.getHost = lambda: from_sockaddr(result.sockname)


def rename_in_log(transport: Any, protocol: Any, peer: Any) -> None:
    """Name the application's protocol and the client in the transport's log prefix, as it does itself at accept.

    Args:
        transport: The transport; its prefix is made at accept, with the wrapper's name and the proxy's address.
        protocol: The application's protocol.
        peer: The client's address.
    """
    if hasattr(transport, "logstr"):
        prefix = protocol.logPrefix() if hasattr(protocol, "logPrefix") else type(protocol).__name__
        transport.logstr = f"{prefix},{getattr(transport, 'sessionno', '-')},{getattr(peer, 'host', peer)}"


def connect(transport: Any, protocol: IProtocol, trailing: bytes) -> None:
    """Begin the application, and give it the bytes that came with the header.

    They go to whatever is the transport's protocol by then: an application may have begun TLS in ``connectionMade``.
    It may also have paused, lost or aborted the connection there, and Twisted gives it no more data then; these bytes
    are data like any other. All three call ``stopReading`` of what reads the socket, which is watched for this.

    Args:
        transport: The transport, already handed over.
        protocol: The application's protocol.
        trailing: The bytes.
    """
    descriptor = _descriptor(transport) if trailing else None
    if descriptor is None:
        protocol.makeConnection(transport)
    else:
        watch = _ReadWatch(descriptor)
        protocol.makeConnection(transport)
        if not watch.reading:
            watch.hold(transport, trailing)
            return
        watch.end()
    if trailing:
        deliver(transport, trailing)


def deliver(transport: Any, data: bytes) -> None:
    """Give bytes to the present protocol of a transport.

    Args:
        transport: The transport.
        data: The bytes.
    """
    protocol = transport.wrappedProtocol if isinstance(transport, ProtocolWrapper) else transport.protocol
    if protocol is not None:  # a ProtocolWrapper has none any more when its connection is lost
        protocol.dataReceived(data)


def _descriptor(transport: Any) -> Any:
    """Give what reads the socket below a transport, or None where there is no such thing."""
    while transport is not None and not hasattr(type(transport), "stopReading"):
        transport = vars(transport).get("transport")
    return transport


class _ReadWatch:
    """Knows whether an application reads, and holds bytes for it while it does not."""

    __slots__ = ("_call", "_data", "_descriptor", "_transport", "reading")

    def __init__(self, descriptor: Any) -> None:
        self.reading = True
        self._descriptor = descriptor
        self._data: bytes | None = None
        descriptor.stopReading = self._stop_reading

    def end(self) -> None:
        """Watch no longer."""
        del self._descriptor.stopReading

    def hold(self, transport: Any, data: bytes) -> None:
        """Deliver bytes when the application reads again."""
        self._transport = transport
        self._data = data
        self._call: IDelayedCall | None = None

    def _stop_reading(self) -> None:
        self.reading = False
        descriptor = self._descriptor
        descriptor.startReading = self._start_reading
        type(descriptor).stopReading(descriptor)
        if self._data is not None:
            if self._call is not None:
                self._call.cancel()
                self._call = None
            if getattr(descriptor, "disconnected", False):
                self._release()

    def _start_reading(self) -> None:
        descriptor = self._descriptor
        if self._data is None:
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
        deliver(self._transport, self._data or b"")

    def _release(self) -> None:
        self.end()
        del self._descriptor.startReading
