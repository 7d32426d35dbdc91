"""Floor 6: what the addresses of a service say, its two ends."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.noop import ProxyProtocolNoop
from proxyprotocol.options import OPTIONS, YES_NO, choose, parse_receiver, parse_tls_timeout
from proxyprotocol.policy import HeaderPolicy
from proxyprotocol.receiver import Receiver
from proxyprotocol.server._relay.outgoing import ADDITIONS, Outgoing
from proxyprotocol.server.address import Address
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__: list[str] = []

_BACKLOG: Final = 1024  # connections that wait to be accepted; the system may allow fewer
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")
# of a header; tls_timeout is for TLS after it or without it
_RECEIVER_OPTIONS = tuple(name for name in OPTIONS if name not in ("version", "tls_timeout"))
_LISTENER_OPTIONS = ("backlog", "reuse_port")
_SOURCE_OPTIONS = ("accept", *_RECEIVER_OPTIONS, *_LISTENER_OPTIONS, "pp")
_TLV = f"drop, or none or some of {', '.join(ADDITIONS)}, with commas between them"


class Listening:
    """The address that a server listens on.

    Args:
        address: The address.
        receiver: What is in front of its connections.

    Attributes:
        tls: What TLS is done with, if it is.
        tls_timeout: How long its handshake may take, in seconds.
        names: The names that clients have asked for by TLS, once :meth:`keep_names` was called.
    """

    def __init__(self, address: Address, receiver: Receiver) -> None:
        self.address = address
        self.receiver = receiver
        backlog = address.option("backlog")
        if backlog is not None and not _NUMBER.fullmatch(backlog):
            raise ValueError(f"backlog= takes a number of connections, 1 at least, not {backlog!r}")
        self.backlog = _BACKLOG if backlog is None else int(backlog)
        self.reuse_port = choose("reuse_port=", address.option("reuse_port") or "no", YES_NO)
        self.names: WeakKeyDictionary[ssl.SSLObject, str | None] = WeakKeyDictionary()
        self._keeps_names = False
        seconds = address.option("tls_timeout")
        self.tls_timeout = parse_tls_timeout({} if seconds is None else {"tls_timeout": seconds}, "{}=".format)
        self.tls = self._make_tls()

    def _make_tls(self) -> ssl.SSLContext | None:
        context = self.address.ssl
        if context is not None and self._keeps_names:
            context.sni_callback = self._note_name
        return context

    def keep_names(self) -> None:
        """Write down from now on which names clients ask for by TLS.

        Not without need: one that is no ASCII fails in Python before it gets here, with a message of its own for each.
        """
        self._keeps_names = True
        if self.tls is not None:
            self.tls.sni_callback = self._note_name

    def _note_name(self, tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self.names[tls] = name

    def reload(self) -> None:
        """Read the files of TLS again.

        Raises:
            ValueError: One cannot be used. What was read before stays in use.
        """
        self.tls = self._make_tls()


@dataclass(eq=False)
class Destination:
    """The address that a service connects to.

    Args:
        address: The address.
        outgoing: What is sent in front of the connections.
        tls: What TLS is done with, if it is.
    """

    address: Address
    outgoing: Outgoing
    tls: ssl.SSLContext | None

    @property
    def server_name(self) -> str:
        """The name that the server must have."""
        return self.address.option("server_name") or self.address.host

    def reload(self) -> None:
        """Read the files of TLS again.

        Raises:
            ValueError: One cannot be used. What was read before stays in use.
        """
        self.tls = self.address.ssl


def parse_listener(text: str) -> Listening:
    """Read the address of a server that takes headers itself, such as the echo server.

    Args:
        text: The address.

    Raises:
        ValueError: What is wrong, as a sentence.
    """
    address = Address(text, server=True)
    _check(address, ("pp", *_RECEIVER_OPTIONS, *_LISTENER_OPTIONS))
    if isinstance(address.pp, ProxyProtocolNoop):
        return Listening(address, _without_header(address, "pp=noop"))
    return Listening(address, _receiver(address, "pp"))


def parse_source(text: str) -> Listening:
    """Read the address that a service listens on.

    Args:
        text: The address.

    Raises:
        ValueError: What is wrong, as a sentence.
    """
    address = Address(text, server=True)
    _check(address, _SOURCE_OPTIONS)
    if not isinstance(address.pp, ProxyProtocolNoop) and address.option("pp") is not None:
        raise ValueError(f"{text!r} has pp=, which says what goes to a destination; what comes to a source is accept=")
    if address.option("accept") is None:
        return Listening(address, _without_header(address, "an address without accept="))
    return Listening(address, _receiver(address, "accept"))


def _check(address: Address, known: tuple[str, ...]) -> None:
    address.check((*known, "tls_timeout") if address.url.scheme == "ssl" else known)


def _without_header(address: Address, what: str) -> Receiver:
    for name in _RECEIVER_OPTIONS:
        if address.option(name) is not None:
            raise ValueError(f"{name}= is about a header, and {what} says that none comes")
    return replace(_receiver(address, "accept"), policy=HeaderPolicy.SKIP)


def _receiver(address: Address, version: str) -> Receiver:
    values = {"version": address.option(version), **{name: address.option(name) for name in _RECEIVER_OPTIONS}}
    given: Mapping[str, str] = {name: value for name, value in values.items() if value is not None}
    return parse_receiver(given, lambda name: _spell(version if name == "version" else name))


def _spell(name: str) -> str:
    return f"{name}="


def parse_destination(text: str) -> Destination:
    """Read the address that a service connects to.

    Args:
        text: The address.

    Raises:
        ValueError: What is wrong, as a sentence.
    """
    address = Address(text)
    tls = address.url.scheme == "ssl"
    address.check(("pp", "tlv", "server_name") if tls else ("pp", "tlv"))
    if not address.host and address.path is None:
        raise ValueError(f"{text!r} names no host to connect to")
    if address.port == 0:
        raise ValueError(f"{text!r} names port 0, to which nobody can connect")
    destination = Destination(address, _parse_outgoing(address), address.ssl)
    _check_server_name(destination)
    return destination


def _check_server_name(destination: Destination) -> None:
    if destination.tls is None:
        return
    try:
        destination.tls.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=destination.server_name)
    except ValueError as error:
        raise ValueError(f"{destination.server_name!r} is no name that a certificate can have: {error}") from None


def _parse_outgoing(address: Address) -> Outgoing:
    tlv = address.option("tlv")
    # detect is version 2 here: what does not fit in it must not go on as version 1, which has no TLVs
    codec = ProxyProtocolV2() if isinstance(address.pp, ProxyProtocolDetect) else address.pp
    if tlv is None:
        return Outgoing(codec)
    names = [name.strip().lower() for name in tlv.split(",")]
    additions = frozenset(names) - {"drop", "none"}
    if not additions <= set(ADDITIONS) or ("none" in names and additions):
        raise ValueError(f"tlv= takes {_TLV}, not {tlv!r}")
    if additions and isinstance(codec, (ProxyProtocolV1, ProxyProtocolNoop)):
        raise ValueError(f"tlv={tlv} needs a header of version 2: nothing else has room for TLVs")
    if "client-cert" in additions and "ssl" not in additions:
        raise ValueError("tlv=client-cert is a part of ssl: write tlv=ssl,client-cert")
    # to drop what came says nothing of what is added
    return Outgoing(codec, None if names == ["drop"] else additions, "drop" in names)
