"""Floor 3: the first bytes of a stream, until the header in them is complete."""

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

__all__: list[str] = []

DETECT: Final = ProxyProtocolDetect()


class HeaderBuffer:
    """What every reader of streams stands on.

    Args:
        pp: The codec.
        max_header: The most bytes that a header of version 2 may have.
    """

    __slots__ = ("_buffer", "_error", "_max_header", "_pp", "_size", "result", "trailing")

    #: What the header says, once it is complete.
    result: ProxyResult | None
    #: What followed the header: the application's first bytes.
    trailing: bytes

    def __init__(self, pp: ProxyProtocol, max_header: int) -> None:
        self.result = None
        self.trailing = b""
        self._pp = pp
        self._max_header = max_header
        self._buffer: bytes | bytearray = b""
        self._size = -1  # nothing has come, nor has anybody asked
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
        try:
            if self._size < 0:
                # nearly every header comes in one piece, which needs no buffer of ours
                received = data if type(data) is bytes else bytes(data)
                whole = self._pp.read(received, self._max_header)
                if whole is not None:
                    self.result, self._size = whole
                    self.trailing = received[self._size :]
                    return self.result
                self._buffer = received
                return self._parse(received)
            return self._parse(self._continue(data))
        except ProxyProtocolError as error:
            self._fail(error)
            raise

    def _parse(self, received: bytes | bytearray) -> ProxyResult | None:
        self._pp = codec = self._pp.choose(received)
        self._size = size = codec.measure(received, self._max_header)
        if size <= len(received):
            self.result = codec.decode(bytes(received[:size]))
            self.trailing = bytes(received[size:])
            self._buffer = b""
        return self.result

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
        needed = self.needed
        if needed:
            incomplete = ProxyProtocolIncompleteError(ProxyProtocolWantRead(needed))
            self._fail(incomplete if self._buffer else ProxyProtocolMissingError())
        if self._error is not None:
            raise self._error

    def _fail(self, error: ProxyProtocolError) -> None:
        """Make this the answer to whatever comes: it is not the first piece any more, and the error is final."""
        self._error, self._size = error, 0


def check_max_header(max_header: int) -> None:
    """Refuse a limit that no header of version 2 could keep.

    Args:
        max_header: The most bytes that a header may have.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is under 16.
    """
    if type(max_header) is not int:
        raise TypeError(f"max_header is a number of bytes, not {max_header!r}")
    if max_header < _wire.V2_FIXED_LENGTH:
        raise ValueError(f"max_header counts a whole header, whose fixed part alone has 16 bytes: not {max_header!r}")
