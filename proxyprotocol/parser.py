"""Floor 3: a header read from a stream, in pieces of any size. No socket, no clock: bytes in, a result out."""

from __future__ import annotations

from typing import Final

from . import _wire
from ._base import ProxyProtocol
from ._errors import (
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolMissingError,
    ProxyProtocolWantRead,
)
from .detect import ProxyProtocolDetect
from .result import ProxyResult

__all__ = ["HeaderParser"]


_DETECT: Final = ProxyProtocolDetect()


class HeaderBuffer:
    """The first bytes of a stream, until the header in them is complete: what every reader of streams stands on.

    Args:
        pp: The codec; version 1 or 2, whichever comes, unless given.
        max_header: The most bytes that a header of version 2 may have.
    """

    __slots__ = ("_buffer", "_error", "_max_header", "_pp", "_size", "result")

    #: What the header says, once it is complete.
    result: ProxyResult | None

    def __init__(self, pp: ProxyProtocol | None, max_header: int) -> None:
        self.result = None
        self._pp = _DETECT if pp is None else pp
        self._max_header = max_header
        self._buffer: bytes | bytearray = b""
        self._size = -1  # not asked for yet
        self._error: ProxyProtocolError | None = None

    @property
    def needed(self) -> int:
        """How many bytes are missing at least. Whoever reads so many at most never reads past the header."""
        if self.result is not None or self._error is not None:
            return 0
        if self._size < 0:
            self._size = self._pp.measure(b"", self._max_header)
        return self._size - len(self._buffer)

    def _take(self, data: bytes) -> ProxyResult | None:
        """Take the next bytes of the stream; give the result if they complete the header."""
        if self._buffer or self._error is not None or self.result is not None:
            received = self._continue(data)
        else:
            # nearly every header comes in one piece, which needs no buffer of ours
            self._buffer = received = bytes(data)
        try:
            self._pp = codec = self._pp.choose(received)
            self._size = size = codec.measure(received, self._max_header)
            if size > len(received):
                return None
            self.result = result = codec.decode(bytes(received[:size]))
        except ProxyProtocolError as error:
            self._error = error
            raise
        return result

    def _continue(self, data: bytes) -> bytes | bytearray:
        if self.result is not None:
            raise RuntimeError("The header is complete: what follows it is the application's")
        if self._error is not None:
            raise self._error
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        self._buffer += data
        return self._buffer

    def _end(self) -> None:
        """Take the end of the stream, which is an error unless the header is complete."""
        if self._error is None and self.needed:
            if self._buffer:
                self._error = ProxyProtocolIncompleteError(ProxyProtocolWantRead(self.needed))
            else:
                self._error = ProxyProtocolMissingError()
        if self._error is not None:
            raise self._error

    def _behind(self) -> bytes:
        """Give what followed the header."""
        return bytes(self._buffer[self._size :])


class HeaderParser(HeaderBuffer):
    """Reads one header from the front of a stream.

    Feed it what comes until :meth:`feed` gives a result; what followed the header is then in :attr:`trailing`. It
    buffers no more than a header, so feed nothing more after that. What is left to the caller: a deadline, and
    :meth:`eof` when the stream ends.

    Args:
        pp: The codec; version 1 or 2, whichever comes, unless given.
        max_header: The most bytes that a header of version 2 may have, its fixed 16 included.

    Raises:
        ValueError: *max_header* is less than the 16 bytes that every header of version 2 has.
    """

    __slots__ = ()

    def __init__(self, pp: ProxyProtocol | None = None, *, max_header: int = _wire.DEFAULT_MAX_HEADER) -> None:
        check_max_header(max_header)
        super().__init__(pp, max_header)

    def feed(self, data: bytes) -> ProxyResult | None:
        """Take the next bytes of the stream.

        Args:
            data: The bytes.

        Returns:
            The result once the header is complete, None before.

        Raises:
            ProxyProtocolSyntaxError: No header begins so. The same error is raised by every later call.
            ProxyProtocolChecksumError: The header's CRC32C is not right.
            RuntimeError: There was a result already.
        """
        return self._take(data)

    def eof(self) -> None:
        """Take the end of the stream. After a result it means nothing, and a codec that reads nothing misses nothing.

        Raises:
            ProxyProtocolMissingError: Not one byte came.
            ProxyProtocolIncompleteError: Some did, and not a whole header.
            ProxyProtocolError: The error that :meth:`feed` has raised.
        """
        self._end()

    @property
    def trailing(self) -> bytes:
        """What followed the header: the application's first bytes."""
        return b"" if self.result is None else self._behind()


def check_max_header(max_header: int) -> None:
    """Refuse a limit that no header of version 2 could keep.

    Args:
        max_header: The most bytes that a header may have.

    Raises:
        ValueError: It is under 16.
    """
    if max_header < _wire.V2_FIXED_LENGTH:
        raise ValueError(f"max_header counts a whole header, whose fixed part alone has 16 bytes: not {max_header!r}")
