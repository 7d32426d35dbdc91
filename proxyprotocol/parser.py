"""Floor 3: a header read from a stream, in pieces of any size. No socket, no clock: bytes in, a result out."""

from __future__ import annotations

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


class HeaderParser:
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

    __slots__ = ("_buffer", "_error", "_max_header", "_pp", "_size", "result")

    #: The result, once there is one.
    result: ProxyResult | None

    def __init__(self, pp: ProxyProtocol | None = None, *, max_header: int = _wire.DEFAULT_MAX_HEADER) -> None:
        check_max_header(max_header)
        self._pp = _DETECT if pp is None else pp
        self._max_header = max_header
        self._buffer: bytes | bytearray = b""
        self._size = -1  # not asked for yet
        self._error: ProxyProtocolError | None = None
        self.result = None

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
        if self.result is not None:
            raise RuntimeError("The header is complete: what follows it is the application's")
        if self._error is not None:
            raise self._error
        received = self._received(data)
        try:
            self._size = size = self._pp.measure(received, self._max_header)
            if size > len(received):
                return None
            self.result = self._pp.decode(bytes(received[:size]))
        except ProxyProtocolError as error:
            self._error = error
            raise
        return self.result

    def _received(self, data: bytes) -> bytes | bytearray:
        # nearly every header comes in one piece, which needs no buffer of ours
        if not self._buffer:
            self._buffer = bytes(data)
        elif isinstance(self._buffer, bytearray):
            self._buffer += data
        else:
            self._buffer = bytearray(self._buffer + data)
        return self._buffer

    def eof(self) -> None:
        """Take the end of the stream. After a result it means nothing, and a codec that reads nothing misses nothing.

        Raises:
            ProxyProtocolMissingError: Not one byte came.
            ProxyProtocolIncompleteError: Some did, and not a whole header.
            ProxyProtocolError: The error that :meth:`feed` has raised.
        """
        if self._error is None and self.needed:
            if self._buffer:
                self._error = ProxyProtocolIncompleteError(ProxyProtocolWantRead(self.needed))
            else:
                self._error = ProxyProtocolMissingError()
        if self._error is not None:
            raise self._error

    @property
    def needed(self) -> int:
        """How many bytes are missing at least. Whoever reads so many at most never reads past the header."""
        if self.result is not None or self._error is not None:
            return 0
        if self._size < 0:
            self._size = self._pp.measure(b"", self._max_header)
        return self._size - len(self._buffer)

    @property
    def begins(self) -> bool | None:
        """Whether what was fed begins with the signature of a header; None while that is open."""
        return self._pp.begins(self._buffer)

    @property
    def received(self) -> bytes:
        """Everything that was fed."""
        return bytes(self._buffer)

    @property
    def trailing(self) -> bytes:
        """What followed the header: the application's first bytes."""
        return b"" if self.result is None else bytes(self._buffer[self._size :])


_DETECT = ProxyProtocolDetect()


def check_max_header(max_header: int) -> None:
    """Refuse a limit that no header of version 2 could keep.

    Args:
        max_header: The most bytes that a header may have.

    Raises:
        ValueError: It is under 16.
    """
    if max_header < _wire.V2_FIXED_LENGTH:
        raise ValueError(f"max_header counts a whole header, whose fixed part alone has 16 bytes: not {max_header!r}")
