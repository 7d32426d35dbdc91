"""Shared by the tests of blocking sockets: connections of every family, a dripping peer, and a TLS client."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence

from tests.interop._certificates import SERVER_NAME, Certificates

PATIENCE = 10.0  # seconds; only a very busy machine needs more than a fraction of one
SHORT = 0.2  # seconds; for time-outs that a test waits for

HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
CLIENT, DESTINATION = ("192.0.2.1", 1000), ("198.51.100.2", 2000)

FAMILIES = ["IPv4", "IPv6", "UNIX"]


@contextlib.contextmanager
def free_address(family: str) -> Iterator[tuple[str, int] | str]:
    """Yield an address to listen on; a UNIX socket's path is short, and removed after the block."""
    with tempfile.TemporaryDirectory() as directory:
        yield {"IPv4": ("127.0.0.1", 0), "IPv6": ("::1", 0)}.get(family, f"{directory}/socket")


@contextlib.contextmanager
def connected(family: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the two ends of a connection: the server's and the client's."""
    kind = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}.get(family, socket.AF_UNIX)
    with free_address(family) as address, socket.socket(kind) as listener, socket.socket(kind) as client:
        listener.bind(address)
        listener.listen()
        for sock in (listener, client):
            sock.settimeout(PATIENCE)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        if kind != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with server:
            server.settimeout(PATIENCE)
            yield server, client


def reset(sock: socket.socket) -> None:
    """Close a connection so that the other end sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Run *action* in a thread during the block, and join it afterwards. It may lose its connection."""

    def act() -> None:
        with contextlib.suppress(OSError):
            action()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextlib.contextmanager
def dripping(client: socket.socket, pieces: Sequence[bytes], every: float = 0.001) -> Iterator[threading.Event]:
    """Send piece by piece during the block, with a pause after each, until the block ends or sets the event."""
    stop = threading.Event()

    def drip() -> None:
        for piece in pieces:
            client.sendall(piece)
            if stop.wait(every):
                break

    with meanwhile(drip):
        try:
            yield stop
        finally:
            stop.set()


class TLSClient:
    """A TLS client in memory, so that a test decides what goes into which segment.

    Args:
        sock: Its connected socket.
        certificates: The certificates that it trusts.
    """

    def __init__(self, sock: socket.socket, certificates: Certificates) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = certificates.client_context()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=SERVER_NAME)

    def greeting(self) -> bytes:
        """Return the ClientHello, for the caller to send."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    def shake_hands(self, message: bytes) -> None:
        """Complete the handshake, and send a message together with its end."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._more()
        self._tls.write(message)
        self._sock.sendall(self._outgoing.read())

    def read(self) -> bytes:
        """Receive until TLS says that this is the end; raise SSLEOFError if only the connection ends."""
        received = b""
        while True:
            try:
                data = self._tls.read()
            except ssl.SSLWantReadError:
                self._more()
                continue
            if not data:
                return received
            received += data

    def _more(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())
        data = self._sock.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
