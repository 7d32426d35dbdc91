"""An adapter of your own: plain sockets and a selector, on the parts of proxyprotocol that do no input or output.

One thread accepts connections and reads their headers, so that silent peers cost no threads. An application gets a
thread of its own once its client is known. Run it with a port, the trusted proxies, and a time-out in seconds:

    python examples/selectors_echo.py 8080 10.0.0.0/8,127.0.0.1 5
"""

from __future__ import annotations

import logging
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from proxyprotocol import ProxyProtocolError, Receiver, TrustedProxies
from proxyprotocol.messages import describe_refusal
from proxyprotocol.receiver import ReceiverConnection
from proxyprotocol.typing import SockAddr

#: A server's code: it takes the socket, the client's address, and the bytes that came with the header.
Application = Callable[[socket.socket, SockAddr, bytes], None]

log = logging.getLogger("selectors_echo")


class Waiting(NamedTuple):
    """A connection that waits for its header."""

    connection: ReceiverConnection
    peer: SockAddr
    deadline: float


class HeaderServer:
    """Reads the header of every connection, then starts the application in a thread.

    Args:
        listener: A listening socket.
        receiver: What to read, from whom, and for how long.
        application: The function to start for each accepted connection.
    """

    def __init__(self, listener: socket.socket, receiver: Receiver, application: Application) -> None:
        self._listener, self._receiver, self._application = listener, receiver, application
        # All connections have the same time-out, so the oldest entry is always the first that expires.
        self._waiting: dict[socket.socket, Waiting] = {}
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def serve_forever(self) -> None:
        """Accept connections until the process ends."""
        while True:
            first = next(iter(self._waiting.values()), None)
            ready = self._selector.select(None if first is None else max(first.deadline - time.monotonic(), 0))
            # Read before looking at the clock: a process that was suspended must not refuse headers that have arrived.
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.fileobj)
            self._expire()

    def _accept(self) -> None:
        try:
            sock, peer = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the client has gone
        except OSError as error:
            log.warning("Cannot accept for now: %s", error)
            time.sleep(0.1)  # out of file descriptors: select() would return at once, over and over
            return
        sock.setblocking(False)
        try:
            connection = self._receiver.connection(peer, sock.getsockname())  # asks the policy
        except ProxyProtocolError as error:
            self._refuse(sock, peer, error)  # before a byte is read
            return
        timeout = self._receiver.timeout
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        self._waiting[sock] = Waiting(connection, peer, deadline)
        self._selector.register(sock, selectors.EVENT_READ)
        if connection.begun:  # the policy is SKIP: there is no header to read
            self._begin(sock)

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the connection was reset, which ends it as well
        connection = self._waiting[sock].connection
        if data:
            self._advance(sock, lambda: connection.feed(data))
        else:
            self._advance(sock, connection.eof)

    def _expire(self) -> None:
        now = time.monotonic()
        for sock in [sock for sock, waiting in self._waiting.items() if waiting.deadline <= now]:
            self._advance(sock, self._waiting[sock].connection.timed_out)

    def _advance(self, sock: socket.socket, step: Callable[[], bool]) -> None:
        """Take one step of a connection: the receiver decides whether it waits, begins or is refused."""
        try:
            begun = step()
        except ProxyProtocolError as error:
            self._refuse(sock, self._forget(sock).peer, error)
            return
        if begun:
            self._begin(sock)

    def _forget(self, sock: socket.socket) -> Waiting:
        self._selector.unregister(sock)
        return self._waiting.pop(sock)

    def _refuse(self, sock: socket.socket, peer: SockAddr, error: ProxyProtocolError) -> None:
        # What happens every day, such as a health check, is not worth more than a debug line.
        log.log(logging.DEBUG if error.routine else logging.WARNING, describe_refusal(error, peer))
        sock.close()

    def _begin(self, sock: socket.socket) -> None:
        connection, peer, _ = self._forget(sock)
        # LOCAL, UNKNOWN and the policy IGNORE name no client: then it is the peer.
        client = peer if connection.effective is None else connection.effective.peername
        sock.setblocking(True)
        # The header may have come together with the application's first bytes, which no recv() will return again.
        threading.Thread(target=self._application, args=(sock, client, connection.trailing), daemon=True).start()


def echo(sock: socket.socket, client: SockAddr, data: bytes) -> None:
    """Send back what the client sends: the application, which knows nothing of headers."""
    print("Client", client, flush=True)
    with sock:
        try:
            sock.sendall(data)
            while data := sock.recv(4096):
                sock.sendall(data)
        except OSError as error:
            log.debug("The connection of %s ended: %s", client, error)


def main() -> None:
    """Serve until interrupted."""
    port, trusted, timeout = int(sys.argv[1]), sys.argv[2].split(","), float(sys.argv[3])
    logging.basicConfig(format="%(message)s")
    receiver = Receiver(policy=TrustedProxies(trusted), timeout=timeout)
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("Listening on 127.0.0.1", listener.getsockname()[1], flush=True)
        HeaderServer(listener, receiver, echo).serve_forever()


if __name__ == "__main__":
    main()
