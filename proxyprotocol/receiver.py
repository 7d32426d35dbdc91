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

__all__ = [
    "LimitKeywords",
    "Receiver",
    "ReceiverConnection",
    "ReceiverKeywords",
    "describe_refusal",
]


_new_parser = HeaderParser.__new__
# every connection asks for these, and an enumeration's members are slow to look up on CPython 3.11
_OPTIONAL, _IGNORE = HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE
_SKIP, _REJECT = HeaderPolicy.SKIP, HeaderPolicy.REJECT


class LimitKeywords(TypedDict, total=False):
    """The keywords of :class:`Receiver` but for the codec."""

    policy: HeaderPolicy | PolicyCallable
    timeout: float | None
    max_header: int


class ReceiverKeywords(LimitKeywords, total=False):
    """The keywords that every adapter takes in place of ``receiver=``; see :class:`Receiver`."""

    pp: ProxyProtocol | None


@dataclass(frozen=True)
class Receiver:
    """How connections are received: codec, policy and limits, one object for all connections of a server.

    Args:
        pp: The codec; by default one that reads version 1 and version 2.
        policy: What to do with a connection, or a function of its two addresses that says so, such as a
            :class:`.TrustedProxies`. It is given the addresses as the socket module gives them.
        timeout: How long a whole header may take from accept on, in seconds; None for no limit. The specification
            asks for 3 seconds at least.
        max_header: The most bytes that a header of version 2 may have, its fixed 16 included.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The time-out is not above 0, or *max_header* is under 16.
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
    #: Whether the codec is one for connections without a header, such as :class:`.ProxyProtocolNoop`.
    reads_nothing: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pp is not None and not isinstance(self.pp, ProxyProtocol):
            raise TypeError(f"pp is a codec, such as ProxyProtocolV2(), not {self.pp!r}")
        if isinstance(self.policy, type) or not (isinstance(self.policy, HeaderPolicy) or callable(self.policy)):
            raise TypeError(f"policy is a HeaderPolicy or a function that gives one, not {self.policy!r}")
        if type(self.timeout) not in (int, float, type(None)):
            raise TypeError(f"timeout is a number of seconds, or None, not {self.timeout!r}")
        if self.timeout is not None and not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout is a number of seconds above 0, or None, not {self.timeout!r}")
        HeaderParser(self.pp, max_header=self.max_header)  # which rejects a wrong limit
        # every connection asks for these
        object.__setattr__(self, "codec", DETECT if self.pp is None else self.pp)
        object.__setattr__(self, "needs_addresses", not isinstance(self.policy, HeaderPolicy))
        object.__setattr__(self, "reads_nothing", _reads_nothing(self.codec))

    @classmethod
    def of(cls, receiver: Receiver | None, keywords: Mapping[str, Any]) -> Receiver:
        """Return the receiver of an adapter, which takes either ``receiver=`` or the keywords for one.

        Args:
            receiver: The adapter's ``receiver=``, if it was given.
            keywords: Its other keywords, those of this class.

        Raises:
            TypeError: Both are given, or a keyword is unknown.
        """
        if receiver is None:
            names = [entry.name for entry in fields(cls) if entry.init]
            for name in keywords:
                if name not in names:
                    raise TypeError(f"There is no keyword {name}=, but {', '.join(f'{name}=' for name in names)}")
            return cls(**keywords)
        if keywords:
            others = ", ".join(f"{name}=" for name in sorted(keywords))
            raise TypeError(f"receiver= says all there is to say, {others} cannot be given with it")
        return receiver

    def connection(self, peer: SockAddr, local: SockAddr) -> ReceiverConnection:
        """Begin a connection.

        Args:
            peer: The address that connected, as the socket module gives it.
            local: The address that it connected to, in the same form.

        Raises:
            ProxyProtocolUntrustedError: The policy is REJECT: drop the connection, read nothing.
        """
        policy: Any = self.policy
        if self.needs_addresses:  # isinstance() would cost more
            policy = policy(peer, local)
            if not isinstance(policy, HeaderPolicy):
                raise TypeError(f"The policy function must give a HeaderPolicy, not {policy!r}")
        if policy is _REJECT:
            raise ProxyProtocolUntrustedError(peer)
        connection = ReceiverConnection()  # an __init__ would cost a twelfth of what a header costs on CPython 3.11
        connection._receiver = self
        connection._parser = _new_parser(HeaderParser).start(self.codec, self.max_header)
        connection.policy = policy
        connection.result = connection.effective = None
        connection.trailing = b""
        # under OPTIONAL: what has come and may still be the application's; None once it is known to be a header
        connection._seen = b"" if policy is _OPTIONAL else None
        # that no header comes is known at once for SKIP and for a codec that reads nothing
        connection.begun = policy is _SKIP or self.reads_nothing
        return connection


def _reads_nothing(codec: ProxyProtocol) -> bool:
    try:
        return not isinstance(codec.parse(b""), int)
    except ProxyProtocolError:  # such a codec refuses each connection
        return False


class ReceiverConnection:
    """The state of one connection, from accept until the application may begin.

    Feed it what comes until :attr:`begun`. Then the application gets :attr:`trailing` first, and everything else from
    the connection itself. When any method raises: abort the connection, and log
    :func:`describe_refusal` - at debug level where the error is ``routine``.
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
    #: What was decided for this connection.
    policy: HeaderPolicy

    _receiver: Receiver
    _parser: HeaderParser
    _seen: bytes | None

    @property
    def believed(self) -> ProxyResult | None:
        """The result, where the application is to go by it: not under the policy IGNORE."""
        return None if self.policy is _IGNORE else self.result

    @property
    def undecided(self) -> bool:
        """Whether the bytes so far may belong to the application: callers that cannot push bytes back must peek.

        That is so under OPTIONAL, until the first byte that differs from the signatures, or the end of one.
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
            return self._decide(self._seen + data)
        parser = self._parser
        self.result = result = parser.feed(data)
        if result is None:
            return False
        self.begun = True
        self.trailing = parser.trailing
        if result.family_number and self.policy is not _IGNORE:
            self.effective = result
        return True

    def _decide(self, seen: bytes) -> bool:
        """Under OPTIONAL: all bytes are the application's once one of them differs from every signature."""
        own, any_version = (
            self._receiver.codec.begins(seen),
            signature_begins(seen, spec.V1_SIGNATURE, spec.V2_SIGNATURE),
        )
        if own or any_version:
            self._seen = None
            return self.feed(seen)
        self._seen = seen
        if own is any_version is False:
            self.begun, self.trailing = True, seen
        return self.begun

    def eof(self) -> bool:
        """Take the end of the stream, before the application has begun.

        Returns:
            :attr:`begun`: true where no header had to come and not a byte did.

        Raises:
            ProxyProtocolMissingError: Not one byte came.
            ProxyProtocolIncompleteError: The header is cut.
        """
        if not self.begun and not self._may_begin_plainly():
            if self._seen:
                self._fail(ProxyProtocolIncompleteError(ProxyProtocolWantRead(self.needed)))
            self._parser.eof()
        return self.begun

    def timed_out(self) -> bool:
        """Take the end of the time that the header had, before the application has begun.

        Returns:
            :attr:`begun`: true where no header had to come and not a byte did; the server is to speak first then.

        Raises:
            ProxyProtocolTimeoutError: The header did not come in time.
        """
        if not self.begun and not self._may_begin_plainly():
            received = len(self._seen or b"") + self._parser.received
            self._fail(ProxyProtocolTimeoutError(self._receiver.timeout, received))
            self._parser.eof()
        return True

    def _may_begin_plainly(self) -> bool:
        self.begun = self._seen == b""
        return self.begun

    def _fail(self, error: ProxyProtocolError) -> None:
        self._seen = None
        self._parser.fail(error)


def describe_refusal(error: ProxyProtocolError, peer: SockAddr, what: str = "a connection") -> str:
    """Return one line of text: a connection was refused, and why. This drops the error's tracebacks.

    Args:
        error: Why. It shows the peer's bytes escaped.
        peer: The address that connected, as the socket module gives it.
        what: What was refused, if not a connection.
    """
    drop_tracebacks(error)
    return f"Refused {what} from {describe_address(peer)}: {error}"
