"""Floor 6: TLS on one end of a relayed connection.

On an ``ssl.SSLObject``, which does no input and output of its own, because a relay has to pass half-closes on. Tried
before: asyncio's transports close the connection when the peer's close_notify comes, so that an answer is lost; and
``ssl.SSLSocket.unwrap()``, which sends one, reads from the socket too and throws away the answer that it meets.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from copy import copy
from typing import Any, Final

from proxyprotocol.errors import drop_tracebacks

__all__: list[str] = []

_RECORD: Final = 16384  # bytes; no record of TLS holds more
# How much is read from a socket in one go. 64 KiB are no faster, and another 16 KiB that a connection may keep; 32 KiB
# cost a twentieth of the throughput.
_CIPHERTEXT: Final = 3 * _RECORD
# How much is encrypted before it is sent. What a peer does not take of it is kept here.
_PLAINTEXT: Final = 4 * _RECORD
# Answers to what the peer asks of TLS itself may come on top of that, and then it has to take some first.
_MOST_UNSENT: Final = 2 * _PLAINTEXT


class TLSStream:
    """TLS on a socket. The handshake has to be brought to its end before anything else.

    Args:
        sock: The socket, non-blocking.
        context: What TLS is done with.
        server_side: Whether it is the peer who speaks first.
        server_hostname: For a client: the name that the server must have.
        first: What goes out in front of TLS, in one piece with its first bytes.
        data: The peer's first bytes, where they have been read already.
    """

    __slots__ = (
        "_ended",
        "_error",
        "_established",
        "_incoming",
        "_outgoing",
        "_read_ahead",
        "_unsent",
        "fd",
        "most",
        "notified",
        "reading",
        "sock",
        "tls",
        "writing",
    )

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        first: bytes = b"",
        data: bytes = b"",
    ) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.reading = self.writing = False
        # what is encrypted at once is not kept a second time as it was
        self.most: int | None = _PLAINTEXT
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._incoming.write(data)
        self._unsent = memoryview(first)
        self._read_ahead = b""
        self._established = self._ended = self.notified = False
        # what is said when all that came before it has been read
        self._error: OSError | None = None

    @property
    def unsent(self) -> bool:
        """Whether the peer has to take something first."""
        return bool(self._unsent or self._outgoing.pending)

    @property
    def choked(self) -> bool:
        """Whether it has to take so much that nothing it says can be answered."""
        return len(self._unsent) + self._outgoing.pending > _MOST_UNSENT

    @property
    def buffered(self) -> bool:
        """Whether there is something to read in here, the end included."""
        return bool(self._over or self._read_ahead or self._incoming.pending or self.tls.pending())

    def handshake(self) -> bool:
        """Take the next step of the handshake.

        Returns:
            Whether it is done.

        Raises:
            ssl.SSLError: It has failed. The peer is told why.
            OSError: The connection is lost.
        """
        try:
            while True:
                try:
                    self.tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    # what is to be said has to be out before the answer can come
                    self.flush()
                    if not self._fetch():
                        return False
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                self.flush()
            raise
        # not suppressed: the system tells of a reset only once, and what is read next would be a clean end
        self.flush()
        self._established = True
        return True

    def recv_into(self, view: memoryview) -> int:
        """Give as much as there is.

        Args:
            view: Where to.

        Returns:
            How many bytes; 0 at the end, with the peer's close_notify or without.

        Raises:
            BlockingIOError: There is nothing.
            OSError: The connection is lost, or what has come is no TLS.
        """
        size = self._take_read_ahead(view)
        # A record that has no room is left where it is, in the system's buffer. What TLS itself answers is left to the
        # link's flush: flushed here, it might meet a reset, of which the system tells only once.
        while (not size or len(view) - size >= _RECORD) and not self._over and not self.choked:
            try:
                size += self._decrypt(len(view) - size, view[size:])
            except ssl.SSLWantReadError:
                if not self._fetch_more():
                    break
        if size or self._ended:
            return size
        # a copy: the traceback of what is raised holds this stream, which would hold it
        raise BlockingIOError if self._error is None else copy(self._error)

    def send(self, view: memoryview) -> int:
        """Encrypt some of the bytes, and send as much as the peer takes.

        Args:
            view: The bytes.

        Returns:
            How many bytes are on their way. Some of them may be unsent.

        Raises:
            BlockingIOError: There is something unsent.
            OSError: The connection is lost.
        """
        self.flush()
        if self.unsent:
            raise BlockingIOError
        size, records = 0, []
        # by records: a BIO keeps for ever the room that it has ever needed
        while size < len(view) and size < _PLAINTEXT:
            size += self.tls.write(view[size : size + _RECORD])
            records.append(self._outgoing.read())
        self._unsent = memoryview(b"".join(records))
        self.flush()
        return size

    def flush(self) -> None:
        """Send what is unsent, as far as the peer takes it.

        Raises:
            OSError: The connection is lost.
        """
        while self.unsent:
            if self._outgoing.pending:
                # behind what has been waiting; in the handshake that is a header, so that both leave in one piece
                self._unsent = memoryview(bytes(self._unsent) + self._outgoing.read())
            try:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            except (BlockingIOError, InterruptedError):
                return

    def end(self) -> None:
        """Send a close_notify; what the peer has to say can still be read.

        Raises:
            OSError: The connection is lost.
        """
        # OpenSSL looks for the peer's, and a record that it meets on the way would be lost
        self._read_ahead += self._decrypt_all()
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.flush()

    def _take_read_ahead(self, view: memoryview) -> int:
        size = min(len(self._read_ahead), len(view))
        view[:size] = self._read_ahead[:size]
        self._read_ahead = self._read_ahead[size:]
        return size

    def _decrypt_all(self) -> bytes:
        """Give what has come and was not read. That is not more than was read from the socket in one go."""
        plain, record = [], memoryview(bytearray(_RECORD))
        with contextlib.suppress(ssl.SSLWantReadError):
            while not self._over:
                size = self._decrypt(_RECORD, record)
                plain.append(bytes(record[:size]))
        return b"".join(plain)

    @property
    def _over(self) -> bool:
        return self._ended or self._error is not None

    def _decrypt(self, size: int, view: memoryview) -> int:
        """Decrypt a record, and give how many bytes it had: 0 when nothing more can come."""
        try:
            # typed for a call without a buffer
            got: Any = self.tls.read(size, view)
            if got:
                return int(got)
            self._ended = self.notified = True
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLZeroReturnError:
            self._ended = self.notified = True
        except ssl.SSLEOFError:
            self._ended = True
        except ssl.SSLError as error:
            self._keep(error)
        return 0

    def _fetch_more(self) -> bool:
        """Do as ``_fetch``, but keep an error until all that came before it has been read."""
        try:
            return self._fetch()
        except OSError as error:
            self._keep(error)
            return False

    def _keep(self, error: OSError) -> None:
        drop_tracebacks(error)
        self._error = error

    def _fetch(self) -> bool:
        """Read from the socket; give whether there was anything, the end included."""
        try:
            data = self.sock.recv(_CIPHERTEXT)
        except (BlockingIOError, InterruptedError):
            return False
        if data:
            self._incoming.write(data)
        elif self._established:
            # OpenSSL is not told: it would say nothing more to a peer that has ended its half without a close_notify
            self._ended = True
        else:
            self._incoming.write_eof()
        return True
