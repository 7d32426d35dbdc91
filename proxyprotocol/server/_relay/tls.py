"""TLS on one end of a relayed connection.

This is built on ``ssl.SSLObject``, which leaves input and output to its user, because a relay must pass on half-closes.
Two simpler ways fail. asyncio's transports close the connection when the peer sends a close_notify, and its answer is
lost. ``ssl.SSLSocket.unwrap()`` sends a close_notify, but it also reads from the socket, and drops the data that it
finds.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from copy import copy
from typing import Any, Final

from proxyprotocol.errors import drop_tracebacks
from proxyprotocol.server._relay.ends import Stream

_RECORD: Final = 16384  # bytes; the most in one TLS record
# Bytes to read from a socket at once. 64 KiB are not faster, and cost another 16 KiB for each connection; with 32 KiB
# the throughput is a twentieth lower.
_CIPHERTEXT: Final = 3 * _RECORD
# Bytes to encrypt before sending. The stream keeps what the peer does not take.
_PLAINTEXT: Final = 4 * _RECORD
# TLS itself adds its answers. When more than this is unsent, the relay reads nothing until the peer takes some.
_MOST_UNSENT: Final = 2 * _PLAINTEXT


class TLSStream(Stream):
    """TLS on a non-blocking socket. Call :meth:`handshake` until it returns True before anything else.

    *first* is sent before TLS, in one piece with its first bytes. *data* are the peer's first bytes, read already.
    """

    # no more than send() encrypts at once, so that nothing is kept twice, in plain and encrypted
    most = _PLAINTEXT

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
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._incoming.write(data)
        self._unsent = memoryview(first)
        self._read_ahead = b""
        self._established = self._ended = self.notified = False
        self._error: OSError | None = None  # which recv_into() raises when it has returned everything before it

    @property
    def unsent(self) -> bool:  # type: ignore[override]  # nobody sets these three
        return bool(self._unsent or self._outgoing.pending)

    @property
    def choked(self) -> bool:  # type: ignore[override]
        return len(self._unsent) + self._outgoing.pending > _MOST_UNSENT

    @property
    def buffered(self) -> bool:  # type: ignore[override]
        return bool(self._over or self._read_ahead or self._incoming.pending or self.tls.pending())

    def handshake(self) -> bool:
        """Take the next step of the handshake, and return whether it is complete.

        Raises:
            ssl.SSLError: The handshake failed. The peer has been told why.
            OSError: The connection is lost.
        """
        try:
            while True:
                try:
                    self.tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    # the peer answers only what was sent
                    self.flush()
                    if not self._fetch():
                        return False
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                self.flush()
            raise
        # Errors count here: the system reports a reset only once, and the next read would see a clean end.
        self.flush()
        self._established = True
        return True

    def recv_into(self, view: memoryview) -> int:
        size = min(len(self._read_ahead), len(view))
        view[:size], self._read_ahead = self._read_ahead[:size], self._read_ahead[size:]
        # A record that does not fit stays in the system's buffer. The link flushes the answers of TLS itself: here,
        # that might meet a reset, which the system reports only once.
        while (not size or len(view) - size >= _RECORD) and not self._over and not self.choked:
            try:
                size += self._decrypt(len(view) - size, view[size:])
            except ssl.SSLWantReadError:
                if not self._fetch():
                    break
        if size or self._ended:
            return size
        # a copy: the traceback of the raised error refers to this stream, which must not refer to the error
        raise BlockingIOError if self._error is None else copy(self._error)

    def send(self, view: memoryview) -> int:
        self.flush()
        if self.unsent:
            raise BlockingIOError
        size, records = 0, []
        # one record at a time: a BIO never frees the memory that it once needed
        while size < len(view) and size < _PLAINTEXT:
            size += self.tls.write(view[size : size + _RECORD])
            records.append(self._outgoing.read())
        self._unsent = memoryview(b"".join(records))
        self.flush()
        return size

    def flush(self) -> None:
        while self.unsent:
            if self._outgoing.pending:
                # after what waits already: during the handshake a header, so that both leave in one piece
                self._unsent = memoryview(bytes(self._unsent) + self._outgoing.read())
            try:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            except (BlockingIOError, InterruptedError):
                return

    def end(self) -> None:
        # OpenSSL reads up to the peer's close_notify, and would drop the records before it
        record = memoryview(bytearray(_RECORD))
        with contextlib.suppress(ssl.SSLWantReadError):
            while not self._over:
                size = self._decrypt(_RECORD, record)
                self._read_ahead += record[:size]
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.flush()

    @property
    def _over(self) -> bool:
        return self._ended or self._error is not None

    def _decrypt(self, size: int, view: memoryview) -> int:
        """Decrypt a record, and return its size: 0 if nothing more can come."""
        try:
            # typeshed knows only the call without a buffer
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

    def _keep(self, error: OSError) -> None:
        drop_tracebacks(error)
        self._error = error

    def _fetch(self) -> bool:
        """Read from the socket, and return whether there was anything, the end included.

        After the handshake, an error waits until the caller has read everything that came before it.
        """
        try:
            data = self.sock.recv(_CIPHERTEXT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if not self._established:
                raise
            self._keep(error)
            return False
        if data:
            self._incoming.write(data)
        elif self._established:
            # OpenSSL must not know: it would send nothing more to a peer that half-closes without a close_notify
            self._ended = True
        else:
            self._incoming.write_eof()
        return True
