"""Reads a header from a stream in pieces of any size: bytes in, a result out, no socket and no clock."""

from __future__ import annotations

from typing import Final

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolMissingError,
    ProxyProtocolWantRead,
)
from proxyprotocol.result import ProxyResult

__all__ = ["DETECT", "HeaderParser"]

#: The default codec, for version 1 or 2.
DETECT: Final = ProxyProtocolDetect()
_NOTHING: Final = bytearray()  # the buffer of a parser that has its result


class HeaderParser:
    """Reads one header from the front of a stream.

    Feed it the bytes of the stream until :meth:`feed` returns a result. The bytes that followed the header are then in
    :attr:`trailing`. The parser never buffers more than one header. The caller keeps a deadline, and calls :meth:`eof`
    when the stream ends.

    Args:
        pp: The codec; by default one that reads version 1 and version 2.
        max_header: The most bytes that a header of version 2 may have, its fixed 16 included.

    Raises:
        TypeError: *max_header* is not an int.
        ValueError: *max_header* is less than 16.
    """

    __slots__ = ("_buffer", "_codec", "_error", "_max_header", "needed", "result", "trailing")

    #: What the header says, once it is complete.
    result: ProxyResult | None
    #: What followed the header: the application's first bytes.
    trailing: bytes
    #: How many bytes are missing at least. A caller that reads no more than this never reads past the header.
    needed: int

    _buffer: bytearray | None
    _codec: ProxyProtocol
    _error: ProxyProtocolError | None
    _max_header: int

    def __init__(self, pp: ProxyProtocol | None = None, *, max_header: int = spec.DEFAULT_MAX_HEADER) -> None:
        if type(max_header) is not int:
            raise TypeError(f"max_header must be a number of bytes, not {max_header!r}")
        if max_header < spec.V2_FIXED_LENGTH:
            raise ValueError(f"max_header must be at least 16, the fixed length of version 2, not {max_header!r}")
        codec = DETECT if pp is None else pp
        try:
            found = codec.parse(b"", max_header)
        except ProxyProtocolError:  # this codec accepts nothing, and says so again once it gets a byte
            found = 1
        self.start(codec, max_header, found if isinstance(found, int) else 0)

    def start(self, codec: ProxyProtocol, max_header: int, needed: int) -> HeaderParser:
        """Put the parser at the start of a stream, and return it.

        A :class:`.Receiver` checks the arguments once, and then calls this method instead of ``__init__``, which would
        cost a twelfth of what a header costs on CPython 3.11.

        Args:
            codec: The codec.
            max_header: The most bytes that a header of version 2 may have, 16 at least.
            needed: How many bytes a header has at least.
        """
        self.result = None
        self.trailing = b""
        self._codec = codec
        self._max_header = max_header
        self._buffer = None
        self.needed = needed
        self._error = None
        return self

    @property
    def received(self) -> int:
        """How many bytes of an incomplete header have arrived."""
        return len(self._buffer or b"")

    def feed(self, data: bytes) -> ProxyResult | None:
        """Take the next bytes of the stream.

        Args:
            data: The bytes.

        Returns:
            The result once the header is complete, None before.

        Raises:
            ProxyProtocolSyntaxError: The bytes cannot begin a header. Every later call raises the same error.
            ProxyProtocolChecksumError: The header's CRC32C does not match the header. Every later call raises the same
                error.
            RuntimeError: A result was returned already.
        """
        if self._buffer is None:
            # nearly every header comes in one piece and needs no buffer
            received = data if type(data) is bytes else bytes(data)
        else:
            if self.result is not None:
                raise RuntimeError("The header is complete: give the bytes that follow it to the application")
            if self._error is not None:
                raise self._error
            self._buffer += data
            self.needed -= len(data)
            # after its first bytes a version 2 header cannot turn out wrong before it is complete
            if self.needed > 0 and len(self._buffer) > spec.V1_MAX_LENGTH:
                return None
            received = bytes(self._buffer)
        try:
            found = self._codec.parse(received, self._max_header)
        except ProxyProtocolError as error:
            self.fail(error)
            raise
        if type(found) is not int:
            self.result, size = found  # type: ignore[misc]  # type() is faster than isinstance(), and tells mypy less
            if size < len(received):
                self.trailing = received[size:]
            self._buffer, self.needed = _NOTHING, 0
            return self.result
        assert isinstance(found, int)  # type() is faster, and tells mypy less
        self.needed = found - len(received)
        if self._buffer is None:
            self._buffer = bytearray(received)
        return None

    def fail(self, error: ProxyProtocolError) -> None:
        """Make *error* final: every later call raises it, unless another error is final already.

        Args:
            error: Why no header can come any more, such as a timeout.
        """
        self.needed = 0
        if self._error is None:
            self._error = error
        if self._buffer is None:
            self._buffer = _NOTHING

    def eof(self) -> None:
        """Take the end of the stream. After a result this does nothing.

        Raises:
            ProxyProtocolMissingError: The stream had no bytes.
            ProxyProtocolIncompleteError: The stream had some bytes, but not a whole header.
            ProxyProtocolError: The error that :meth:`feed` has raised.
        """
        if self.needed:
            incomplete = ProxyProtocolIncompleteError(ProxyProtocolWantRead(self.needed))
            self.fail(incomplete if self._buffer else ProxyProtocolMissingError())
        if self._error is not None:
            raise self._error
