"""The abstract codec. Every reader of headers calls one method of it: :meth:`.ProxyProtocol.parse`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from proxyprotocol._wire import spec
from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolSyntaxError,
    RefusalCode,
)
from proxyprotocol.result import ProxyResult

__all__ = ["ProxyProtocol", "check_for_streams", "check_signature", "signature_begins"]

_SHOWN = 16  # how many of a peer's bytes a message shows
_TLS_HANDSHAKE = 0x16
_FORMATS = {spec.V1_SIGNATURE: "version 1", spec.V2_SIGNATURE: "version 2", spec.SPP_SIGNATURE: "SPP"}


class ProxyProtocol(ABC):
    """Reads and writes one format of header.

    Your own codec defines :meth:`is_valid`, :meth:`unpack` and :meth:`pack`; the other methods have defaults that call
    these three.
    """

    __slots__ = ()

    #: Whether this format is only for datagrams, and an answer begins with the header of its question.
    for_datagrams: ClassVar[bool] = False

    @abstractmethod
    def is_valid(self, signature: bytes) -> bool:
        """Return whether *signature* can start a header of this format.

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
            ProxyProtocolSyntaxError: The bytes are not a header of this format.
            ProxyProtocolChecksumError: The header's CRC32C is wrong.
        """

    @abstractmethod
    def pack(self, result: ProxyResult) -> bytes:
        """Write a header.

        Args:
            result: What the header says.

        Returns:
            The header. Send it in one piece, before anything else.

        Raises:
            KeyError: The format cannot express this result.
            ValueError: An address or a TLV does not fit in a header.
        """

    def parse(self, data: bytes, max_header: int = spec.V2_MAX_LENGTH) -> tuple[ProxyResult, int] | int:
        """Parse the header at the start of a connection.

        Every reader of headers calls this method: any chunking gives the same answer, and no reader reads past the
        header. This default calls :meth:`unpack`, for codecs that define nothing else.

        Args:
            data: All bytes of a connection so far.
            max_header: The most bytes that a header of version 2 may have, its fixed 16 included.

        Returns:
            What the header says and its length in bytes; or, for an incomplete header, the least length that it can
            have, which is more than ``len(data)``. The caller reads at most the difference, and calls again.

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
                    f"The PROXY protocol header is longer than max_header, {max_header} bytes"
                )
        return size

    def begins(self, data: bytes | bytearray) -> bool | None:
        """Distinguish a header from the first bytes of an application, for a connection that may have no header.

        Args:
            data: The first bytes of a connection.

        Returns:
            Whether they start a header; None if more bytes are needed to know.
        """
        if len(data) < spec.TELLING_LENGTH:
            return None
        return self.is_valid(bytes(data[: spec.TELLING_LENGTH]))


def check_for_streams(codec: ProxyProtocol) -> None:
    """Reject a codec that a connection cannot use.

    Raises:
        ValueError: It is only for datagrams.
    """
    if codec.for_datagrams is True:  # a mock in a test has every attribute
        name = type(codec).__name__
        raise ValueError(f"{name} is only for datagrams: for connections, use pp=ProxyProtocolV2() or leave out pp=")


def check_signature(data: bytes | bytearray, *signatures: bytes) -> bool:
    """Return whether *data* starts with one of *signatures*; False if it is still too short to know.

    Raises:
        ProxyProtocolSyntaxError: It starts with none of them; the offset is that of the first wrong byte.
    """
    if data.startswith(signatures):
        return True
    if signature_begins(data, *signatures) is False:
        at = next(at for at in range(len(data)) if signature_begins(data[: at + 1], *signatures) is False)
        for signature in (spec.V1_SIGNATURE, spec.V2_SIGNATURE):
            if data.startswith(signature):
                came, accepted = _FORMATS[signature], _FORMATS[signatures[0]]
                reason = f"A {came} header came, but only {accepted} is accepted here"
                raise ProxyProtocolSyntaxError(reason, at, RefusalCode.VERSION)
        hint = ": this is TLS, which must come after the header" if data[0] == _TLS_HANDSHAKE else ""
        if data.startswith(spec.SPP_SIGNATURE):
            hint = ": it may be the Simple Proxy Protocol, which ProxyProtocolSPP() reads from datagrams"
        reason = f"There is no PROXY protocol header: the data begins with {bytes(data[:_SHOWN])!r}{hint}"
        raise ProxyProtocolSyntaxError(reason, at, RefusalCode.NO_HEADER)
    return False


def signature_begins(data: bytes | bytearray, *signatures: bytes) -> bool | None:
    """Return whether *data* starts with one of *signatures*; None if it is still too short to know."""
    if data.startswith(signatures):
        return True
    return None if any(signature.startswith(data) for signature in signatures) else False
