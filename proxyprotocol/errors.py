"""The errors of a header, as exceptions with fields and a full sentence.

Whatever a peer sends, the codecs raise only subclasses of :class:`ProxyProtocolError`. They can be pickled, and their
text says what was wrong, and where.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "ProxyProtocolChecksumError",
    "ProxyProtocolError",
    "ProxyProtocolIncompleteError",
    "ProxyProtocolLimitError",
    "ProxyProtocolMissingError",
    "ProxyProtocolSyntaxError",
    "ProxyProtocolTimeoutError",
    "ProxyProtocolUntrustedError",
    "ProxyProtocolWantRead",
    "drop_tracebacks",
]


class ProxyProtocolWantRead:
    """What to read before :meth:`.ProxyProtocol.unpack` can go on, as in `proxy-protocol`.

    New code uses :attr:`proxyprotocol.parser.HeaderParser.needed`, which never asks for bytes after the header.

    Args:
        want_bytes: How many more bytes are needed, or None for a line.
        want_line: Whether everything up to the end of the line is needed.
    """

    __slots__ = ("want_bytes", "want_line")

    def __init__(self, want_bytes: int | None = None, *, want_line: bool = False) -> None:
        self.want_bytes = want_bytes
        self.want_line = want_line

    def __repr__(self) -> str:
        want = "want_line=True" if self.want_line else repr(self.want_bytes)
        return f"{type(self).__name__}({want})"


class ProxyProtocolError(Exception):
    """The base class for everything that a peer can do wrong before its connection begins.

    Every argument of a subclass is also an attribute.
    """

    #: Whether this happens every day and deserves only a log line at debug level.
    routine: ClassVar[bool] = False
    _sentence: ClassVar[str] = ""

    def __str__(self) -> str:
        return self._sentence or super().__str__()


class ProxyProtocolSyntaxError(ProxyProtocolError, ValueError):
    """The bytes break the rules for a header (sections 2.1 and 2.2). Abort the connection: the stream is useless.

    Args:
        reason: What is wrong, as a sentence without the position.
        offset: The position of the wrong byte in the header, counted from 0, or None. The codecs reject a header that
            comes in pieces as early as possible, so its offset may differ from that of the whole header.
    """

    def __init__(self, reason: str = "The PROXY protocol header is malformed", offset: int | None = None) -> None:
        super().__init__(*((reason,) if offset is None else (reason, offset)))
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        return self.reason if self.offset is None else f"{self.reason} (at byte {self.offset})"


class ProxyProtocolLimitError(ProxyProtocolSyntaxError):
    """The header is longer than allowed: over 107 bytes in version 1, over ``max_header`` in version 2."""


class ProxyProtocolChecksumError(ProxyProtocolError, ValueError):
    """The header is well-formed, but its CRC32C is wrong (section 2.2.3).

    Args:
        result: What the header says, a :class:`.ProxyResult`. Do not believe it.
    """

    _sentence = "The CRC32C in the PROXY protocol header does not match the header's bytes"

    def __init__(self, result: Any) -> None:
        super().__init__(result)
        self.result = result


class ProxyProtocolIncompleteError(ProxyProtocolError):
    """The bytes are the beginning of a header, and the rest is missing.

    Args:
        want_read: What to read before parsing again.
    """

    def __init__(self, want_read: ProxyProtocolWantRead) -> None:
        super().__init__(want_read)
        self.want_read = want_read

    def __str__(self) -> str:
        if self.want_read.want_line:
            return "The PROXY protocol header is incomplete: the end of its line is missing"
        count = self.want_read.want_bytes
        missing = "1 more byte is" if count == 1 else f"{count} more bytes are"
        return f"The PROXY protocol header is incomplete: at least {missing} missing"


class ProxyProtocolTimeoutError(ProxyProtocolError):
    """No complete header came in time (section 2: "may apply a short timeout").

    Args:
        timeout: The limit, in seconds.
        received: How many bytes of a header came within it.
    """

    def __init__(self, timeout: float | None = None, received: int = 0) -> None:
        super().__init__(timeout, received)
        self.timeout = timeout
        self.received = received

    def __str__(self) -> str:
        limit = "in time" if self.timeout is None else f"within {self.timeout:g} seconds"
        return f"No complete PROXY protocol header came {limit}, only {self.received} bytes"


class ProxyProtocolUntrustedError(ProxyProtocolError):
    """The peer may not name a client (section 5). Adapters drop it before they read a byte.

    Args:
        peer: The peer's address, in the form of the socket module.
    """

    _sentence = "The peer is not one of the trusted proxies"

    def __init__(self, peer: object = None) -> None:
        super().__init__(peer)
        self.peer = peer


class ProxyProtocolMissingError(ProxyProtocolError):
    """The connection ended before the first byte of a header, as in a TCP health check."""

    routine = True
    _sentence = "The connection ended before the first byte of a PROXY protocol header"


def drop_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of *error*, which a connection keeps, and those of its context.

    Their frames hold the connection, and the connection holds its error. Without this, each rejected peer would leave a
    connection and the transport of a closed socket in memory until the next garbage collection.
    """
    current: BaseException | None = error
    while current is not None:
        current.__traceback__ = None
        current = current.__context__
