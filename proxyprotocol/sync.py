"""Blocking sockets, and the servers of :mod:`socketserver`.

We read the header to its last byte and no further, so the socket can go to any other code afterwards, also to
:mod:`ssl`.
"""

from __future__ import annotations

import _socket  # where gevent and others replace nothing
import contextlib
import errno
import inspect
import logging
import math
import os
import selectors
import socket
import ssl
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypedDict
from weakref import WeakKeyDictionary

from proxyprotocol._adapters import installation  # noqa: F401  # raises if proxy-protocol has overwritten this package
from proxyprotocol._adapters.listener import Listener, ThreadClock, describe_start, logging_to
from proxyprotocol._adapters.lookahead import REST, plan_reads
from proxyprotocol._adapters.refusals import PAUSE, Shortage
from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.errors import ProxyProtocolError
from proxyprotocol.receiver import Receiver, ReceiverConnection, ReceiverKeywords
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.sender import ResultSource, Sender
from proxyprotocol.typing import SockAddr

if TYPE_CHECKING:
    from socketserver import BaseServer

    from typing_extensions import Unpack
else:
    BaseServer = object  # at run time the mix-in has no base

__all__ = ["ProxyProtocolMixIn", "begin_tls", "create_connection", "read_header", "receive_header", "send_header"]

_log = logging.getLogger(__name__)

# The flag of a recv() that never waits. When the header is there, two of these read it, where time-outs need five more
# system calls. Only for the interpreter's own recv(): gevent's would wait nevertheless, and an SSLSocket has no flags.
_AT_ONCE: Final = int(getattr(socket, "MSG_DONTWAIT", 0))  # Windows has none

# the private value by which it knows that none was given; setdefaulttimeout() counts then
_DEFAULT_TIMEOUT: Any = inspect.signature(socket.create_connection).parameters["timeout"].default


# keywords that a class of a server may get by mistake; its "timeout" is that of socketserver
_NOT_HERE = ReceiverKeywords.__optional_keys__ - {"timeout"}


class _ConnectKeywords(TypedDict, total=False):
    """The keywords of :func:`socket.create_connection` that not every Python has."""

    all_errors: bool


def read_header(
    sock: socket.socket, *, receiver: Receiver | None = None, **keywords: Unpack[ReceiverKeywords]
) -> ProxyResult | None:
    """Read the header of a connection, and not a byte more.

    The receiver's time-out covers all reads together, from this call on. The socket's own time-out does not count
    meanwhile; it is restored afterwards.

    Args:
        sock: A connected stream socket, blocking or with a time-out.
        receiver: The rules for the header, in place of all other keywords.
        keywords: ``pp``, ``trusted``, ``timeout`` (seconds), and all others that :class:`.Receiver` takes.

    Returns:
        What the header says. If its ``peername`` is None (LOCAL, UNKNOWN), or the policy is IGNORE, the socket's own
        addresses count. None if there was no header, which the policies SKIP and OPTIONAL allow: then every byte is
        still in the socket.

    Raises:
        ProxyProtocolError: The connection is refused. Close the socket: a part of the header may be gone.
        ValueError: The socket is non-blocking, or a keyword's value is out of range; or the policy is OPTIONAL and the
            socket an :class:`ssl.SSLSocket`, which cannot peek.
        TypeError: There are a receiver and another keyword, or a keyword is unknown.
        OSError: The socket is closed.

    Warns:
        RuntimeWarning: There is neither a receiver nor ``trusted`` or ``policy``: everybody may name a client.
    """
    unsaid = receiver is None and "trusted" not in keywords and "policy" not in keywords
    receiver = Receiver.of(receiver, keywords)
    if unsaid:
        level, text = describe_start(receiver)
        if level >= logging.WARNING:
            warnings.warn(text, RuntimeWarning, stacklevel=2)
    peer = local = None
    if receiver.needs_addresses:
        local = sock.getsockname()
        with contextlib.suppress(OSError):  # the peer may be gone
            peer = sock.getpeername()
    try:
        return _read(sock, receiver.connection(peer, local), receiver.timeout).result
    except ProxyProtocolError as error:
        # The frames below hold the connection, which holds its error: a cycle, which only the garbage collector breaks.
        error.__traceback__ = None
        raise error


def send_header(sock: socket.socket, result: ResultSource = None, *, pp: ProxyProtocol | None = None) -> None:
    """Send a header in one piece. Call this before anything else is sent on the connection, also before TLS.

    Args:
        sock: A connected stream socket.
        result: What the header says, or a function that gets the socket and returns it. If it is None, or the function
            returns None, the client speaks for itself: version 2 says LOCAL, version 1 names the connection's own two
            addresses.
        pp: The codec; by default version 2.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The codec cannot express the result, such as LOCAL in version 1; some codecs raise KeyError.
        OSError: The socket is not connected.
        Exception: Whatever *result* raises.
    """
    _send(sock, Sender(result, pp=pp))


def create_connection(
    address: tuple[str, int],
    timeout: float | None = _DEFAULT_TIMEOUT,
    source_address: tuple[str, int] | None = None,
    *,
    result: ResultSource = None,
    pp: ProxyProtocol | None = None,
    **keywords: Unpack[_ConnectKeywords],
) -> socket.socket:
    """Connect, as :func:`socket.create_connection` does, and send a header.

    Args:
        address: Where to connect: host and port.
        timeout: The time-out in seconds, as :func:`socket.create_connection` takes it; None for none.
        source_address: The client's own address.
        result: What the header says, as :func:`send_header` takes it.
        pp: The codec; by default version 2.
        keywords: ``all_errors``, from Python 3.11.

    Raises:
        OSError: The connection failed.
        Exception: Whatever :func:`send_header` raises; the connection is closed then.
    """
    sender = Sender(result, pp=pp)
    sock = socket.create_connection(address, timeout, source_address, **keywords)  # type: ignore[misc]
    try:
        _send(sock, sender)
    except BaseException:
        sock.close()
        raise
    return sock


def _send(sock: socket.socket, sender: Sender) -> None:
    sock.sendall(sender.header(sock, sock.getsockname(), sock.getpeername()))


class ProxyProtocolMixIn(BaseServer):
    """Makes a server of :mod:`socketserver` read a header at the start of each connection.

    Put it first among the base classes: ``class Server(ProxyProtocolMixIn, ThreadingMixIn, TCPServer)``. The handler's
    ``client_address`` is the client's. Its ``request`` is the real connection, so its ``getpeername()`` returns the
    proxy. The header is read in the thread or process of the handler, so that a silent peer blocks no other connection.
    A peer that the policy rejects is dropped before that. For a refused connection no handler runs. The log has
    one line for it, and when the server starts one that says who is trusted.

    Raises:
        TypeError: The server is one for datagrams, or its class has an attribute that seems meant for the receiver:
            ``trusted`` or another keyword of :class:`.Receiver`, or a receiver under another name.

    Attributes:
        receiver: The rules for the header. Set this class attribute:
            ``receiver = Receiver(trusted=["10.0.0.0/8"])``. Without ``trusted`` the log warns that anybody may name a
            client.
        tls_context: The context for TLS *after* the header, in the same thread or process; None for no TLS.
        tls_timeout: Seconds that the handshake may take, and the same for the end of TLS; None for no limit.
    """

    receiver: Receiver = Receiver()
    # not "ssl_context": Werkzeug's servers set that, and mean TLS around the header
    tls_context: ssl.SSLContext | None = None
    tls_timeout: float | None = spec.DEFAULT_TLS_TIMEOUT
    _pid: int | None = None  # of the process that has made the listener
    _hint = " (in the class of the server: receiver = Receiver(trusted=...))"

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        before = cls.__mro__[: cls.__mro__.index(ProxyProtocolMixIn)]
        if any("server_activate" in vars(base) and not issubclass(base, ProxyProtocolMixIn) for base in before):
            raise TypeError(f"{cls.__name__}: ProxyProtocolMixIn must come first among the base classes")
        for name, value in vars(cls).items():
            if name in _NOT_HERE or (isinstance(value, Receiver) and name != "receiver"):
                raise TypeError(f"{cls.__name__}.{name} has no effect: write receiver = Receiver(trusted=...)")

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        if getattr(self, "socket_type", None) == socket.SOCK_DGRAM:
            raise TypeError(
                "ProxyProtocolMixIn is only for streams: read the header of a datagram by unpack_datagram()"
            )
        super().__init__(*arguments, **keywords)

    # made at their first use: a server that gets this class after its __init__ works too

    @cached_property
    def _connections(self) -> WeakKeyDictionary[Any, ReceiverConnection]:  # by request
        return WeakKeyDictionary()

    @cached_property
    def _shortage(self) -> Shortage:
        return Shortage(_log)

    def proxy_result(self, request: Any) -> ProxyResult | None:
        """Return what the header of a connection said, with its TLVs; None if there was no header.

        Args:
            request: The handler's ``request``, or its ``connection``, which is the same.
        """
        connection = self._connections.get(request)
        return None if connection is None else connection.result

    def server_activate(self) -> None:
        """Listen, and log what is read from whom."""
        super().server_activate()
        self._renew_listener()  # the receiver may have been set since
        self._listener.start(self.server_address)  # type: ignore[arg-type]
        self.receiver = self._listener.receiver

    def server_close(self) -> None:
        """Close the listening socket."""
        super().server_close()
        if self._pid is not None:  # socketserver also calls this when the start fails
            self._in_this_process().stop()

    def get_request(self) -> Any:
        """Accept a connection. If the system has no resources, pause: socketserver would try again at once for ever."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._shortage.tell(str(error.strerror), time.monotonic())
                time.sleep(PAUSE)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Drop a peer that the policy rejects, before it costs a thread or a process."""
        try:
            self._connections[request] = self._connection(request, client_address)
        except BaseException as error:
            self._in_this_process().refuse_raised(error, None, client_address)
            return False
        return super().verify_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Read the header, begin TLS after it, and run the handler with the client's address."""
        # an override of verify_request() may not have called super()
        connection = receive_header(request, client_address, self._in_this_process(), self._connections.get(request))
        if connection is None:
            return
        self._connections[request] = connection
        client = client_address if connection.effective is None else connection.effective.peername
        if self.tls_context is None:
            self._handle(request, client)
            return
        secured = begin_tls(
            request, self.tls_context, self.tls_timeout, self._in_this_process(), client, client_address
        )
        if secured is None:
            return
        with contextlib.ExitStack() as stack:
            stack.callback(self.shutdown_request, secured)  # socketserver closes only the empty request
            self._connections[secured] = connection
            self._handle(secured, client)
            # Say that this is the end: a client may take anything else for an attack. Do not wait for the client's end:
            # many clients keep the connection until they need it again.
            with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
                selector.register(secured, selectors.EVENT_WRITE)
                selector.select(self.tls_timeout)
                secured.settimeout(0)
                secured.unwrap()

    def _connection(self, request: socket.socket, peer: SockAddr) -> ReceiverConnection:
        return self.receiver.connection(peer, request.getsockname() if self.receiver.needs_addresses else None)

    def _renew_listener(self) -> None:
        self._listener = Listener(Receiver.of(self.receiver, {}), logging_to(_log), ThreadClock(), hint=self._hint)
        self._pid = os.getpid()

    def _in_this_process(self) -> Listener:
        """Return the listener, a new one after a fork: the old one waits for threads that only the parent has."""
        if self._pid != os.getpid():
            self._renew_listener()
        return self._listener

    def _handle(self, request: socket.socket, client: SockAddr) -> None:
        try:
            super().finish_request(request, client)
        except (ConnectionError, ssl.SSLError) as error:
            # A health check resets the connection right after its header: no reason for a traceback. But the error may
            # come from another connection, such as the handler's own to its database.
            if not _is_lost(request):
                raise
            _log.debug("The connection from %s was lost: %s", describe_address(client), error)


def receive_header(
    sock: socket.socket,
    peer: SockAddr,
    listener: Listener,
    connection: ReceiverConnection | None = None,
    sleep: Callable[[float], object] | None = None,
) -> ReceiverConnection | None:
    """Read the header of a connection that a server has accepted, by the rules of its listener.

    Args:
        sock: The connection, blocking or with a time-out.
        peer: The address that connected.
        listener: The log and the receiver of the listening socket.
        connection: What the policy has decided already; None to ask it now.
        sleep: Waits for seconds, by default in this thread. Where greenlets share a thread, give their library's.

    Returns:
        The connection, which has begun; None if it is refused. The log says why, and the caller closes the socket.

    Raises:
        Exception: Whatever the policy function raises.
    """
    receiver = listener.receiver
    try:
        if connection is None:
            connection = receiver.connection(peer, sock.getsockname() if receiver.needs_addresses else None)
        _read(sock, connection, receiver.timeout, sleep)
    except BaseException as error:
        listener.refuse_raised(error, connection, peer)
        return None
    if connection.trailing and connection.repeated:
        listener.warn_of_second_header(peer)
    return connection


def begin_tls(
    sock: socket.socket,
    context: ssl.SSLContext,
    timeout: float | None,
    listener: Listener,
    client: SockAddr,
    peer: SockAddr,
) -> ssl.SSLSocket | None:
    """Do the server's TLS handshake after the header.

    Args:
        sock: The connection. Its own time-out does not count meanwhile.
        context: The context for TLS.
        timeout: Seconds that the handshake may take; None for no limit.
        listener: The log of the listening socket.
        client: The client's address.
        peer: The address that connected.

    Returns:
        The socket with TLS; None if the handshake failed. The log says why, and the connection is closed.
    """
    own_timeout, secured = sock.gettimeout(), None
    try:
        sock.getpeername()  # if the peer is gone, wrap_socket() would raise too, but leave the socket open
        secured = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        secured.settimeout(timeout)
        secured.do_handshake()
    except OSError as error:  # SSLError is one
        listener.refuse_handshake(error, client, peer)
        (secured or sock).close()
        return None
    secured.settimeout(own_timeout)
    return secured


def _is_lost(sock: socket.socket) -> bool:
    """Return whether a connection or its TLS has ended; this may read a byte, which no handler wants any more."""
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


def _read(
    sock: socket.socket,
    connection: ReceiverConnection,
    timeout: float | None,
    sleep: Callable[[float], object] | None = None,
) -> ReceiverConnection:
    """Read until the application may begin; raise ProxyProtocolError if the connection is refused."""
    own_timeout = sock.gettimeout()
    if own_timeout == 0:
        raise ValueError("The socket is non-blocking: call settimeout(None) before this")
    if connection.undecided and isinstance(sock, ssl.SSLSocket):
        raise ValueError("OPTIONAL must peek at the first bytes, and an SSLSocket cannot: use another policy")
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    if sock.fileno() < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    at_once = _AT_ONCE if getattr(type(sock), "recv", None) is _socket.socket.recv else 0
    reads, data = plan_reads(sock, connection), None
    try:
        while True:
            data = _receive(sock, reads.send(data), deadline, sleep, at_once)
            if data is None:
                connection.timed_out()
                break
    except StopIteration:
        pass
    finally:
        if sock.gettimeout() != own_timeout:
            with contextlib.suppress(OSError):  # the socket was closed meanwhile
                sock.settimeout(own_timeout)
    return connection


def _receive(
    sock: socket.socket,
    read: tuple[int, int] | None,
    deadline: float,
    sleep: Callable[[float], object] | None,
    at_once: int,
) -> bytes | None:
    """Do one of the planned reads; return ``b""`` at the end of the stream, and None when the time is over."""
    remaining = max(deadline - time.monotonic(), 0)
    if read is None:
        (sleep or time.sleep)(min(REST, remaining))
        return b"" if remaining else None
    size, flags = read
    if at_once:
        try:
            if sock.gettimeout() is not None:
                sock.settimeout(None)  # otherwise the socket module waits before it calls recv()
            return sock.recv(size, flags | at_once)
        except BlockingIOError:
            pass
        except OSError:  # such as a reset, which ends the stream too
            return b""
    # If this process was stopped meanwhile, the header may be in the socket, and is not late: look once more.
    for seconds in (remaining, 0):
        sock.settimeout(None if seconds == math.inf else seconds)
        try:
            return sock.recv(size, flags)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            continue
        except (OSError, EOFError):  # such as a reset, which ends the stream too; eventlet raises EOFError
            return b""
    return None
