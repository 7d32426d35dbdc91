"""The decisions about a connection. Every adapter asks a Receiver; adapters only move bytes and wait."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, Final, NoReturn, Protocol, TypedDict

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol, signature_begins
from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolHookError,
    ProxyProtocolIncompleteError,
    ProxyProtocolInvalidError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
    ProxyProtocolWantRead,
    RefusalCode,
    drop_tracebacks,
)
from proxyprotocol.parser import DETECT, HeaderParser, StartedParser, start_parser
from proxyprotocol.policy import ANY, HeaderPolicy, Network, PolicyCallable, TrustedProxies
from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.typing import SockAddr

__all__ = [
    "LimitKeywords",
    "Metrics",
    "Observation",
    "Receiver",
    "ReceiverConnection",
    "ReceiverKeywords",
    "describe_refusal",
    "describe_unknown",
    "spell_keyword",
]


# every connection asks for these, and an enumeration's members are slow to look up on CPython 3.11
_OPTIONAL, _IGNORE = HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE
_SKIP, _REJECT = HeaderPolicy.SKIP, HeaderPolicy.REJECT


# What to do about a refusal. The braces hold names of options, to be spelled as the user wrote them.
_REMEDIES: Final[Mapping[RefusalCode, str]] = {
    RefusalCode.UNTRUSTED: "if it is your proxy, add it to {trusted}",
    RefusalCode.NO_HEADER: "if it is your proxy, let it send the header; see {policy}",
    RefusalCode.VERSION: "see {version}",
    RefusalCode.LIMIT: "see {max_header}",
    RefusalCode.TIMEOUT: "see {timeout}",
    RefusalCode.INVALID: "see {validate}",
}
_REMEDIED: Final = ("max_header", "policy", "timeout", "trusted", "validate", "version")


def spell_keyword(option: str) -> str:
    """Return the keyword of an option; endpoint strings and environment variables spell options in another way."""
    return "pp" if option == "version" else option


class Observation(Protocol):
    """What :class:`Metrics` count about one connection."""

    def accepted(self, version: str | None) -> object:
        """Count an accepted connection: the version of its header, ``"v1"`` or ``"v2"``; None without a header."""

    def refused(self, code: RefusalCode) -> object:
        """Count a refusal."""


class Metrics(Protocol):
    """Counts connections, as :class:`proxyprotocol.metrics.ProxyProtocolMetrics` does."""

    def connected(self, listener: str) -> Observation:
        """Count a new connection of a listener, which is named by its address."""


class LimitKeywords(TypedDict, total=False):
    """The keywords of :class:`Receiver` but for the codec."""

    policy: HeaderPolicy | PolicyCallable
    trusted: str | Iterable[Network] | None
    timeout: float | None
    max_header: int
    validate: Callable[[ProxyResult, SockAddr], bool] | None
    on_accepted: Callable[[ProxyResult | None, SockAddr], object] | None
    on_refused: Callable[[ProxyProtocolError, SockAddr], object] | None
    metrics: Metrics | None


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
        trusted: The networks of your proxies: ``trusted=["10.0.0.0/8"]`` is short for
            ``policy=TrustedProxies(["10.0.0.0/8"])``. ``"any"`` says that everybody who can connect may name a client;
            without it, the log warns of that.
        timeout: How long a whole header may take from accept on, in seconds; None for no limit. The specification
            asks for 3 seconds at least.
        max_header: The most bytes that a header of version 2 may have, its fixed 16 included.
        validate: Called before the application begins, with the result of the header and the address that connected.
            It returns whether to accept the header.
        on_accepted: Called after that, with the result, or None for a connection without a header, and the address.
        on_refused: Called with the error that refuses a connection, and the address. An exception in any of these three
            functions refuses the connection.
        metrics: The counters, such as a :class:`proxyprotocol.metrics.ProxyProtocolMetrics`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The time-out is not above 0, or *max_header* is under 16.
    """

    pp: ProxyProtocol | None = None
    _: KW_ONLY
    policy: HeaderPolicy | PolicyCallable = HeaderPolicy.REQUIRE
    trusted: str | Iterable[Network] | None = None
    timeout: float | None = spec.DEFAULT_TIMEOUT
    max_header: int = spec.DEFAULT_MAX_HEADER
    validate: Callable[[ProxyResult, SockAddr], bool] | None = None
    on_accepted: Callable[[ProxyResult | None, SockAddr], object] | None = None
    on_refused: Callable[[ProxyProtocolError, SockAddr], object] | None = None
    metrics: Metrics | None = None
    #: The listening address, as logs and metrics name it. Adapters set it.
    listener: str = field(default="", repr=False, compare=False)
    #: Returns the name of an option as its user wrote it, for messages.
    spell: Callable[[str], str] = field(default=spell_keyword, repr=False, compare=False)
    #: The codec: *pp*, or the default one.
    codec: ProxyProtocol = field(init=False, repr=False, compare=False)
    #: Whether :meth:`connection` uses its addresses; if not, pass None and save two system calls.
    needs_addresses: bool = field(init=False, repr=False, compare=False)
    _asks: bool = field(init=False, repr=False, compare=False)
    #: Whether hooks or counters follow each connection.
    watched: bool = field(init=False, repr=False, compare=False)
    #: Whether the codec is one for connections without a header, such as :class:`.ProxyProtocolNoop`.
    reads_nothing: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pp is not None and not isinstance(self.pp, ProxyProtocol):
            raise TypeError(f"pp is a codec, such as ProxyProtocolV2(), not {self.pp!r}")
        if isinstance(self.policy, type) or not (isinstance(self.policy, HeaderPolicy) or callable(self.policy)):
            networks = isinstance(self.policy, (list, tuple, set, frozenset))
            hint = f"; give networks as trusted={self.policy!r}" if networks else ""
            raise TypeError(f"policy is a HeaderPolicy or a function that gives one, not {self.policy!r}{hint}")
        if type(self.timeout) not in (int, float, type(None)):
            raise TypeError(f"timeout is a number of seconds, or None, not {self.timeout!r}")
        if self.timeout is not None and not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout is a number of seconds above 0, or None, not {self.timeout!r}")
        hooks = {name: getattr(self, name) for name in ("validate", "on_accepted", "on_refused")}
        for name, hook in hooks.items():
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} is a function, not {hook!r}")
        if self.trusted is not None:
            if not isinstance(self.policy, HeaderPolicy):
                raise TypeError("trusted= and a policy function both decide whom to trust: give one of the two")
            if self.trusted != ANY:
                object.__setattr__(self, "policy", TrustedProxies(self.trusted, trusted=self.policy))
                object.__setattr__(self, "trusted", None)
        HeaderParser(self.pp, max_header=self.max_header)  # which rejects a wrong limit
        # every connection asks for these
        object.__setattr__(self, "codec", DETECT if self.pp is None else self.pp)
        watched = self.metrics is not None or any(hooks.values())
        object.__setattr__(self, "watched", watched)
        object.__setattr__(self, "_asks", not isinstance(self.policy, HeaderPolicy))
        object.__setattr__(self, "needs_addresses", watched or self._asks)
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
                    raise TypeError(describe_unknown("keyword", name, names))
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
        # an __init__ would cost a twelfth of what a header costs on CPython 3.11
        connection = _WatchedConnection(self, peer) if self.watched else ReceiverConnection()
        policy: Any = self.policy
        if self._asks:  # isinstance() would cost more
            policy = policy(peer, local)
            if not isinstance(policy, HeaderPolicy):
                raise TypeError(f"The policy function must give a HeaderPolicy, not {policy!r}")
        if policy is _REJECT:
            error = ProxyProtocolUntrustedError(peer)
            if isinstance(connection, _WatchedConnection):
                connection.refuse(error)
            raise error
        connection._receiver = self
        connection._parser = start_parser(StartedParser(), self.codec, self.max_header)
        connection.policy = policy
        connection.result = connection.effective = None
        connection.trailing = b""
        # under OPTIONAL: what has come and may still be the application's; None once it is known to be a header
        connection._seen = b"" if policy is _OPTIONAL else None
        # that no header comes is known at once for SKIP and for a codec that reads nothing
        connection.begun = policy is _SKIP or self.reads_nothing
        if connection.begun and isinstance(connection, _WatchedConnection):
            connection.accept()
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
    _parser: StartedParser
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


class _WatchedConnection(ReceiverConnection):
    """A connection that the receiver's hooks and counters follow."""

    __slots__ = ("_error", "_first", "_observation", "_peer", "_waits")

    def __init__(self, receiver: Receiver, peer: SockAddr) -> None:
        self._receiver, self._peer = receiver, peer
        self._error: ProxyProtocolError | None = None
        self._first = b""  # the first byte, which tells the version of a header
        self._waits, self._observation = False, None
        if receiver.metrics is not None:
            self._observation = receiver.metrics.connected(receiver.listener)
        self._waits = True  # neither accepted nor refused yet

    def __del__(self) -> None:
        if self._waits and self._observation is not None:
            self._observation.refused(RefusalCode.CLOSED)

    def feed(self, data: bytes) -> bool:
        self._first = self._first or bytes(data[:1])
        return self._step(super().feed, data)

    def eof(self) -> bool:
        return self._step(super().eof)

    def timed_out(self) -> bool:
        return self._step(super().timed_out)

    def _step(self, take: Callable[..., bool], *data: bytes) -> bool:
        if self._error is not None:
            raise self._error
        try:
            if take(*data) and self._waits:
                self.accept()
        except ProxyProtocolError as error:
            self.refuse(error)
        return self.begun

    def accept(self) -> None:
        receiver, result, hook = self._receiver, self.result, "validate"
        try:
            if result is not None and receiver.validate is not None and not receiver.validate(result, self._peer):
                self.refuse(ProxyProtocolInvalidError())
            hook = "on_accepted"
            if receiver.on_accepted is not None:
                receiver.on_accepted(result, self._peer)
        except Exception as error:
            self.refuse(error if isinstance(error, ProxyProtocolError) else ProxyProtocolHookError(hook, error))
        self._waits = False
        if self._observation is not None:
            version = "v1" if spec.V1_SIGNATURE.startswith(self._first) else "v2"
            self._observation.accepted(None if result is None else version)

    def refuse(self, error: ProxyProtocolError) -> NoReturn:
        if self._waits:
            self._waits, self._error, self.begun = False, error, False
            if self._observation is not None:
                self._observation.refused(error.code)
            if self._receiver.on_refused is not None:
                try:
                    self._receiver.on_refused(error, self._peer)
                except Exception as raised:
                    self._error = ProxyProtocolHookError("on_refused", raised)
        assert self._error is not None
        raise self._error


def describe_refusal(
    error: ProxyProtocolError, peer: SockAddr, what: str = "a connection", receiver: Receiver | None = None
) -> str:
    """Return one line of text: a connection was refused, why, and what to do. This drops the error's tracebacks.

    Args:
        error: The reason. It shows the peer's bytes escaped.
        peer: The address that connected, as the socket module gives it.
        what: What was refused.
        receiver: Knows the listener and the user's names of the options; None leaves both out.
    """
    drop_tracebacks(error)
    where = remedy = ""
    if receiver is not None:
        where = f" on {receiver.listener}" if receiver.listener else ""
        remedy = _REMEDIES.get(error.code, "")
        remedy = remedy and "; " + remedy.format_map({option: receiver.spell(option) for option in _REMEDIED})
    return f"Refused {what} from {describe_address(peer)}{where}: {error}{remedy}"


def describe_unknown(what: str, name: str, known: Collection[str], prefix: str = "") -> str:
    """Return the sentence for an unknown name, with the most similar known one, or with all of them.

    Args:
        what: What the name stands for, such as a keyword.
        name: The unknown name.
        known: The known names.
        prefix: What all names begin with; it makes no name more similar to another.
    """

    def plain(text: str) -> str:
        return text.lower().replace("_", "").removeprefix(prefix)

    names = {plain(entry): entry for entry in known}
    similar = difflib.get_close_matches(plain(name), names, 1)
    return f"unknown {what} {name}; " + (
        f"did you mean {names[similar[0]]}?" if similar else f"known are {', '.join(known)}"
    )
