"""The decisions about a connection. Every adapter asks a Receiver; adapters only move bytes and wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, TypedDict

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol, signature_begins
from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
    ProxyProtocolWantRead,
    drop_tracebacks,
)
from proxyprotocol.parser import DETECT, HeaderParser
from proxyprotocol.policy import HeaderPolicy, PolicyCallable
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.typing import SockAddr

__all__ = ["LimitKeywords", "Receiver", "ReceiverConnection", "ReceiverKeywords", "describe_refusal"]

_new_parser = HeaderParser.__new__
# every connection needs these, and CPython 3.11 is slow to look up members of an enumeration
_OPTIONAL, _IGNORE = HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE
_SKIP, _REJECT = HeaderPolicy.SKIP, HeaderPolicy.REJECT


class LimitKeywords(TypedDict, total=False):
    """The keywords of :class:`Receiver`, except for the codec."""

    policy: HeaderPolicy | PolicyCallable
    timeout: float | None
    max_header: int


class ReceiverKeywords(LimitKeywords, total=False):
    """The keywords that every adapter takes in place of ``receiver=``; see :class:`Receiver`."""

    pp: ProxyProtocol | None


@dataclass(frozen=True)
class Receiver:
    """The rules for headers: codec, policy and limits. One object serves all connections of a server.

    Args:
        pp: The codec; by default one that reads version 1 and version 2.
        policy: What to do with connections, or a function that decides it for each connection, such as a
            :class:`.TrustedProxies`. The function gets the peer's and the local address as the socket module gives
            them.
        timeout: Seconds from accept until the header must be complete; None for no limit. The specification asks for
            at least 3.
        max_header: The most bytes that a header of version 2 may have, its fixed 16 included.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: *timeout* is not above 0, or *max_header* is less than 16.
    """

    pp: ProxyProtocol | None = None
    _: KW_ONLY
    policy: HeaderPolicy | PolicyCallable = HeaderPolicy.REQUIRE
    timeout: float | None = spec.DEFAULT_TIMEOUT
    max_header: int = spec.DEFAULT_MAX_HEADER
    #: The codec: *pp*, or the default one.
    codec: ProxyProtocol = field(init=False, repr=False, compare=False)
    #: Whether :meth:`connection` uses its addresses; if not, pass None and save two system calls.
    needs_addresses: bool = field(init=False, repr=False, compare=False)
    #: How many bytes a header has at least; 0 for a codec that reads no header, such as :class:`.ProxyProtocolNoop`.
    min_header: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pp is not None and not isinstance(self.pp, ProxyProtocol):
            raise TypeError(f"pp must be a codec, such as ProxyProtocolV2(), not {self.pp!r}")
        if isinstance(self.policy, type) or not (isinstance(self.policy, HeaderPolicy) or callable(self.policy)):
            raise TypeError(f"policy must be a HeaderPolicy or a function that returns one, not {self.policy!r}")
        if type(self.timeout) not in (int, float, type(None)):
            raise TypeError(f"timeout must be a number of seconds or None, not {self.timeout!r}")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, or None, not {self.timeout!r}")
        parser = HeaderParser(self.pp, max_header=self.max_header)  # checks max_header
        # computed once, because every connection needs them
        object.__setattr__(self, "codec", DETECT if self.pp is None else self.pp)
        object.__setattr__(self, "needs_addresses", not isinstance(self.policy, HeaderPolicy))
        object.__setattr__(self, "min_header", parser.needed)

    @classmethod
    def of(cls, receiver: Receiver | None, keywords: Mapping[str, Any]) -> Receiver:
        """Return the receiver of an adapter, which takes either ``receiver=`` or the keywords of this class.

        Args:
            receiver: The value of ``receiver=``; None if it was not given.
            keywords: The adapter's other keywords.

        Raises:
            TypeError: Both were given, or a keyword is unknown.
        """
        if receiver is not None:
            if keywords:
                others = ", ".join(f"{name}=" for name in sorted(keywords))
                raise TypeError(f"receiver= already has all the rules: {others} cannot be given with it")
            return receiver
        names = [entry.name for entry in fields(cls) if entry.init]
        for name in keywords:
            if name not in names:
                raise TypeError(f"Unknown keyword {name}=; valid: {', '.join(f'{name}=' for name in names)}")
        return cls(**keywords)

    def connection(self, peer: SockAddr, local: SockAddr) -> ReceiverConnection:
        """Start a connection.

        Args:
            peer: The address that connected, as the socket module gives it.
            local: The address that it connected to, in the same form.

        Raises:
            ProxyProtocolUntrustedError: The policy is REJECT: drop the connection, read nothing.
            TypeError: The policy function did not return a policy.
        """
        policy: Any = self.policy
        if self.needs_addresses:  # isinstance() would cost more
            policy = policy(peer, local)
            if not isinstance(policy, HeaderPolicy):
                raise TypeError(f"The policy function must return a HeaderPolicy, not {policy!r}")
        if policy is _REJECT:
            raise ProxyProtocolUntrustedError(peer)
        connection = ReceiverConnection()  # an __init__ would cost a twelfth of what a header costs on CPython 3.11
        connection._receiver = self
        connection._parser = _new_parser(HeaderParser).start(self.codec, self.max_header, self.min_header)
        connection.policy = policy
        connection.result = connection.effective = None
        connection.trailing = b""
        connection._seen = b"" if policy is _OPTIONAL else None
        connection.begun = policy is _SKIP or not self.min_header
        return connection


class ReceiverConnection:
    """The state of one connection, from accept until the application may begin.

    Feed it the bytes that arrive until :attr:`begun`. Then give :attr:`trailing` to the application, followed by all
    later bytes. If a method raises, abort the connection, and log :func:`describe_refusal`: as a warning, or at debug
    level if the error is ``routine``.
    """

    __slots__ = ("_parser", "_receiver", "_seen", "begun", "effective", "policy", "result", "trailing")

    #: What the header says, once it is complete.
    result: ProxyResult | None
    #: The application's first bytes, once it may begin.
    trailing: bytes
    #: The result, if the application sees its addresses; None if it sees the real ones: without a header, for LOCAL,
    #: UNKNOWN and UNSPEC, and under the policy IGNORE.
    effective: ProxyResult | None
    #: Whether the application may begin.
    begun: bool
    #: The policy for this connection.
    policy: HeaderPolicy

    _receiver: Receiver
    _parser: HeaderParser
    _seen: bytes | None  # under OPTIONAL: the bytes so far, until we know that they start a header

    @property
    def believed(self) -> ProxyResult | None:
        """The result, except under the policy IGNORE."""
        return None if self.policy is _IGNORE else self.result

    @property
    def undecided(self) -> bool:
        """Whether the bytes so far may belong to the application: callers that cannot push bytes back must peek.

        This happens only under OPTIONAL, until a byte differs from the signatures, or a signature is complete.
        """
        return self._seen is not None and not self.begun

    @property
    def needed(self) -> int:
        """How many bytes are missing at least. A caller that reads no more never reads past the header."""
        if self.begun:
            return 0
        if self._seen:
            return max(spec.V1_MIN_LENGTH - len(self._seen), 1)
        return self._parser.needed

    def feed(self, data: bytes) -> bool:
        """Take the next bytes.

        Args:
            data: The bytes.

        Returns:
            :attr:`begun`.

        Raises:
            ProxyProtocolError: Abort the connection.
            RuntimeError: The application has begun already.
        """
        if self.begun:
            raise RuntimeError("The application has begun: give these bytes to the application")
        if self._seen is not None:
            data = self._seen + data
            # Only data that fits no version goes to the application. The parser refuses a header of a version that
            # this codec does not read: a proxy sent it.
            own = self._receiver.codec.begins(data)
            known = signature_begins(data, spec.V1_SIGNATURE, spec.V2_SIGNATURE)
            if not own and not known:
                self._seen = data
                if own is known is False:
                    self.begun, self.trailing = True, data
                return self.begun
            self._seen = None
        parser = self._parser
        self.result = result = parser.feed(data)
        if result is None:
            return False
        self.begun = True
        self.trailing = parser.trailing
        if result.family_number and self.policy is not _IGNORE:
            self.effective = result
        return True

    def eof(self) -> bool:
        """Take the end of the stream.

        Returns:
            :attr:`begun`: true if the application has begun already, or no byte came under OPTIONAL.

        Raises:
            ProxyProtocolMissingError: Not one byte came.
            ProxyProtocolIncompleteError: The stream ended inside the header.
        """
        return self._end(ProxyProtocolIncompleteError(ProxyProtocolWantRead(self.needed)) if self._seen else None)

    def timed_out(self) -> bool:
        """Take the end of the time for the header.

        Returns:
            :attr:`begun`: true if the application has begun already, or no byte came under OPTIONAL: then the client
            waits for the server to speak first.

        Raises:
            ProxyProtocolTimeoutError: The header did not come in time.
        """
        received = len(self._seen or b"") + self._parser.received
        return self._end(ProxyProtocolTimeoutError(self._receiver.timeout, received))

    def _end(self, error: ProxyProtocolError | None) -> bool:
        """Begin if that needs no more bytes; otherwise raise *error*, or the parser's."""
        self.begun = self.begun or self._seen == b""
        if not self.begun:
            self._seen = None
            if error is not None:
                self._parser.fail(error)
            self._parser.eof()
        return self.begun


def describe_refusal(error: ProxyProtocolError, peer: SockAddr, what: str = "a connection") -> str:
    """Return the log line for a refused connection, with the peer's bytes escaped. Drops the error's tracebacks."""
    drop_tracebacks(error)
    return f"Refused {what} from {describe_address(peer)}: {error}"
