"""What the connections of one listening socket share: its start line, and the bound on the lines about refusals."""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from proxyprotocol._adapters.refusals import describe_no_handshake
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.errors import (
    ProxyProtocolError,
    ProxyProtocolHandshakeError,
    ProxyProtocolHookError,
    RefusalCode,
    drop_tracebacks,
)
from proxyprotocol.messages import describe_refusal, printable, spell_keyword
from proxyprotocol.policy import ANY, HeaderPolicy, TrustedProxies, describe_networks, trusts_a_family
from proxyprotocol.receiver import Receiver, ReceiverConnection
from proxyprotocol.result import describe_address
from proxyprotocol.spp import ProxyProtocolSPP
from proxyprotocol.typing import SockAddr
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

_BURST: Final = 10  # refusals of a listener that have a line of their own within _PERIOD; a person reads no more
_PERIOD: Final = 1.0  # seconds; all further refusals within it share one line
_PLACES: Final = 8  # addresses that a listener without a name gets to know: a transparent one accepts on any address
_REPEATED: Final = "repeated"  # the reason of a warning that refuses nothing


class Emit(Protocol):
    """Writes one line to the log of an adapter's framework."""

    def __call__(self, level: int, text: str, fields: Mapping[str, Any], error: BaseException | None = None) -> None:
        """Write *text* at a level of :mod:`logging`, with structured fields, and the traceback of *error*."""


def logging_to(log: logging.Logger) -> Emit:
    """Return an :class:`Emit` for a logger of the standard library; the fields become attributes of the record."""

    def emit(level: int, text: str, fields: Mapping[str, Any], error: BaseException | None = None) -> None:
        log.log(level, "%s", text, extra=fields, exc_info=error)

    return emit


class ThreadClock:
    """A clock for servers without an event loop. Its timers are threads that do not keep the process alive."""

    time = staticmethod(time.monotonic)

    def call_later(self, seconds: float, function: Callable[[], None]) -> threading.Timer:
        """Start a timer."""
        timer = threading.Timer(seconds, function)
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # no thread is left: the next refusal brings the summary
            timer.start()
        return timer


class Listener:
    """The log of one listening socket, and its receiver.

    Args:
        receiver: The rules for the header.
        emit: Writes a line to the log.
        clock: An object with ``time()`` and ``call_later(seconds, function)``.
        what: What it refuses: a connection or a datagram.
        hint: Where to write the receiver's keywords; a start line that warns ends with it.
    """

    def __init__(self, receiver: Receiver, emit: Emit, clock: Any, what: str = "connection", *, hint: str = "") -> None:
        #: The rules for the header, with the name of this listener once it is known.
        self.receiver: Receiver = receiver
        self._emit: Emit = emit
        self._clock: Any = clock
        self._lock: threading.Lock = threading.Lock()  # socketserver refuses connections in several threads
        self._since = -_PERIOD
        self._shown = 0
        self._hidden: Counter[str] = Counter()
        self._hidden_on: set[str] = set()  # where they were hidden
        self._timer: Any = None
        self._what, self._hint = what, hint
        #: Whether the next connection must ask :meth:`at` for its receiver, because nobody has named this listener.
        self.asks: bool = not receiver.listener
        self._started = False
        self._places: dict[SockAddr, Receiver] = {}

    def name(self, *addresses: SockAddr) -> None:
        """Name this listener by the addresses of its sockets. Call this before the first connection."""
        self.receiver = replace(self.receiver, listener=" and ".join(map(describe_address, addresses)))
        self.asks = False

    def start(self, *addresses: SockAddr) -> None:
        """Log what this listener reads and from whom; that is a warning if it is everybody.

        Args:
            addresses: The addresses of the listening sockets; none if they are unknown, or named already.
        """
        if addresses:
            self.name(*addresses)
        self._start(self.receiver)

    def at(self, local: SockAddr) -> Receiver:
        """Return the receiver of a connection to *local*, and log its start line if this address is new.

        This is for listeners that nobody has named. The first connection asks, and later ones only for their counters.
        """
        receiver = self._places.get(local, self.receiver)
        self.asks = receiver.watched
        if not receiver.listener and local and len(self._places) < _PLACES:
            receiver = self._places[local] = replace(receiver, listener=describe_address(local))
            self._start(receiver)
        elif not self._started:
            self._start(receiver)
        return receiver

    def _start(self, receiver: Receiver) -> None:
        level, text = describe_start(receiver)
        if level == logging.WARNING:
            text += self._hint
        self._emit(logging.INFO if self._started else level, text, {"listener": receiver.listener})
        self._started = True

    def refuse(self, error: ProxyProtocolError, peer: SockAddr, local: SockAddr = None) -> None:
        """Log that a connection or a datagram was refused.

        A refusal that happens every day, such as a health check's, is logged at debug level, and an exception in a hook
        as an error, with its traceback. All others are warnings. The first ten of a second have a line each, the rest
        share one.

        Args:
            error: The reason.
            peer: The address that connected.
            local: The address that it connected to, for a listener without a name.
        """
        cause = error.error if isinstance(error, ProxyProtocolHookError) else None
        trace = None if cause is None else cause.__traceback__
        listener = self._name(local)
        # always, because this also drops the error's tracebacks
        text = describe_refusal(error, peer, f"a {self._what}", listener=listener, spell=self.receiver.spell)
        level = logging.DEBUG if error.routine else logging.WARNING if cause is None else logging.ERROR
        self.tell(level, error.code.value, text, peer, local, error=cause and cause.with_traceback(trace))
        if cause is not None:
            drop_tracebacks(cause)

    def refuse_raised(
        self, error: BaseException, connection: ReceiverConnection | None, peer: SockAddr, local: SockAddr = None
    ) -> None:
        """Log that a step of a connection raised, and the connection is refused; None is one that did not begin.

        An exception that is not about the connection passes, and so does one that ends the program.
        """
        refusal = error if isinstance(error, ProxyProtocolError) else None
        if refusal is None and connection is not None:
            refusal = connection.refusal
        elif refusal is None and not isinstance(error, Exception):
            refusal = ProxyProtocolHookError("policy", error)
        if refusal is not None:
            self.refuse(refusal, peer, local)
        if refusal is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error

    def refuse_handshake(self, error: BaseException, client: SockAddr, peer: SockAddr, local: SockAddr = None) -> None:
        """Log that the TLS handshake after the header failed; at debug level if the client only went away."""
        failed = isinstance(error, (ssl.SSLError, TimeoutError)) or not isinstance(error, OSError)
        level = logging.WARNING if failed and not isinstance(error, ssl.SSLEOFError) else logging.DEBUG
        text = describe_no_handshake(str(error), client, peer, self._name(local))
        receiver, refusal = self.receiver, ProxyProtocolHandshakeError(str(error) or "the connection was lost")
        try:
            if receiver.metrics is not None:
                known = not local or local in self._places  # no label for any address that a peer may choose
                receiver.metrics.handshake_failed(self._name(local) if known else receiver.listener)
            if receiver.on_refused is not None:
                receiver.on_refused(refusal, peer)
        except Exception as raised:  # the connection is refused in any case
            what = printable(f"A hook raised {raised!r}")
            self.tell(logging.ERROR, RefusalCode.HOOK.value, what, peer, local, error=raised)
        self.tell(level, RefusalCode.TLS.value, text, peer, local, **address_fields("client", client))

    def warn_of_second_header(self, peer: SockAddr, local: SockAddr = None) -> None:
        """Log that a second header follows the first: the application will take it for the client's data."""
        where = f" on {name}" if (name := self._name(local)) else ""
        text = (
            f"A second PROXY protocol header follows the first from {describe_address(peer)}{where}, and the "
            "application gets it as data: probably two proxies in a chain send one each; let only one of them do it"
        )
        self.tell(logging.WARNING, _REPEATED, text, peer, local)

    def tell(
        self,
        level: int,
        reason: str,
        text: str,
        peer: SockAddr,
        local: SockAddr = None,
        error: BaseException | None = None,
        **fields: Any,
    ) -> None:
        """Log one line about a connection; from a warning on, ten lines of a second, and one for the rest."""
        listener = self._name(local)
        if level < logging.WARNING or self._may_show(reason, listener):
            common = {"listener": listener, "reason": reason, **address_fields("network_peer", peer)}
            self._emit(level, text, common | fields, error)

    def _name(self, local: SockAddr) -> str:
        """Return the name of this listener; one without a name is called after the connection's own address."""
        if self.receiver.listener or not local:  # a lost connection may not know its address any more
            return self.receiver.listener or (describe_address(*self._places) if len(self._places) == 1 else "")
        return describe_address(local)

    def _may_show(self, reason: str, listener: str) -> bool:
        with self._lock:
            now = self._clock.time()
            if now - self._since >= _PERIOD:
                self._since, self._shown = now, 0
            self._shown += 1
            if self._shown <= _BURST:
                return True
            if reason == _REPEATED:
                return False  # the connection was served: the summary is about refusals
            self._hidden[reason] += 1
            if listener and len(self._hidden_on) < _PLACES:
                self._hidden_on.add(listener)
            if self._timer is None:
                self._timer = self._clock.call_later(self._since + _PERIOD - now, self.stop)
            return False

    def stop(self) -> None:
        """Log how many refusals have no line of their own so far, if there are any."""
        with self._lock:
            hidden, self._hidden = self._hidden, Counter()
            listener, self._hidden_on = " and ".join(sorted(self._hidden_on)), set()
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if hidden:
            where = f" on {listener}" if listener else ""
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in hidden.most_common())
            text = f"Refused {hidden.total():,} more {self._what}s within a second{where}: {reasons}"
            self._emit(logging.WARNING, text, {"listener": listener, "refusals": dict(hidden)})


def address_fields(prefix: str, address: SockAddr) -> dict[str, Any]:
    """Return an address as fields of a log record, named after OpenTelemetry: ``client_address``, ``client_port``."""
    if isinstance(address, (tuple, list)) and address:
        return {f"{prefix}_address": address[0], f"{prefix}_port": address[1]}
    return {f"{prefix}_address": describe_address(address)}


def describe_start(receiver: Receiver) -> tuple[int, str]:
    """Return the level and the text of the line that says what a listener reads, and from whom."""
    policy, trusted = receiver.effective_policy, receiver.spell("trusted")
    where = f" on {receiver.listener}" if receiver.listener else ""
    if not receiver.min_header or policy is HeaderPolicy.SKIP:
        return logging.INFO, f"Reads no PROXY protocol headers{where}"
    if policy is HeaderPolicy.REJECT:
        return logging.WARNING, f"Refuses every connection{where}: {receiver.spell('policy')} is REJECT"
    unheard = ""
    if isinstance(policy, TrustedProxies) and policy.otherwise is HeaderPolicy.REJECT and "unix" not in policy.networks:
        if not policy.networks:
            return logging.WARNING, f"Refuses every connection{where}: {trusted} names no proxy"
        if "UNIX socket" in receiver.listener:
            unheard = f", but refuses every connection to the UNIX socket: add unix to {trusted}"
    reads = f"Reads {_describe_codec(receiver)} headers{where}"
    if isinstance(policy, TrustedProxies):
        how = {
            HeaderPolicy.OPTIONAL: ", which may also come without a header",
            HeaderPolicy.IGNORE: ", and ignores the addresses in them",
        }.get(policy.trusted, "")
        rest = {
            HeaderPolicy.SKIP: ", and serves all others without a header",
            HeaderPolicy.IGNORE: ", and ignores the headers of all others",
        }.get(policy.otherwise, "")
        text = f"{reads} from {describe_networks(policy.networks) or 'nobody'}{how}{rest}{unheard}"
        if trusts_a_family(policy.networks):
            return logging.WARNING, f"{text}: {_describe_risk(receiver)}"
        return logging.WARNING if unheard else logging.INFO, text
    if not isinstance(policy, HeaderPolicy):
        return logging.INFO, f"{reads} from the peers that {policy!r} accepts"
    if policy is HeaderPolicy.IGNORE:
        return logging.INFO, f"{reads} from everybody, and ignores the addresses in them"
    optional = ", and serves everybody without a header" if policy is HeaderPolicy.OPTIONAL else ""
    if receiver.trusted == ANY:
        return logging.INFO, f"{reads} from everybody{optional}, as {trusted} says"
    return logging.WARNING, f"{reads} from everybody{optional}: {_describe_risk(receiver)}"


def _describe_risk(receiver: Receiver) -> str:
    trusted = receiver.spell("trusted")
    meant = f'{trusted}="{ANY}"' if receiver.spell is spell_keyword else f"{trusted}={ANY}"
    return f"anyone who can connect can claim any address; name your proxies with {trusted}=..., or say {meant}"


def _describe_codec(receiver: Receiver) -> str:
    codec = receiver.codec
    codecs = codec.versions if isinstance(codec, ProxyProtocolDetect) else [codec]
    if isinstance(codec, ProxyProtocolSPP):
        return "Simple Proxy Protocol"
    numbers = {ProxyProtocolV1: "1", ProxyProtocolV2: "2"}
    known = sorted({numbers[kind] for kind in map(type, codecs) if kind in numbers})
    return f"version {' and '.join(known)}" if known else f"{type(codec).__name__}"
