"""One header at the start of each datagram (section 2 of the 2026 edition).

A datagram is a whole stream: there is nothing to buffer and nothing to wait for, and there is no version 1. Unlike a
stream it has no way back: the application answers the client, but the answer must go to the proxy that relays for this
client. After version 2 it goes without a header, as dnsdist expects: the proxy knows which client it asked for. After
the Simple Proxy Protocol it begins with the same header, byte for byte: Cloudflare finds the client by it.
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
from proxyprotocol.receiver import Receiver
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
_SIGNATURES: Final = (spec.V1_SIGNATURE, spec.V2_SIGNATURE)

#: How many clients a :class:`DatagramReceiver` remembers. Each takes about half a KiB, and at most ``max_header`` bytes
#: more: 5 MiB for all of them, at most 45.
DEFAULT_MAX_CLIENTS: Final = 10_000
#: How many seconds it remembers them: as long as a NAT must keep the way back to a client open (RFC 4787, REQ-5). A
#: later answer would hardly arrive.
DEFAULT_CLIENT_TIMEOUT: Final = 120.0


def unpack_datagram(data: bytes, pp: ProxyProtocol | None = None) -> tuple[ProxyResult, bytes]:
    """Split a datagram into what its header says and what the client sent.

    Args:
        data: A whole datagram.
        pp: The codec, such as :class:`.ProxyProtocolSPP`; by default version 2.

    Returns:
        The result and the payload.

    Raises:
        ProxyProtocolSyntaxError: There is no header of this format, or it is not complete.
        ProxyProtocolChecksumError: The header's CRC32C is wrong.
    """
    data = bytes(data)
    _refuse_version_1(data)
    found = (pp or _CODEC).parse(data)
    if isinstance(found, int):
        raise _cut(data, found)
    return found[0], data[found[1] :]


def pack_datagram(result: ProxyResult, payload: bytes, pp: ProxyProtocol | None = None) -> bytes:
    """Write a header, followed by a payload.

    Args:
        result: What the header says. If it names no protocol, DGRAM is sent.
        payload: What the client sent.
        pp: The codec, such as :class:`.ProxyProtocolSPP`; by default version 2.

    Raises:
        ValueError: A UNIX path is longer than 108 bytes, a receiver would reject the TLVs, or the format cannot express
            the result.
    """
    if result.protocol is None and result.family_number:
        result = result.replace(protocol=SOCK_DGRAM)
    return (pp or _CODEC).pack(result) + payload


def _refuse_version_1(data: bytes) -> None:
    if data.startswith(spec.V1_SIGNATURE):  # nginx sends it, so it has its own message
        raise ProxyProtocolSyntaxError(
            "The datagram begins with a header of version 1, which is only for streams: let the proxy send version 2",
            0,
        )


def _cut(data: bytes, size: int) -> ProxyProtocolSyntaxError:
    return ProxyProtocolSyntaxError(f"The datagram has {len(data)} bytes, but its header needs at least {size}")


class Datagram(NamedTuple):
    """A datagram for the application.

    Attributes:
        payload: What the client sent.
        client: The client's address, as the socket module gives it: from the header, or the sender's if the header
            names no client or the policy is IGNORE.
        result: What the header says; None if there was no header.
        sender: The address that the datagram really came from. Answers go there.
    """

    payload: bytes
    client: SockAddr
    result: ProxyResult | None
    sender: SockAddr

    @property
    def repeated(self) -> bool:
        """Whether a second header follows the first, so that the application gets it as data."""
        return self.payload.startswith(_SIGNATURES) and self.result is not None


class DatagramReceiver:
    """Decides what to do with the datagrams of one socket, and where the application's answers go.

    For each datagram call :meth:`receive`, then the application inside :meth:`answering`. If :meth:`receive` raises,
    drop the datagram and log a refusal. Send what :meth:`reply` makes of each answer.

    A datagram with a header tells which proxy relays for its client; the newest one wins. A datagram without a header
    changes nothing: its sender is easily forged. The number of remembered clients is limited: the client that has been
    silent for longest is forgotten first.

    It has no clock: *now* is always the time in seconds. If the caller's clock is set back, clients are remembered for
    longer.

    Args:
        receiver: The policy, the codec and the limit for a header's length. The time-out is ignored. A codec that reads
            both versions reads only version 2.
        max_clients: How many clients to remember.
        client_timeout: Seconds to remember a client after its last datagram.

    Raises:
        TypeError: A number has the wrong type.
        ValueError: The codec is that of version 1, *max_clients* is less than 1, *client_timeout* is not above 0, or
            the policy is OPTIONAL with a codec that cannot be detected.
    """

    def __init__(
        self,
        receiver: Receiver,
        *,
        max_clients: int = DEFAULT_MAX_CLIENTS,
        client_timeout: float = DEFAULT_CLIENT_TIMEOUT,
    ) -> None:
        if type(max_clients) is not int:
            raise TypeError(f"max_clients must be a number of clients, not {max_clients!r}")
        if max_clients < 1:
            raise ValueError(f"max_clients must be at least 1, not {max_clients!r}")
        if type(client_timeout) not in (int, float):
            raise TypeError(f"client_timeout must be a number of seconds, not {client_timeout!r}")
        if not 0 < client_timeout < math.inf:
            raise ValueError(f"client_timeout must be a number of seconds above 0, not {client_timeout!r}")
        self._codec: ProxyProtocol = _CODEC
        if receiver.pp is not None:
            versions = receiver.pp.versions if isinstance(receiver.pp, ProxyProtocolDetect) else (receiver.pp,)
            others = [version for version in versions if not isinstance(version, ProxyProtocolV1)]
            if not others:
                raise ValueError(f"Version 1 is only for streams: use pp=ProxyProtocolV2(), not {receiver.pp!r}")
            self._codec = others[0] if len(others) == 1 else ProxyProtocolDetect(*others)
        policy = receiver.effective_policy
        policies = [getattr(policy, name, policy) for name in ("trusted", "otherwise")]
        if self._codec.for_datagrams and HeaderPolicy.OPTIONAL in policies:
            # one in 65,536 DNS queries, for example, has the magic number of the Simple Proxy Protocol as its id
            raise ValueError(
                f"{type(self._codec).__name__} cannot tell a header from data, as {receiver.spell('policy')} OPTIONAL "
                "demands: use REQUIRE, and otherwise=SKIP for clients that come directly"
            )
        #: The rules, with the codec for datagrams. An adapter replaces them when it knows the listener's name.
        self.receiver: Receiver = replace(receiver, pp=self._codec)
        # whether clients may come without a header
        self._direct = lets_plain_in(policy) or not self.receiver.min_header
        self._max_clients, self._client_timeout = max_clients, client_timeout
        # The newest datagram of each client, without its payload, and its time; the oldest comes first. A plain dict
        # would take ever longer to find its first item, because it keeps the gaps of deleted ones.
        self._clients: OrderedDict[object, tuple[Datagram, float]] = OrderedDict()
        self._answering: Datagram | None = None

    @property
    def needs_local(self) -> bool:
        """Whether :meth:`receive` uses the local address; if not, pass None."""
        return self.receiver.needs_addresses

    def receive(self, data: bytes, sender: SockAddr, local: SockAddr, now: float) -> Datagram:
        """Take a datagram.

        Args:
            data: The datagram.
            sender: The address that it came from, as the socket module gives it.
            local: The address that it came to, in the same form.
            now: The time in seconds.

        Raises:
            ProxyProtocolError: Drop the datagram: the policy rejects its sender, or its header is missing or wrong.
        """
        connection = self.receiver.connection(sender, local)
        optional = connection.policy is HeaderPolicy.OPTIONAL
        if connection.begun or (optional and not self._codec.begins(data) and connection.eof()):
            return Datagram(data, sender, None, sender)
        try:
            _refuse_version_1(data)
            if not connection.feed(data):
                raise _cut(data, len(data) + connection.needed)
        except ProxyProtocolError as error:
            connection.refuse(error)
        result, effective = connection.result, connection.effective
        client = sender if effective is None else effective.peername
        key = _key(client)
        # A copy, because a result grows to three times its size when the application asks it for TLVs.
        self._clients[key] = Datagram(b"", client, copy(result), sender), now
        self._clients.move_to_end(key)
        while now - next(iter(self._clients.values()))[1] >= self._client_timeout:
            self._clients.popitem(last=False)
        if len(self._clients) > self._max_clients:
            self._clients.popitem(last=False)
        return Datagram(connection.trailing, client, result, sender)

    @contextmanager
    def answering(self, datagram: Datagram) -> Iterator[None]:
        """Inside this context, answers to the datagram's client go to its sender, whatever came for that client before.

        Args:
            datagram: The datagram that the application gets now.
        """
        before, self._answering = self._answering, datagram
        try:
            yield
        finally:
            self._answering = before

    def reply_to(self, client: SockAddr, now: float) -> SockAddr:
        """Return the address to send an answer to: that of the proxy that relays for the client.

        Args:
            client: The client's address, as the application got it.
            now: The time in seconds.

        Returns:
            The address. If no proxy is known for the client: *client* itself if the policy allows clients without a
            header, otherwise None, because a forger may have put this address into a header. None too if the proxy is
            on an unnamed UNIX socket. Send nothing to None.
        """
        return self.reply(b"", client, now)[1]

    def reply(self, data: bytes, client: SockAddr, now: float) -> tuple[bytes, SockAddr]:
        """Return an answer as it goes on the wire, with the header that its proxy demands, and where to send it.

        Args:
            data: The answer.
            client: The client's address, as the application got it; None for the peer of a connected socket.
            now: The time in seconds.

        Returns:
            The datagram, and its address as from :meth:`reply_to`.

        Raises:
            ValueError: There is no client, and the header must name one.
        """
        if client is None:
            if self._codec.for_datagrams:
                raise ValueError(f"An answer after {type(self._codec).__name__} needs the address of its client")
            return data, None
        known = self._find(client, now)
        if known is None:
            return data, client if self._direct else None
        if self._codec.for_datagrams and known.result is not None:
            data = self._codec.pack(known.result) + data
        return data, known.sender

    def result_for(self, client: SockAddr, now: float) -> ProxyResult | None:
        """Return the result of a client's newest header; None if it had none, or if it is forgotten.

        Args:
            client: The client's address, as the application got it.
            now: The time in seconds.
        """
        known = self._find(client, now)
        if known is None:
            return None
        return known.result if known is self._answering else copy(known.result)

    def _find(self, client: SockAddr, now: float) -> Datagram | None:
        key, current = _key(client), self._answering
        if current is not None and key == _key(current.client):
            return current
        known, heard = self._clients.get(key, (None, now))
        return known if now - heard < self._client_timeout else None


def _key(address: SockAddr) -> object:
    """Return what identifies a client: host, port and scope, or the path. Twisted leaves out IPv6's flow and scope."""
    if isinstance(address, (tuple, list)):
        return (*address[:2], address[3] if len(address) > 3 else 0)
    return address
