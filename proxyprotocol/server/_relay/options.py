"""The options in the two addresses of a service."""

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

_BACKLOG: Final = 1024  # connections that may wait to be accepted; the system may allow fewer
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")
# Options for a header. tls_timeout is not among them: TLS also comes without a header.
_RECEIVER_OPTIONS = tuple(name for name in OPTIONS if name not in ("version", "tls_timeout"))
_LISTENER_OPTIONS = ("backlog", "reuse_port")
_SOURCE_OPTIONS = ("accept", *_RECEIVER_OPTIONS, *_LISTENER_OPTIONS, "pp")
_TLV = f"drop, none, or some of {', '.join(ADDITIONS)}, with commas between them"


class Listening:
    """The address that a server listens on.

    Args:
        address: The address.
        receiver: Decides on the headers of its connections.

    Attributes:
        tls: The TLS context; None without TLS.
        tls_timeout: How long the TLS handshake may take, in seconds.
        names: The names that clients asked for in TLS, after a call of :meth:`keep_names`.
    """

    def __init__(self, address: Address, receiver: Receiver) -> None:
        self.address = address
        self.receiver = receiver
        backlog = address.option("backlog")
        if backlog is not None and not _NUMBER.fullmatch(backlog):
            raise ValueError(f"backlog= takes a number of connections, at least 1, not {backlog!r}")
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
        """Remember from now on which names clients ask for in TLS.

        Do this only if somebody needs the names: Python reports each name that is not ASCII as an error of its own.
        """
        self._keeps_names = True
        if self.tls is not None:
            self.tls.sni_callback = self._note_name

    def _note_name(self, tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self.names[tls] = name

    def reload(self) -> None:
        """Read the files of TLS again.

        Raises:
            ValueError: A file cannot be used. The old ones stay in use.
        """
        self.tls = self._make_tls()


@dataclass(eq=False)
class Destination:
    """The address that a service connects to.

    Args:
        address: The address.
        outgoing: Writes the header of each connection.
        tls: The TLS context; None without TLS.
    """

    address: Address
    outgoing: Outgoing
    tls: ssl.SSLContext | None

    @property
    def server_name(self) -> str:
        """The name that the server's certificate must have."""
        return self.address.option("server_name") or self.address.host

    def reload(self) -> None:
        """Read the files of TLS again; the old ones stay in use if that raises ValueError."""
        self.tls = self.address.ssl


def parse_listener(text: str) -> Listening:
    """Parse the address of a server that takes headers itself, such as the echo server.

    Raises:
        ValueError: The address is wrong. The text is a sentence.
    """
    address = Address(text, server=True)
    _check(address, ("pp", *_RECEIVER_OPTIONS, *_LISTENER_OPTIONS))
    if isinstance(address.pp, ProxyProtocolNoop):
        return Listening(address, _without_header(address, "pp=noop"))
    return Listening(address, _receiver(address, "pp"))


def parse_source(text: str) -> Listening:
    """Parse the address that a service listens on; errors as in :func:`parse_listener`."""
    address = Address(text, server=True)
    _check(address, _SOURCE_OPTIONS)
    if not isinstance(address.pp, ProxyProtocolNoop) and address.option("pp") is not None:
        raise ValueError(f"{text!r} has pp=, which is for destinations; write accept= for the headers that come in")
    if address.option("accept") is None:
        return Listening(address, _without_header(address, "an address without accept="))
    return Listening(address, _receiver(address, "accept"))


def _check(address: Address, known: tuple[str, ...]) -> None:
    address.check((*known, "tls_timeout") if address.url.scheme == "ssl" else known)


def _without_header(address: Address, what: str) -> Receiver:
    for name in _RECEIVER_OPTIONS:
        if address.option(name) is not None:
            raise ValueError(f"{name}= is an option for headers, but {what} expects none")
    return replace(_receiver(address, "accept"), policy=HeaderPolicy.SKIP)


def _receiver(address: Address, version: str) -> Receiver:
    values = {"version": address.option(version), **{name: address.option(name) for name in _RECEIVER_OPTIONS}}
    given: Mapping[str, str] = {name: value for name, value in values.items() if value is not None}
    return parse_receiver(given, lambda name: f"{version if name == 'version' else name}=")


def parse_destination(text: str) -> Destination:
    """Parse the address that a service connects to; errors as in :func:`parse_listener`."""
    address = Address(text)
    tls = address.url.scheme == "ssl"
    address.check(("pp", "tlv", "server_name") if tls else ("pp", "tlv"))
    if not address.host and address.path is None:
        raise ValueError(f"{text!r} lacks the host to connect to")
    if address.port == 0:
        raise ValueError(f"{text!r} has port 0, to which nobody can connect")
    destination = Destination(address, _parse_outgoing(address), address.ssl)
    if destination.tls is not None:
        name = destination.server_name
        try:
            destination.tls.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
        except ValueError as error:
            raise ValueError(f"{name!r} cannot be the name in a certificate: {error}") from None
    return destination


def _parse_outgoing(address: Address) -> Outgoing:
    tlv = address.option("tlv")
    # detect means version 2 here: a result that does not fit must not be sent as version 1, which has no TLVs
    codec = ProxyProtocolV2() if isinstance(address.pp, ProxyProtocolDetect) else address.pp
    if tlv is None:
        return Outgoing(codec)
    names = [name.strip().lower() for name in tlv.split(",")]
    additions = frozenset(names) - {"drop", "none"}
    if not additions <= set(ADDITIONS) or ("none" in names and additions):
        raise ValueError(f"tlv= takes {_TLV}, not {tlv!r}")
    if additions and isinstance(codec, (ProxyProtocolV1, ProxyProtocolNoop)):
        raise ValueError(f"tlv={tlv} needs version 2 (pp=v2): only its header has TLVs")
    if "client-cert" in additions and "ssl" not in additions:
        raise ValueError("tlv=client-cert is part of ssl: write tlv=ssl,client-cert")
    # drop alone does not say what to add
    return Outgoing(codec, None if names == ["drop"] else additions, "drop" in names)
