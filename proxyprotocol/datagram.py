"""One header in front of each datagram (section 2 of the 2026 edition).

A datagram is its own whole stream: nothing is buffered, nothing is waited for, and only version 2 exists. What streams
do not have is the way back: a server answers a client's address, and the answer has to go to the proxy that spoke for
it. It goes without a header, as dnsdist expects it: the proxy knows which client it asked for.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from socket import SOCK_DGRAM
from typing import Final, NamedTuple

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.errors import ProxyProtocolError, ProxyProtocolSyntaxError
from proxyprotocol.policy import HeaderPolicy, lets_plain_in
from proxyprotocol.receiver import Receiver, describe_refusal
from proxyprotocol.result import ProxyResult
from proxyprotocol.typing import SockAddr
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = [
    "DEFAULT_CLIENT_TIMEOUT",
    "DEFAULT_MAX_CLIENTS",
    "Datagram",
    "DatagramReceiver",
    "pack_datagram",
    "unpack_datagram",
]

_CODEC: Final = ProxyProtocolV2()

#: How many clients a :class:`DatagramReceiver` remembers. One costs about half a KiB, and at the very most
#: ``max_header`` bytes more: 5 MiB for all of them, 45 at the very most.
DEFAULT_MAX_CLIENTS: Final = 10_000
#: How long it remembers one, in seconds: as long as a NAT must keep a client's way back open (RFC 4787, REQ-5). A later
#: answer would hardly arrive.
DEFAULT_CLIENT_TIMEOUT: Final = 120.0

# One line a second tells who floods, and does not fill a disk.
_LOG_INTERVAL: Final = 1.0


def unpack_datagram(data: bytes) -> tuple[ProxyResult, bytes]:
    """Part a datagram into what its header says and what the client sent.

    Args:
        data: A whole datagram.

    Returns:
        The result and the payload.

    Raises:
        ProxyProtocolSyntaxError: There is no header of version 2, or it is cut: no datagram continues another.
        ProxyProtocolChecksumError: The header's CRC32C is not right.
    """
    data = bytes(data)
    _refuse_version_1(data)
    found = _CODEC.parse(data)
    if isinstance(found, int):
        raise _cut(data, found)
    return found[0], data[found[1] :]


def pack_datagram(result: ProxyResult, payload: bytes) -> bytes:
    """Put a header in front of a payload.

    Args:
        result: What the header is to say. One that names no protocol is sent as a datagram's.
        payload: What the client sent.

    Raises:
        ValueError: A UNIX path is over 108 bytes, or the TLVs are such as no receiver would take.
    """
    if result.protocol is None and result.family_number:
        result = result.replace(protocol=SOCK_DGRAM)
    return _CODEC.pack(result) + payload


def _refuse_version_1(data: bytes) -> None:
    # nginx does send it: worth a sentence of its own
    if data.startswith(spec.V1_SIGNATURE):
        raise ProxyProtocolSyntaxError(
            "The datagram begins with a header of version 1, which is for streams alone: let the proxy send version 2",
            0,
        )


def _cut(data: bytes, size: int) -> ProxyProtocolSyntaxError:
    return ProxyProtocolSyntaxError(f"The datagram has {len(data)} bytes, its header would have at least {size}")


class Datagram(NamedTuple):
    """A datagram as the application is to see it.

    Attributes:
        payload: What the client sent.
        client: The client's address, as the socket module gives one: the header's, or the sender's where the header
            names none or is not to be believed.
        result: What the header said; None where there was none.
        sender: The address that the datagram really came from, to which an answer goes.
    """

    payload: bytes
    client: SockAddr
    result: ProxyResult | None
    sender: SockAddr


class _Known(NamedTuple):
    """What is remembered of a client."""

    sender: SockAddr
    result: ProxyResult | None
    heard: float


class DatagramReceiver:
    """Decides what to do with the datagrams of one socket, and where the application's answers go.

    For each datagram: :meth:`receive`; then call the application while :meth:`answering`. When that raises: drop the
    datagram, and log what :meth:`describe_refusal` gives. For each answer: :meth:`reply_to`.

    A datagram with a header makes its sender the one that speaks for its client, the newest winning. One without, from
    whom the policy lets send such, changes nothing that is remembered: senders of datagrams are easily forged. What is
    remembered is bounded: the client that was not heard of for the longest time goes first.

    It has no clock: *now* is always the time in seconds, by any clock that goes forward. If it is set back, clients are
    remembered for that much longer.

    Args:
        receiver: The policy, the codec and the limit of a header's length. Its time-out means nothing to datagrams. A
            codec that reads both versions reads version 2 alone.
        max_clients: How many clients are remembered at most.
        client_timeout: How long a client is remembered from the last datagram from it, in seconds.

    Raises:
        TypeError: A number has another type.
        ValueError: The codec is that of version 1, *max_clients* is under 1, or *client_timeout* not above 0.
    """

    def __init__(
        self,
        receiver: Receiver,
        *,
        max_clients: int = DEFAULT_MAX_CLIENTS,
        client_timeout: float = DEFAULT_CLIENT_TIMEOUT,
    ) -> None:
        if type(max_clients) is not int:
            raise TypeError(f"max_clients is a number of clients, not {max_clients!r}")
        if max_clients < 1:
            raise ValueError(f"max_clients is 1 at least, not {max_clients!r}")
        if type(client_timeout) not in (int, float):
            raise TypeError(f"client_timeout is a number of seconds, not {client_timeout!r}")
        if not (math.isfinite(client_timeout) and client_timeout > 0):
            raise ValueError(f"client_timeout is a number of seconds above 0, not {client_timeout!r}")
        self._codec = _datagram_codec(receiver.pp)
        self._receiver = replace(receiver, pp=self._codec)
        self._direct = lets_plain_in(receiver.policy) or not self._receiver.min_header
        self._max_clients = max_clients
        self._client_timeout = client_timeout
        # in the order in which they were heard; a plain dict takes ever longer to find its first one when those before
        # are deleted
        self._clients: OrderedDict[object, _Known] = OrderedDict()
        self._answering: Datagram | None = None
        self._logged: float | None = None
        self._unlogged = 0

    @property
    def needs_local(self) -> bool:
        """Whether :meth:`receive` looks at the local address; else None will do."""
        return self._receiver.needs_addresses

    def receive(self, data: bytes, sender: SockAddr, local: SockAddr, now: float) -> Datagram:
        """Take a datagram.

        Args:
            data: The datagram.
            sender: The address that it came from, as the socket module gives it.
            local: The address that it came to, in the same form.
            now: The time in seconds.

        Raises:
            ProxyProtocolError: Drop it: the policy rejects its sender, or its header is missing or wrong.
        """
        datagram = self._read(data, sender, local)
        if datagram.result is not None:
            # A copy, because an application that asks for TLVs makes the result thrice as big, and may have thousands.
            self._remember(_key(datagram.client), _Known(sender, copy(datagram.result), now))
        return datagram

    def _read(self, data: bytes, sender: SockAddr, local: SockAddr) -> Datagram:
        connection = self._receiver.connection(sender, local)
        if connection.begun or (connection.policy is HeaderPolicy.OPTIONAL and not self._codec.begins(data)):
            return Datagram(data, sender, None, sender)
        _refuse_version_1(data)
        if not connection.feed(data):
            raise _cut(data, len(data) + connection.needed)
        effective = connection.effective
        client = sender if effective is None else effective.peername
        return Datagram(connection.trailing, client, connection.result, sender)

    @contextmanager
    def answering(self, datagram: Datagram) -> Iterator[None]:
        """Have what is said to a datagram's client answer this very datagram, also where it came without a header.

        Args:
            datagram: The one that the application is given now.
        """
        before, self._answering = self._answering, datagram
        try:
            yield
        finally:
            self._answering = before

    def reply_to(self, client: SockAddr, now: float) -> SockAddr:
        """Say where an answer goes: to the proxy that spoke for the client.

        Where none did, or it is forgotten, it goes to the client - if anybody can come without a header here. Else the
        address is one that only a header has named: what is sent there goes past the proxy, to whom a forger likes.

        Args:
            client: The client's address, as the application was given it.
            now: The time in seconds.

        Returns:
            The address; None if the proxy has no address, as on an unnamed UNIX socket: then send nothing.
        """
        known = self._find(_key(client), now)
        if known is None:
            return client if self._direct else None
        return known.sender

    def result_for(self, client: SockAddr, now: float) -> ProxyResult | None:
        """Return the result of the newest header for a client; None without a header, or if it is forgotten.

        Args:
            client: The client's address, as the application was given it.
            now: The time in seconds.
        """
        known = self._find(_key(client), now)
        if isinstance(known, _Known):
            return copy(known.result)
        return None if known is None else known.result

    def describe_refusal(self, error: ProxyProtocolError, sender: SockAddr, now: float) -> str | None:
        """Put into one line of text that a datagram was refused, and why, once a second at most.

        Args:
            error: What :meth:`receive` has raised.
            sender: Where the datagram came from.
            now: The time in seconds.

        Returns:
            The line; None where it is too early for the next, which will tell how many were left out.
        """
        refusal = describe_refusal(error, sender, "a datagram")
        if self._logged is not None and self._logged <= now < self._logged + _LOG_INTERVAL:
            self._unlogged += 1
            return None
        more = f" (and {self._unlogged} more since the last line)" if self._unlogged else ""
        self._logged, self._unlogged = now, 0
        return refusal + more

    def _find(self, key: object, now: float) -> Datagram | _Known | None:
        present = self._answering
        if present is not None and key == _key(present.client):
            return present
        self._forget_expired(now)
        return self._clients.get(key)

    def _remember(self, key: object, known: _Known) -> None:
        self._clients[key] = known
        self._clients.move_to_end(key)
        self._forget_expired(known.heard)
        if len(self._clients) > self._max_clients:
            self._clients.popitem(last=False)

    def _forget_expired(self, now: float) -> None:
        while self._clients and now - next(iter(self._clients.values())).heard >= self._client_timeout:
            self._clients.popitem(last=False)


def _datagram_codec(pp: ProxyProtocol | None) -> ProxyProtocol:
    """Return the codec without version 1, which datagrams have not."""
    if pp is None:
        return _CODEC
    versions = pp.versions if isinstance(pp, ProxyProtocolDetect) else (pp,)
    others = [version for version in versions if not isinstance(version, ProxyProtocolV1)]
    if not others:
        raise ValueError(f"Version 1 is for streams alone: for datagrams pp is ProxyProtocolV2(), not {pp!r}")
    return others[0] if len(others) == 1 else ProxyProtocolDetect(*others)


def _key(address: SockAddr) -> object:
    """Return what two spellings of an address have in common.

    An IPv6 address has two members in Twisted and four in the socket module, of which the flow is no part of who it is.
    """
    if isinstance(address, (tuple, list)):
        return (*address[:2], address[3] if len(address) > 3 else 0)
    return address
