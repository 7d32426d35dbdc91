"""Floor 3: a header read from a stream, in pieces of any size. No socket, no clock: bytes in, a result out."""

from __future__ import annotations

from . import _wire
from ._base import ProxyProtocol
from ._buffer import DETECT, HeaderBuffer, check_max_header
from .result import ProxyResult

__all__ = ["HeaderParser"]


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
        super().__init__(DETECT if pp is None else pp, max_header)

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
