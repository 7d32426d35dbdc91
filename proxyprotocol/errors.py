"""Floor 0: what can be wrong with a header, as exceptions with fields and a full sentence.

Whatever a peer sends ends in one of the children of :class:`ProxyProtocolError`; nothing else is raised for it. Each
is picklable and prints as a sentence that says what was wrong, and where.
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
    """What must be read before parsing can go on, as the established codecs say it.

    New code uses :attr:`proxyprotocol.parser.HeaderParser.needed`, which never reads past the header.

    Args:
        want_bytes: How many more bytes are needed, or None where a line is.
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
    """The root of everything that a peer can do wrong before its connection begins.

    Attributes:
        routine: Whether this happens every day and is worth no more than a log line at debug level.
    """

    routine: ClassVar[bool] = False


class ProxyProtocolSyntaxError(ProxyProtocolError, ValueError):
    """The bytes are not a header by the letter of the specification (sections 2.1 and 2.2).

    After this the stream is of no use: abort the connection.

    Args:
        reason: What is wrong, as a sentence without the position.
        offset: The byte of the header at which it is wrong, counted from 0, or None where it is no single one. A header
            that comes in pieces is refused as soon as that can be told, and may be told of at another byte than whole.

    Attributes:
        reason: The argument.
        offset: The argument.
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
    """The header is well-formed, but the CRC32C in it is not the header's (section 2.2.3).

    Args:
        result: What the header says, a :class:`.ProxyResult`. It must not be believed.

    Attributes:
        result: The argument.
    """

    def __init__(self, result: Any) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        return "The CRC32C in the PROXY protocol header does not match the header's bytes"


class ProxyProtocolIncompleteError(ProxyProtocolError):
    """The bytes are the beginning of a header, and more of it is needed.

    Args:
        want_read: What must be read before parsing again.

    Attributes:
        want_read: The argument.
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
        timeout: How long was waited, in seconds.
        received: How many bytes of a header had come by then.

    Attributes:
        timeout: The argument.
        received: The argument.
    """

    def __init__(self, timeout: float | None = None, received: int = 0) -> None:
        super().__init__(timeout, received)
        self.timeout = timeout
        self.received = received

    def __str__(self) -> str:
        limit = "in time" if self.timeout is None else f"within {self.timeout:g} seconds"
        return f"No complete PROXY protocol header came {limit}, only {self.received} bytes"


class ProxyProtocolUntrustedError(ProxyProtocolError):
    """The peer is not a proxy that may name a client (section 5); it is dropped before a byte is read.

    Args:
        peer: The address that connected, as the socket module gives it.

    Attributes:
        peer: The argument.
    """

    def __init__(self, peer: object = None) -> None:
        super().__init__(peer)
        self.peer = peer

    def __str__(self) -> str:
        return "The peer is not one of the trusted proxies"


class ProxyProtocolMissingError(ProxyProtocolError):
    """The connection ended before its first byte, where a header must come. A TCP health check does that."""

    routine = True

    def __str__(self) -> str:
        return "The connection ended before the first byte of a PROXY protocol header"


def drop_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error that a connection keeps, and those of the errors before it.

    Their frames hold the connection, and the connection holds its error: all of it, and a closed socket's transport,
    would stay until the next garbage collection, for each peer that knocks.

    Args:
        error: The error.
    """
    following: BaseException | None = error
    while following is not None:
        following.__traceback__ = None
        following = following.__context__
