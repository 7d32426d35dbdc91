"""The errors of a header, as exceptions with fields and a full sentence.

Whatever a peer sends, the codecs raise only subclasses of :class:`ProxyProtocolError`. They can be pickled, and their
text says what was wrong, and where.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar

__all__ = [
    "ProxyProtocolChecksumError",
    "ProxyProtocolError",
    "ProxyProtocolHandshakeError",
    "ProxyProtocolHookError",
    "ProxyProtocolIncompleteError",
    "ProxyProtocolInvalidError",
    "ProxyProtocolLimitError",
    "ProxyProtocolMissingError",
    "ProxyProtocolSyntaxError",
    "ProxyProtocolTimeoutError",
    "ProxyProtocolUntrustedError",
    "ProxyProtocolWantRead",
    "RefusalCode",
    "drop_tracebacks",
]


class RefusalCode(str, Enum):
    """Why a connection was refused, in one word. Logs, hooks and metrics use the same words."""

    #: The policy trusts no header from this peer.
    UNTRUSTED = "untrusted"
    #: The connection ended before its first byte, as a health check's does.
    MISSING = "missing"
    #: The first bytes are not a header: the peer is no proxy, or the proxy does not send one.
    NO_HEADER = "no_header"
    #: The header has a version that is not accepted here.
    VERSION = "version"
    #: The header breaks a rule of the specification.
    MALFORMED = "malformed"
    #: The header is longer than allowed.
    LIMIT = "limit"
    #: The header's CRC32C is wrong.
    CHECKSUM = "checksum"
    #: The connection ended inside the header.
    INCOMPLETE = "incomplete"
    #: The header was not complete in time.
    TIMEOUT = "timeout"
    #: The user's ``validate`` rejected the header.
    INVALID = "invalid"
    #: One of the user's hooks raised an exception.
    HOOK = "hook"
    #: The TLS handshake after the header failed.
    TLS = "tls"
    #: The relay could not connect to its destination.
    DESTINATION = "destination"
    #: The listener closed while the connection waited for its header.
    CLOSED = "closed"


class ProxyProtocolWantRead:
    """What to read before :meth:`.ProxyProtocol.unpack` can go on, as in `proxy-protocol`.

    New code uses :attr:`proxyprotocol.parser.HeaderParser.needed`, which never asks for bytes after the header.

    Args:
        want_bytes: How many more bytes are needed, or None for a line.
        want_line: Whether everything up to the end of the line is needed.
    """

    __slots__ = ("want_bytes", "want_line")

    def __init__(self, want_bytes: int | None = None, *, want_line: bool = False) -> None:
        self.want_bytes: int | None = want_bytes
        self.want_line: bool = want_line

    def __repr__(self) -> str:
        want = "want_line=True" if self.want_line else repr(self.want_bytes)
        return f"{type(self).__name__}({want})"


class ProxyProtocolError(Exception):
    """The base class for everything that a peer can do wrong before its connection begins.

    Every argument of a subclass is also an attribute.
    """

    #: Whether this happens every day and deserves only a log line at debug level.
    routine: ClassVar[bool] = False
    #: The reason in one word.
    code: RefusalCode = RefusalCode.MALFORMED
    #: The option of the receiver that would accept this header, for messages; empty for most errors.
    option: str = ""
    _sentence: ClassVar[str] = ""

    def __str__(self) -> str:
        return self._sentence or super().__str__()


class ProxyProtocolSyntaxError(ProxyProtocolError, ValueError):
    """The bytes break the rules for a header (sections 2.1 and 2.2). Abort the connection: the stream is useless.

    Args:
        reason: What is wrong, as a sentence without the position.
        offset: The position of the wrong byte in the header, counted from 0, or None. The codecs reject a header that
            comes in pieces as early as possible, so its offset may differ from that of the whole header.
        code: The reason in one word, if it is not that the header is malformed.
    """

    def __init__(
        self,
        reason: str = "The PROXY protocol header is malformed",
        offset: int | None = None,
        code: RefusalCode | None = None,
    ) -> None:
        given = (reason, offset, code)
        super().__init__(*given[: 3 if code else 1 if offset is None else 2])
        self.reason = reason
        self.offset = offset
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self.reason if self.offset is None else f"{self.reason} (at byte {self.offset})"


class ProxyProtocolLimitError(ProxyProtocolSyntaxError):
    """The header is longer than allowed: over 107 bytes in version 1, over ``max_header`` in version 2."""

    code = RefusalCode.LIMIT
    option = "max_header"


class ProxyProtocolChecksumError(ProxyProtocolError, ValueError):
    """The header is well-formed, but its CRC32C is wrong (section 2.2.3).

    Args:
        result: What the header says, a :class:`.ProxyResult`. Do not believe it.
    """

    code = RefusalCode.CHECKSUM
    _sentence = "The CRC32C in the PROXY protocol header does not match the header's bytes"

    def __init__(self, result: Any) -> None:
        super().__init__(result)
        self.result = result


class ProxyProtocolIncompleteError(ProxyProtocolError):
    """The bytes are the beginning of a header, and the rest is missing.

    Args:
        want_read: What to read before parsing again.
    """

    code = RefusalCode.INCOMPLETE

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

    code = RefusalCode.TIMEOUT

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

    code = RefusalCode.UNTRUSTED
    _sentence = "The peer is not one of the trusted proxies"

    def __init__(self, peer: object = None) -> None:
        super().__init__(peer)
        self.peer = peer


class ProxyProtocolMissingError(ProxyProtocolError):
    """The connection ended before the first byte of a header, as in a TCP health check."""

    code = RefusalCode.MISSING

    routine = True
    _sentence = "The connection ended before the first byte of a PROXY protocol header"


class ProxyProtocolInvalidError(ProxyProtocolError):
    """The user's ``validate`` rejected the header. A ``validate`` may raise this with a reason of its own.

    Args:
        reason: What is wrong with the header, as a sentence.
    """

    code = RefusalCode.INVALID

    def __init__(self, reason: str = "The server's validate function rejected the header") -> None:
        super().__init__(reason)
        self.reason = reason


class ProxyProtocolHandshakeError(ProxyProtocolError):
    """The TLS handshake after the header failed. Adapters give this to ``on_refused``.

    Args:
        reason: Why, as OpenSSL or the deadline puts it.
    """

    code = RefusalCode.TLS

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProxyProtocolHookError(ProxyProtocolError):
    """One of the server's own functions raised an exception: a hook of its :class:`.Receiver`, or its policy.

    Args:
        hook: The name of the hook.
        error: The exception.
    """

    code = RefusalCode.HOOK

    def __init__(self, hook: str, error: BaseException) -> None:
        super().__init__(hook, error)
        self.hook = hook
        self.error = error

    def __str__(self) -> str:
        return f"The server's {self.hook} function raised {self.error!r}"


def drop_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of *error*, which a connection keeps, and those of its context.

    Their frames hold the connection, and the connection holds its error. Without this, each rejected peer would leave a
    connection and the transport of a closed socket in memory until the next garbage collection.
    """
    current: BaseException | None = error
    while current is not None:
        current.__traceback__ = None
        current = current.__context__
