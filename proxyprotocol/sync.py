"""Blocking sockets, and the servers of :mod:`socketserver`.

The header is read to its last byte and not one further, so that the socket can be given to anybody afterwards, to
:mod:`ssl` too.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from proxyprotocol._adapters import installation  # noqa: F401  # raises where proxy-protocol lies over us
from proxyprotocol._adapters.lookahead import REST, plan_reads
from proxyprotocol._adapters.refusals import PAUSE, Shortage, log_no_handshake, log_refusal
from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.sender import Sender
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from socketserver import BaseServer

    from typing_extensions import Unpack
else:
    BaseServer = object  # the mix-in stands in front of a server, and has no base

__all__ = ["ProxyProtocolMixIn", "create_connection", "read_header", "send_header"]

_ResultSource: TypeAlias = "ProxyResult | Callable[[socket.socket], ProxyResult | None] | None"

_log = logging.getLogger(__name__)

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# What socket.create_connection has for "the default time-out"; without it None could not mean "none".
_DEFAULT_TIMEOUT: Any = object()


def read_header(
    sock: socket.socket, *, receiver: Receiver | None = None, **keywords: Unpack[ReceiverKeywords]
) -> ProxyResult | None:
    """Read the header of a connection, and not a byte of what follows it.

    The time that a header may take is that of the receiver, from this call on and over all reads. The socket's own
    time-out does not count meanwhile, and is what it was afterwards.

    Args:
        sock: A connected stream socket, blocking or with a time-out.
        receiver: How the connection is received, in place of all other keywords.
        keywords: ``pp``, ``policy``, ``timeout`` (seconds), ``max_header`` (bytes), as :class:`.Receiver` takes them.

    Returns:
        What the header says; None where there was none, as the policies SKIP and OPTIONAL allow. Then every byte that
        came is still in the socket. Where its ``peername`` is None (LOCAL, UNKNOWN) the socket's own addresses count,
        and under the policy IGNORE they always do.

    Raises:
        ProxyProtocolError: Close the socket, of which a part may have been read: it is refused.
        ValueError: The socket is non-blocking, or a keyword's value is out of range; or the policy is OPTIONAL and the
            socket an :class:`ssl.SSLSocket`, in which nobody can look ahead.
        TypeError: There are a receiver and another keyword, or a keyword is unknown.
        OSError: The socket is closed already.
    """
    receiver = Receiver.of(receiver, keywords)
    try:
        peer, local = _addresses(sock) if receiver.needs_addresses else (None, None)
        return _read(sock, receiver.connection(peer, local), receiver.timeout).result
    except ProxyProtocolError as error:
        # The frames below hold the connection, which holds its error: in a circle, for the garbage collector to find.
        error.__traceback__ = None
        raise error


def send_header(sock: socket.socket, result: _ResultSource = None, *, pp: ProxyProtocol | None = None) -> None:
    """Send a header, in one piece. It must be the first that is sent on a connection, before TLS too.

    Args:
        sock: A connected stream socket, on which nothing was sent yet.
        result: What the header says, or a function that is given the socket and says it. With None, the function's
            None too, the client speaks for itself: version 2 says LOCAL, version 1 names the connection's own two
            addresses.
        pp: The codec; version 2 unless given.

    Raises:
        TypeError: An argument is of another type.
        ValueError: The header cannot say this, as version 1 cannot say LOCAL: a KeyError then, from some codecs.
        OSError: The socket is not connected, or no longer.
        Exception: What *result* raises.
    """
    _send(sock, Sender(result, pp=pp))


def create_connection(
    address: tuple[str, int],
    timeout: float | None = _DEFAULT_TIMEOUT,
    source_address: tuple[str, int] | None = None,
    *,
    result: _ResultSource = None,
    pp: ProxyProtocol | None = None,
    **keywords: Any,
) -> socket.socket:
    """Connect, as :func:`socket.create_connection` does, and send a header.

    Args:
        address: Where to connect: host and port.
        timeout: How long each step may take from now on, in seconds; None for no limit.
        source_address: Where to connect from.
        result: What the header says, as :func:`send_header` takes it.
        pp: The codec; version 2 unless given.
        keywords: All others of :func:`socket.create_connection`.

    Raises:
        OSError: There is no connection.
        Exception: As :func:`send_header`; the connection is closed then.
    """
    sender = Sender(result, pp=pp)
    if timeout is not _DEFAULT_TIMEOUT:
        keywords["timeout"] = timeout
    sock = socket.create_connection(address, source_address=source_address, **keywords)
    try:
        _send(sock, sender)
    except BaseException:
        sock.close()
        raise
    return sock


def _send(sock: socket.socket, sender: Sender) -> None:
    sock.sendall(sender.header(sock, sock.getsockname(), sock.getpeername()))


class ProxyProtocolMixIn(BaseServer):
    """Makes a server of :mod:`socketserver` read a header in front of each connection.

    It stands first among the base classes: ``class Server(ProxyProtocolMixIn, ThreadingMixIn, TCPServer)``. The
    handler's ``client_address`` is the client's; its ``request`` is the connection as it is, whose ``getpeername()``
    is the proxy. The header is read where the handler runs, in its thread or process, so that a silent peer keeps
    nobody waiting; a peer that the policy rejects is dropped before there is one. A connection that is refused has one
    line in the log, and no handler.

    Raises:
        TypeError: The server is one for datagrams.

    Attributes:
        receiver: How connections are received. It is configured by a class attribute:
            ``receiver = Receiver(policy=TrustedProxies(["10.0.0.0/8"]))``.
        tls_context: What TLS *behind* the header is done with, in the same thread or process; None for no TLS.
        tls_timeout: How long the handshake may take, in seconds, and its counterpart at the end; None for no limit.
    """

    receiver: Receiver = Receiver()
    # not "ssl_context": Werkzeug's servers assign to that, and mean TLS around the header
    tls_context: ssl.SSLContext | None = None
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        if getattr(self, "socket_type", None) == socket.SOCK_DGRAM:
            raise TypeError("ProxyProtocolMixIn is for streams: a datagram's header is read by unpack_datagram()")
        # what was decided for each request, from accept on and for as long as there is one
        self._connections: WeakKeyDictionary[Any, ReceiverConnection] = WeakKeyDictionary()
        self._shortage = Shortage(_log)
        super().__init__(*arguments, **keywords)

    def proxy_result(self, request: Any) -> ProxyResult | None:
        """Return the result of a connection's header, with its TLVs; None without a header.

        Args:
            request: The handler's ``request``, or its ``connection``, which is the same.
        """
        connection = self._connections.get(request)
        return None if connection is None else connection.result

    def get_request(self) -> Any:
        """Accept a connection. Where the system has no resources for it, rest before the next try.

        Those who connect wait in the system's queue. Without the rest socketserver would try again at once, over and
        over.
        """
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                self._shortage.tell(str(error.strerror), time.monotonic())
                time.sleep(PAUSE)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Drop a peer that the policy rejects, before it costs a thread or a process."""
        try:
            self._connections[request] = self._connection(request, client_address)
        except ProxyProtocolError as error:
            log_refusal(_log, error, client_address)
            return False
        except Exception:
            # the policy function's; it is caught by nobody here, and would end the server
            self.handle_error(request, client_address)
            return False
        return super().verify_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Read the header, do TLS behind it, and let the handler have the connection of the client."""
        try:
            # an override of verify_request() may not have called this one
            connection = self._connections.get(request) or self._connection(request, client_address)
            _read(request, connection, self.receiver.timeout)
        except ProxyProtocolError as error:
            log_refusal(_log, error, client_address)
            return
        self._connections[request] = connection
        effective = connection.effective
        client = client_address if effective is None else effective.peername
        if self.tls_context is None:
            self._handle(request, client)
        else:
            self._handle_tls(self.tls_context, request, client, client_address)

    def _connection(self, request: socket.socket, peer: SockAddr) -> ReceiverConnection:
        local = _addresses(request)[1] if self.receiver.needs_addresses else None
        return self.receiver.connection(peer, local)

    def _handle(self, request: socket.socket, client: SockAddr) -> None:
        try:
            super().finish_request(request, client)
        except (ConnectionError, ssl.SSLError) as error:
            # A health check resets the connection right behind its header, and socketserver would print a traceback
            # each time. Of another connection, such as the handler's own to its database, it must.
            if not _is_lost(request):
                raise
            _log.debug("The connection from %s was lost: %s", describe_address(client), error)

    def _handle_tls(self, context: ssl.SSLContext, request: socket.socket, client: SockAddr, peer: SockAddr) -> None:
        connection, timeout = self._connections[request], request.gettimeout()
        try:
            secured = _begin_tls(context, request, self.tls_timeout)
        except OSError as error:  # SSLError is one
            log_no_handshake(_log, error, client, peer)
            return
        # socketserver will close the request, which has given its socket away
        try:
            secured.settimeout(timeout)
            self._connections[secured] = connection
            self._handle(secured, client)
            _end_tls(secured, self.tls_timeout)
        finally:
            self.shutdown_request(secured)


def _addresses(sock: socket.socket) -> tuple[SockAddr, SockAddr]:
    """Return the addresses of the peer, if it is still there, and of the socket."""
    local = sock.getsockname()
    try:
        return sock.getpeername(), local
    except OSError:
        return None, local


def _is_lost(sock: socket.socket) -> bool:
    """Return whether a connection has ended, or its TLS; of TLS what has come next is taken, which nobody wants now."""
    try:
        sock.getpeername()
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(0)
            return not sock.recv(1)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    except OSError:
        return True
    return False


def _read(sock: socket.socket, connection: ReceiverConnection, timeout: float | None) -> ReceiverConnection:
    """Read until the application may begin.

    Raises:
        ProxyProtocolError: Close the socket.
    """
    own_timeout = sock.gettimeout()
    if own_timeout == 0:
        raise ValueError("The socket is non-blocking: settimeout(None) makes it a blocking one for as long as needed")
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    reads, data = plan_reads(sock, connection), None
    try:
        while True:
            read = reads.send(data)
            if read is not None:
                data = _receive(sock, *read, deadline)
            elif time.monotonic() < deadline:
                time.sleep(REST)
            else:
                data = None
            if data is None:
                connection.timed_out()
                break
    except StopIteration:
        pass
    finally:
        with contextlib.suppress(OSError):  # the socket was closed meanwhile
            sock.settimeout(own_timeout)
    return connection


def _receive(sock: socket.socket, size: int, flags: int, deadline: float) -> bytes | None:
    """Receive at most *size* bytes; return ``b""`` at the end of the stream, and None when the time is over."""
    remaining = max(deadline - time.monotonic(), 0)
    # If this process was stopped meanwhile, the header may be in the socket, and is not late: look once more.
    for seconds in (remaining, 0):
        sock.settimeout(None if seconds == math.inf else seconds)
        try:
            return sock.recv(size, flags)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            continue
        except OSError:  # such as a reset, which ends the stream too
            return b""
    return None


def _begin_tls(context: ssl.SSLContext, sock: socket.socket, timeout: float | None) -> ssl.SSLSocket:
    """Do the handshake of a server.

    Raises:
        OSError: It has failed, and the connection is closed.
    """
    sock.getpeername()  # raises if the peer is gone: wrap_socket() would raise too, but leave the socket open
    secured = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    try:
        secured.settimeout(timeout)
        secured.do_handshake()
    except BaseException:
        secured.close()
        raise
    return secured


def _end_tls(sock: ssl.SSLSocket, timeout: float | None) -> None:
    """Say that everything was sent, without which a client may take the end for an attack.

    The client's own word is not waited for: many leave the connection lying about until they need it again.
    """
    with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        selector.select(timeout)
        sock.settimeout(0)
        sock.unwrap()
