"""Floor 2: the abstract codec, and the two questions that every reader of headers asks of one.

``measure`` says how long the header is that begins with these bytes, and ``decode`` what it says. Everything that
reads headers slices with the first, which is what makes "any chunking gives the same answer" and "never a byte too
many" true in one place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from . import _wire
from ._errors import (
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolSyntaxError,
    ProxyProtocolWantRead,
)
from .result import ProxyResult

__all__: list[str] = []

_SHOWN = 16  # how much of a peer's bytes a message shows
_TLS_HANDSHAKE = 0x16


class ProxyProtocol(ABC):
    """Reads and writes one format of header.

    A codec of one's own defines :meth:`is_valid`, :meth:`unpack` and :meth:`pack`; the other methods have defaults
    that work by them.
    """

    __slots__ = ()

    @abstractmethod
    def is_valid(self, signature: bytes) -> bool:
        """Tell whether a header of this format begins so.

        Args:
            signature: The first bytes of a connection, 8 at least.
        """

    @abstractmethod
    def unpack(self, data: bytes) -> ProxyResult:
        """Read the header at the start of *data*, and ignore what follows it.

        Args:
            data: The first bytes of a connection.

        Raises:
            ProxyProtocolIncompleteError: More of the header is needed.
            ProxyProtocolSyntaxError: There is no such header.
            ProxyProtocolChecksumError: The header's CRC32C is not right.
        """

    @abstractmethod
    def pack(self, result: ProxyResult) -> bytes:
        """Write a header.

        Args:
            result: What it is to say.

        Returns:
            The header, to be sent at once and before anything else.

        Raises:
            KeyError: The format has no way to say this.
            ValueError: An address or a TLV does not fit in a header.
        """

    def measure(self, data: bytes | bytearray, max_header: int = _wire.V2_MAX_LENGTH) -> int:
        """Say how long the header is that begins with these bytes.

        The answer is the least length that it can have. As soon as it is not above ``len(data)`` it is *the* length:
        the header is there, and :meth:`decode` takes it. Until then so many bytes can be read without reading past
        the header.

        Args:
            data: The first bytes of a connection.
            max_header: The most bytes that a header of version 2 may have.

        Raises:
            ProxyProtocolSyntaxError: No header begins so.
            ProxyProtocolLimitError: The header is longer than allowed.
            ProxyProtocolError: Whatever else :meth:`unpack` raises, which this method calls.
        """
        have, size = len(data), 0
        while size <= have:
            try:
                self.unpack(bytes(data[:size]))
            except ProxyProtocolIncompleteError as incomplete:
                size = _after(data, size, incomplete.want_read)
            except ProxyProtocolError:
                raise
            except ValueError as error:  # what the established documentation allows a codec to raise
                raise ProxyProtocolSyntaxError(f"The PROXY protocol header is malformed: {error!a}") from error
            else:
                return size
            if size > max_header:
                raise ProxyProtocolLimitError(
                    f"The PROXY protocol header is longer than the {max_header} bytes allowed"
                )
        return size

    def read(self, data: bytes, max_header: int = _wire.V2_MAX_LENGTH) -> tuple[ProxyResult, int] | None:
        """Read a header that is there in whole, as nearly all are, in one go.

        Args:
            data: The first bytes of a connection.
            max_header: The most bytes that a header of version 2 may have.

        Returns:
            What the header says and how long it is; None where :meth:`measure` is to say what is wrong or missing.

        Raises:
            ProxyProtocolSyntaxError: The header breaks a rule of the specification.
            ProxyProtocolChecksumError: The header's CRC32C is not right.
        """
        return None

    def choose(self, data: bytes | bytearray) -> ProxyProtocol:
        """Give the codec for a connection: this one, unless this one only chooses between others.

        Args:
            data: The first bytes of the connection. As long as they leave it open, this codec itself is given.

        Raises:
            ProxyProtocolSyntaxError: No header begins so.
        """
        return self

    def decode(self, header: bytes) -> ProxyResult:
        """Say what a header says.

        Args:
            header: A whole header, of the length that :meth:`measure` gave, and nothing behind it.

        Raises:
            ProxyProtocolSyntaxError: The header breaks a rule of the specification.
            ProxyProtocolChecksumError: The header's CRC32C is not right.
        """
        return self.unpack(header)

    def begins(self, data: bytes | bytearray) -> bool | None:
        """Tell a header from an application's own first bytes, for a connection that may come without one.

        Args:
            data: The first bytes of a connection.

        Returns:
            Whether they hold the signature of a header; None while that is open.
        """
        if len(data) < _wire.TELLING_LENGTH:
            return None
        return self.is_valid(bytes(data[: _wire.TELLING_LENGTH]))


def _after(data: bytes | bytearray, size: int, want: ProxyProtocolWantRead) -> int:
    """Give the length that a codec of somebody else's wants to see next, always more than *size*."""
    if want.want_line:
        return (data.find(b"\n", size) + 1) or len(data) + 1
    return size + max(want.want_bytes or 0, 1)


def check_signature(data: bytes | bytearray, *signatures: bytes) -> bool:
    """Tell whether a signature is there in full.

    Args:
        data: The first bytes of a connection.
        signatures: Those that may be there.

    Returns:
        True if one is; False while that is open.

    Raises:
        ProxyProtocolSyntaxError: None of them can be; the offset is that of the first byte which is of none.
    """
    if data.startswith(signatures):
        return True
    for at in range(len(data)):
        if not any(signature.startswith(data[: at + 1]) for signature in signatures):
            raise ProxyProtocolSyntaxError(_describe(bytes(data[:_SHOWN])), at)
    return False


def _describe(data: bytes) -> str:
    hint = ": that is TLS, whose place is behind the header" if data[0] == _TLS_HANDSHAKE else ""
    return f"There is no PROXY protocol header, what came begins with {data!r}{hint}"


def signature_begins(data: bytes | bytearray, *signatures: bytes) -> bool | None:
    """Answer :meth:`ProxyProtocol.begins` for formats with a signature.

    Args:
        data: The first bytes of a connection.
        signatures: Those that may be there.
    """
    try:
        return check_signature(data, *signatures) or None
    except ProxyProtocolSyntaxError:
        return False
