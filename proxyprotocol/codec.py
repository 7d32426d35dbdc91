"""The abstract codec, and the one question that every reader of headers asks it: :meth:`.ProxyProtocol.parse`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from proxyprotocol._wire import spec
from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolSyntaxError,
)
from proxyprotocol.result import ProxyResult

__all__ = ["ProxyProtocol", "check_signature", "signature_begins"]

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

    def parse(self, data: bytes, max_header: int = spec.V2_MAX_LENGTH) -> tuple[ProxyResult, int] | int:
        """Parse the header at the start of a connection.

        Everything that reads headers asks this one question, so that any chunking gives the same answer and nobody
        reads past the header. This default asks :meth:`unpack`, for codecs that define nothing else.

        Args:
            data: The first bytes of a connection, in full from the first one on.
            max_header: The most bytes that a header of version 2 may have, its fixed 16 included.

        Returns:
            What the header says and its length in bytes; or, for an incomplete header, the least length that it can
            have, which is more than ``len(data)``. The caller reads the difference at most, and asks again.

        Raises:
            ProxyProtocolSyntaxError: No header begins with these bytes, or it breaks a rule of the specification.
            ProxyProtocolLimitError: The header is longer than *max_header*, or than the 107 bytes of version 1.
            ProxyProtocolChecksumError: The header's CRC32C does not match the header.
        """
        size = 0
        while size <= len(data):
            try:
                result = self.unpack(data[:size])
            except ProxyProtocolIncompleteError as incomplete:
                want = incomplete.want_read
                if want.want_line:
                    size = (data.find(b"\n", size) + 1) or len(data) + 1
                else:
                    size += max(want.want_bytes or 0, 1)
            except ProxyProtocolError:
                raise
            except ValueError as error:  # proxy-protocol's documentation allows a codec to raise it
                raise ProxyProtocolSyntaxError(f"The PROXY protocol header is malformed: {error!a}") from error
            else:
                return result, size
            if size > max_header:
                raise ProxyProtocolLimitError(
                    f"The PROXY protocol header is longer than the {max_header} bytes allowed"
                )
        return size

    def begins(self, data: bytes | bytearray) -> bool | None:
        """Tell a header from an application's own first bytes, for a connection that may come without one.

        Args:
            data: The first bytes of a connection.

        Returns:
            Whether they hold the signature of a header; None while that is open.
        """
        if len(data) < spec.TELLING_LENGTH:
            return None
        return self.is_valid(bytes(data[: spec.TELLING_LENGTH]))


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
