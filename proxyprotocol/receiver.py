"""The decisions about a connection. Every adapter asks a Receiver; adapters only move bytes and wait."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NoReturn, Protocol, TypedDict

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol, check_for_streams, signature_begins
from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolHookError,
    ProxyProtocolIncompleteError,
    ProxyProtocolInvalidError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
    ProxyProtocolWantRead,
    RefusalCode,
)
from proxyprotocol.messages import check_keywords, names_unknown_keywords, spell_keyword
from proxyprotocol.parser import DETECT, HeaderParser
from proxyprotocol.policy import HeaderPolicy, Network, PolicyCallable, combine
from proxyprotocol.result import ProxyResult
from proxyprotocol.typing import SockAddr

__all__ = [
    "LimitKeywords",
    "Metrics",
    "Observation",
    "Receiver",
    "ReceiverConnection",
    "ReceiverKeywords",
]

_new_parser = HeaderParser.__new__
# every connection needs these, and CPython 3.11 is slow to look up members of an enumeration
_OPTIONAL, _IGNORE = HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE
_SKIP, _REJECT = HeaderPolicy.SKIP, HeaderPolicy.REJECT
_SIGNATURES = (spec.V1_SIGNATURE, spec.V2_SIGNATURE)


class Observation(Protocol):
    """What :class:`Metrics` count about one connection."""

    def accepted(self, version: str | None) -> object:
        """Count an accepted connection: the version of its header (``"v1"``, ``"v2"``, ``"spp"``), or None."""

    def refused(self, code: RefusalCode) -> object:
        """Count a refusal. CLOSED comes from the garbage collector, at any line of a thread: wait for no lock."""


class Metrics(Protocol):
    """Counts connections, as :class:`proxyprotocol.metrics.ProxyProtocolMetrics` does."""

    def connected(self, listener: str) -> Observation:
        """Count a new connection of a listener, which is named by its address."""

    def handshake_failed(self, listener: str) -> object:
        """Count a connection that was refused after its header, because its TLS handshake failed."""


class LimitKeywords(TypedDict, total=False):
    """The keywords of :class:`Receiver`, except for the codec."""

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


@names_unknown_keywords
@dataclass(frozen=True)
class Receiver:
    """The rules for headers: codec, policy and limits. One object serves all connections of a server.

    Args:
        pp: The codec; by default one that reads version 1 and version 2.
        policy: What to do with connections, or a function that decides it for each connection, such as a
            :class:`.TrustedProxies`. The function gets the peer's and the local address as the socket module gives
            them.
        trusted: The networks of your proxies: ``trusted=["10.0.0.0/8"]`` is short for
            ``policy=TrustedProxies(["10.0.0.0/8"])``. ``"any"`` says that everybody who can connect may name a client;
            without it, the log warns of that.
        timeout: Seconds from accept until the header must be complete; None for no limit. The specification asks for
            at least 3.
        max_header: The most bytes that a header of version 2 may have, its fixed 16 included.
        validate: Called before the application begins, with the result of the header and the address that connected.
            It returns whether to accept the header.
        on_accepted: Called after that, with the result, or None for a connection without a header, and the address.
        on_refused: Called with the error that refuses a connection, and the address. An exception in any of these three
            functions refuses the connection.
        metrics: The counters, such as a :class:`proxyprotocol.metrics.ProxyProtocolMetrics`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: *timeout* is not above 0, or *max_header* is less than 16.
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
    #: The policy that counts: *policy*, with the networks of *trusted*.
    effective_policy: HeaderPolicy | PolicyCallable = field(init=False, repr=False, compare=False)
    #: The codec: *pp*, or the default one.
    codec: ProxyProtocol = field(init=False, repr=False, compare=False)
    #: Whether :meth:`connection` uses its addresses; if not, pass None and save two system calls.
    needs_addresses: bool = field(init=False, repr=False, compare=False)
    _asks: bool = field(init=False, repr=False, compare=False)
    #: Whether hooks or counters follow each connection.
    watched: bool = field(init=False, repr=False, compare=False)
    #: How many bytes a header has at least; 0 for a codec that reads no header, such as :class:`.ProxyProtocolNoop`.
    min_header: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pp is not None and not isinstance(self.pp, ProxyProtocol):
            raise TypeError(f"pp must be a codec, such as ProxyProtocolV2(), not {self.pp!r}")
        trusted, policy = combine(self.trusted, self.policy)
        if type(self.timeout) not in (int, float, type(None)):
            raise TypeError(f"timeout must be a number of seconds or None, not {self.timeout!r}")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, or None, not {self.timeout!r}")
        hooks = {name: getattr(self, name) for name in ("validate", "on_accepted", "on_refused")}
        for name, hook in {**hooks, "policy": self.policy}.items():
            if hook is not None and not callable(hook) and name in hooks:
                raise TypeError(f"{name} must be a function, not {hook!r}")
            call = getattr(type(hook), "__call__", None)  # noqa: B004  # an object may have an async __call__
            if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(call):
                raise TypeError(f"{name} must be a plain function: no adapter waits for the coroutine of {hook!r}")
        if self.metrics is not None and (isinstance(self.metrics, type) or not hasattr(self.metrics, "connected")):
            raise TypeError(f"metrics must be an object that counts, a ProxyProtocolMetrics(), not {self.metrics!r}")
        object.__setattr__(self, "trusted", trusted)
        object.__setattr__(self, "effective_policy", policy)
        parser = HeaderParser(self.pp, max_header=self.max_header)  # checks max_header
        object.__setattr__(self, "codec", DETECT if self.pp is None else self.pp)
        object.__setattr__(self, "watched", self.metrics is not None or any(hooks.values()))
        object.__setattr__(self, "_asks", not isinstance(policy, HeaderPolicy))
        object.__setattr__(self, "needs_addresses", self.watched or self._asks)
        object.__setattr__(self, "min_header", parser.needed)

    @classmethod
    def of(
        cls,
        receiver: Receiver | None,
        keywords: Mapping[str, Any],
        others: Iterable[str] = (),
        *,
        datagrams: bool = False,
    ) -> Receiver:
        """Return the receiver of an adapter, which takes either ``receiver=`` or the keywords of this class.

        Args:
            receiver: The value of ``receiver=``; None if it was not given.
            keywords: The keywords for the receiver.
            others: The names of the adapter's own keywords, which an unknown keyword may mean.
            datagrams: Whether the adapter receives datagrams rather than connections.

        Raises:
            TypeError: Both were given, *receiver* is not a Receiver, or a keyword is unknown.
            ValueError: The codec is only for datagrams, and the adapter is for connections.
        """
        if receiver is not None:
            if keywords:
                given = ", ".join(f"{name}=" for name in sorted(keywords))
                raise TypeError(f"receiver= already has all the rules: {given} cannot be given with it")
            if not isinstance(receiver, cls):
                raise TypeError(f"receiver must be a Receiver, such as Receiver(trusted=[...]), not {receiver!r}")
        else:
            check_keywords(cls, keywords, others)
            receiver = cls(**keywords)
        if not datagrams:
            check_for_streams(receiver.codec)
        return receiver

    def connection(self, peer: SockAddr, local: SockAddr) -> ReceiverConnection:
        """Start a connection.

        Args:
            peer: The address that connected, as the socket module gives it.
            local: The address that it connected to, in the same form.

        Raises:
            ProxyProtocolUntrustedError: The policy is REJECT: drop the connection, read nothing.
            ProxyProtocolHookError: The policy function raised an exception, or did not return a policy.
        """
        # an __init__ would cost a twelfth of what a header costs on CPython 3.11
        connection = _WatchedConnection(self, peer) if self.watched else ReceiverConnection()
        policy: Any = self.effective_policy
        if self._asks:  # isinstance() would cost more
            try:
                policy = policy(peer, local)
                if not isinstance(policy, HeaderPolicy):
                    raise TypeError(f"it must return a HeaderPolicy, not {policy!r}")
            except Exception as error:
                connection.refuse(
                    error if isinstance(error, ProxyProtocolError) else ProxyProtocolHookError("policy", error)
                )
        if policy is _REJECT:
            connection.refuse(ProxyProtocolUntrustedError(peer))
        connection._receiver = self
        connection._parser = _new_parser(HeaderParser).start(self.codec, self.max_header, self.min_header)
        connection.policy = policy
        connection.result = connection.effective = None
        connection.trailing = b""
        connection._seen = b"" if policy is _OPTIONAL else None
        connection.begun = policy is _SKIP or not self.min_header
        if connection.begun and isinstance(connection, _WatchedConnection):
            connection.accept()
        return connection


class ReceiverConnection:
    """The state of one connection, from accept until the application may begin.

    Feed it the bytes that arrive until :attr:`begun`. Then give :attr:`trailing` to the application, followed by all
    later bytes. If a method raises, abort the connection, and log :func:`.describe_refusal`: as a warning, or at debug
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
    def repeated(self) -> bool:
        """Whether a second header follows the first, so that the application gets it as data."""
        return self.trailing.startswith(_SIGNATURES) and self.result is not None

    @property
    def refusal(self) -> ProxyProtocolError | None:
        """Why the hooks and counters refuse the connection; None if they do not."""
        return None

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

    def refuse(self, error: ProxyProtocolError) -> NoReturn:
        """Raise *error*, after telling the hooks of the receiver about it."""
        raise error

    def _end(self, error: ProxyProtocolError | None) -> bool:
        """Begin if that needs no more bytes; otherwise raise *error*, or the parser's."""
        self.begun = self.begun or self._seen == b""
        if not self.begun:
            self._seen = None
            if error is not None:
                self._parser.fail(error)
            self._parser.eof()
        return self.begun


class _WatchedConnection(ReceiverConnection):
    """A connection that the receiver's hooks and counters follow."""

    __slots__ = ("_error", "_first", "_observation", "_peer", "_waits")

    def __init__(self, receiver: Receiver, peer: SockAddr) -> None:
        self._receiver, self._peer = receiver, peer
        self._error: ProxyProtocolError | None = None
        self._first = b""  # the first byte, which tells the version of a header
        self._waits, self._observation = False, None
        if receiver.metrics is not None:
            try:
                self._observation = receiver.metrics.connected(receiver.listener)
            except Exception as error:
                raise ProxyProtocolHookError("metrics", error) from None
        self._waits = True  # neither accepted nor refused yet

    @property
    def refusal(self) -> ProxyProtocolError | None:
        return self._error

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
            if result is not None and receiver.validate is not None:
                verdict: object = receiver.validate(result, self._peer)
                if verdict is not True:
                    # a Deferred or another object that will be true or false later must let nobody in now
                    if verdict is not False and verdict is not None:
                        raise TypeError(f"it must return True or False at once, not {verdict!r}")
                    self.refuse(ProxyProtocolInvalidError())
            hook = "on_accepted"
            if receiver.on_accepted is not None:
                receiver.on_accepted(result, self._peer)
            hook = "metrics"
            if self._observation is not None:
                version = "v1" if spec.V1_SIGNATURE.startswith(self._first) else "v2"
                version = "spp" if receiver.codec.for_datagrams else version
                self._observation.accepted(None if result is None else version)
        except Exception as error:
            self.refuse(error if isinstance(error, ProxyProtocolError) else ProxyProtocolHookError(hook, error))
        except BaseException as error:  # such as SystemExit, which passes; the connection stays refused
            with contextlib.suppress(ProxyProtocolError):
                self.refuse(ProxyProtocolHookError(hook, error))
            raise
        self._waits = False

    def refuse(self, error: ProxyProtocolError) -> NoReturn:
        if self._waits:
            self._waits, self._error, self.begun = False, error, False
            try:
                if self._receiver.on_refused is not None:
                    self._receiver.on_refused(error, self._peer)
            except BaseException as raised:
                self._error = ProxyProtocolHookError("on_refused", raised)
                if not isinstance(raised, Exception):
                    raise
            finally:  # afterwards, so that the counters and the log give the same reason
                try:
                    if self._observation is not None:
                        self._observation.refused(self._error.code)
                except Exception as raised:
                    self._error = ProxyProtocolHookError("metrics", raised)
        assert self._error is not None
        raise self._error
