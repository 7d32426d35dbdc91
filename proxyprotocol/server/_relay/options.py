"""The options in the two addresses of a service."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Any, Final

from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.messages import describe_unknown
from proxyprotocol.noop import ProxyProtocolNoop
from proxyprotocol.options import (
    OPTIONS,
    YES_NO,
    choose,
    parse_receiver,
    parse_tls_timeout,
    parse_tlv,
    parse_tlv_type,
)
from proxyprotocol.policy import HeaderPolicy
from proxyprotocol.receiver import Receiver
from proxyprotocol.server._relay.outgoing import ADDITIONS, Outgoing
from proxyprotocol.server._relay.transparent import check_transparent
from proxyprotocol.server.address import VERSION_OPTIONS, Address
from proxyprotocol.tlv import ProxyProtocolTLV, Type
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

_BACKLOG: Final = 1024  # connections that may wait to be accepted; the system may allow fewer
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")
# Options for a header. tls_timeout is not among them: TLS also comes without a header.
_RECEIVER_OPTIONS = tuple(name for name in OPTIONS if name not in ("version", "tls_timeout"))
_SOURCE_OPTIONS = (*VERSION_OPTIONS, *_RECEIVER_OPTIONS, "backlog", "reuse_port")
_DESTINATION_OPTIONS = (*VERSION_OPTIONS, "tlv", "transparent")
_TLV = f"drop, none, pass:TYPE+TYPE, TYPE:VALUE and {', '.join(ADDITIONS)}, with commas between them"


class NamedTLS(ssl.SSLObject):
    """TLS with a client, and the name that the client asked for."""

    name: str | None = None


class Listening:
    """The address that a server listens on, with its receiver, its TLS context (or None) and its other options.

    With *keep_names*, the TLS of each connection is a :class:`NamedTLS`. Use this only if the names are needed: Python
    reports each name that is not ASCII as an error.
    """

    address: Address
    receiver: Receiver
    backlog: int
    reuse_port: bool
    tls_timeout: float

    def __init__(self, address: Address, receiver: Receiver, keep_names: bool = False) -> None:
        self.address, self.receiver = address, receiver
        backlog = address.option("backlog")
        if backlog is not None and not _NUMBER.fullmatch(backlog):
            raise ValueError(f"backlog= takes a number of connections, at least 1, not {backlog!r}")
        self.backlog = _BACKLOG if backlog is None else int(backlog)
        self.reuse_port = choose("reuse_port=", address.option("reuse_port") or "no", YES_NO)
        seconds = address.option("tls_timeout")
        self.tls_timeout = parse_tls_timeout({} if seconds is None else {"tls_timeout": seconds}, "{}=".format)
        self._keep_names = keep_names
        self.reload()

    def reload(self) -> None:
        """Read the files of TLS again.

        Raises:
            ValueError: A file cannot be used. The old ones stay in use.
        """
        context = self.address.ssl
        if context is not None and self._keep_names:
            context.sslobject_class, context.sni_callback = NamedTLS, _note_name
        self.tls = context


def _note_name(tls: Any, name: str | None, context: ssl.SSLContext) -> None:
    tls.name = name


@dataclass(eq=False)
class Destination:
    """The address that a service connects to, with what writes its headers, and its TLS context (or None).

    With *transparent*, the connections come from the clients' own addresses.
    """

    address: Address
    outgoing: Outgoing
    tls: ssl.SSLContext | None
    transparent: bool = False

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
    address = _parse(text, server=True)
    return Listening(address, _receiver(address))


def parse_source(text: str, keep_names: bool = False) -> Listening:
    """Parse the address that a service listens on; errors as in :func:`parse_listener`."""
    address = _parse(text, server=True)
    plain = "an address without accept=" if address.option(address.version_option) is None else ""
    return Listening(address, _receiver(address, plain), keep_names)


def _parse(text: str, server: bool) -> Address:
    address = Address(text, server=server)
    here, there = _SOURCE_OPTIONS, _DESTINATION_OPTIONS
    address.check(*((here, there) if server else (there, here)))
    return address


def _receiver(address: Address, plain: str = "") -> Receiver:
    """Make the receiver; *plain* tells what says that no header comes, if something does beside the version."""
    version = address.version_option
    if isinstance(address.pp, ProxyProtocolNoop):
        plain = f"{version}=noop"
    spelt = {"version": version, **{name: name for name in _RECEIVER_OPTIONS}}
    given = {name: value for name, option in spelt.items() if (value := address.option(option)) is not None}
    if not plain:
        return parse_receiver(given, lambda name: spelt.get(name, name))
    for name in given:
        if name != "version":
            raise ValueError(f"{name}= is an option for headers, but {plain} expects none")
    return Receiver(policy=HeaderPolicy.SKIP)


def _parse_outgoing(codec: ProxyProtocol, text: str) -> Outgoing:
    words: set[str] = set()
    passed: set[int] | None = None
    fixed: dict[int, bytes] = {}
    for word in (word.strip() for word in text.split(",")):
        name, colon, value = word.partition(":")
        try:
            if colon and name.lower() == "pass":
                # the address is a URL, where a plus is a space
                passed = (passed or set()) | {parse_tlv_type(kind) for kind in re.split("[ +]", value)}
            elif colon:
                kind, data = parse_tlv(name, value)
                if kind in fixed:
                    raise ValueError(f"the type {kind:#04x} is there twice; write it once")
                if kind == Type.PP2_TYPE_CRC32C:
                    raise ValueError("the relay computes the CRC32C itself")
                fixed[kind] = data
            elif name.lower() in (*ADDITIONS, "drop", "none"):
                words.add(name.lower())
            else:
                raise ValueError(
                    describe_unknown("word", name, (*ADDITIONS, "drop", "none", "pass")).partition("; known")[0]
                )
            ProxyProtocolTLV(init=fixed).around_crc32c()  # checks the values that have rules of their own
        except ValueError as error:
            raise ValueError(f"tlv= takes {_TLV}, not {word!r}: {error}") from None
    additions = frozenset(words) - {"drop", "none"}
    if "drop" in words and passed is not None:
        raise ValueError(f"tlv={text} contradicts itself: drop leaves out the TLVs that pass: passes on")
    if "none" in words and (additions or fixed):
        raise ValueError(f"tlv={text} contradicts itself: none adds nothing")
    if (additions or fixed or passed) and isinstance(codec, (ProxyProtocolV1, ProxyProtocolNoop)):
        raise ValueError(f"tlv={text} needs version 2 (pp=v2): only its header has TLVs")
    if "client-cert" in additions and "ssl" not in additions:
        raise ValueError("tlv=client-cert is part of ssl: write tlv=ssl,client-cert")
    # drop and pass alone do not say what to add
    own = additions if additions or fixed or "none" in words else None
    return Outgoing(codec, own, frozenset(passed or ()) if passed or "drop" in words else None, fixed)


def parse_destination(text: str) -> Destination:
    """Parse the address that a service connects to; errors as in :func:`parse_listener`."""
    address = _parse(text, server=False)
    if not address.host and address.path is None:
        raise ValueError(f"{text!r} lacks the host to connect to")
    if address.port == 0:
        raise ValueError(f"{text!r} has port 0: write the port to connect to")
    transparent = choose("transparent=", address.option("transparent") or "no", YES_NO)
    if transparent and address.path is not None:
        raise ValueError(f"transparent=yes needs a destination HOST:PORT, not {address}")
    if transparent:
        check_transparent()
    tlv = address.option("tlv")
    # detect means version 2 here: a result that does not fit must not be sent as version 1, which has no TLVs
    codec = ProxyProtocolV2() if isinstance(address.pp, ProxyProtocolDetect) else address.pp
    if transparent and address.option(address.version_option) is None:
        codec = ProxyProtocolNoop()  # the server sees the client, and need not know of headers
    outgoing = Outgoing(codec) if tlv is None else _parse_outgoing(codec, tlv)
    destination = Destination(address, outgoing, address.ssl, transparent)
    if destination.tls is not None:
        name = destination.server_name
        try:
            destination.tls.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
        except ValueError as error:
            raise ValueError(f"{name!r} cannot be the name in a certificate: {error}") from None
    return destination
