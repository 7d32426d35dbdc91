"""The public names of this package, and objects to call them with, for the tests of the drop-in."""

from __future__ import annotations

import importlib
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import proxyprotocol

HEAD = b"\r\n\r\n\x00\r\nQUIT\n"
BLOCK4 = b"\x01\x02\x03\x04\x05\x06\x07\x08\x00\x05\x00\x09"
V1_LINE = b"PROXY TCP4 1.2.3.4 5.6.7.8 5 9\r\n"
V2_HEADER = HEAD + b"!\x11\x00\x0c" + BLOCK4
PEERCERT = {"subject": ((("commonName", "x"),),)}


class Socket:
    """The methods of a socket that the calls need."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM


class Tls:
    """The methods of an SSLObject that the calls need."""

    def cipher(self) -> tuple[str, str, int]:
        return "CIPHER", "TLSv1.3", 256

    def compression(self) -> None:
        return None

    def getpeercert(self) -> dict[str, Any]:
        return PEERCERT


class Transport:
    """A transport that returns the values it was made with."""

    def __init__(self, **facts: Any) -> None:
        self._facts = dict(facts, socket=Socket(), peername=("1.2.3.4", 5), sockname=("5.6.7.8", 9))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._facts.get(name, default)


MODULES = "version detect v1 v2 noop result tlv checksum build sock reader typing dnsbl"


def namespace() -> dict[str, Any]:
    """Return all public names, and objects to call them with."""
    modules = [proxyprotocol, *(importlib.import_module(f"proxyprotocol.{name}") for name in MODULES.split())]
    names = {name: getattr(module, name) for module in modules for name in module.__all__}
    source4, dest4 = (IPv4Address("1.2.3.4"), 5), (IPv4Address("5.6.7.8"), 9)
    source6, dest6 = (IPv6Address("2001:db8::1"), 5), (IPv6Address("::1"), 9)
    names.update(
        IPv4Address=IPv4Address,
        HEAD=HEAD,
        BLOCK4=BLOCK4,
        V1_LINE=V1_LINE,
        V2_HEADER=V2_HEADER,
        PEERCERT=PEERCERT,
        TCP=Transport(),
        TLS=Transport(ssl_object=Tls(), cipher=Tls().cipher(), peercert=PEERCERT),
        R4=names["ProxyResultIPv4"](source4, dest4, protocol=socket.SOCK_STREAM),
        R6=names["ProxyResultIPv6"](source6, dest6, protocol=socket.SOCK_DGRAM),
        RU=names["ProxyResultUnix"]("/a", "/b", protocol=socket.SOCK_STREAM),
        UNKNOWN=names["ProxyResultUnknown"](),
        LOCAL=names["ProxyResultLocal"](),
    )
    return names


NAMESPACE = namespace()
