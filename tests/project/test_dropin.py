"""Drop-in: code for the PyPI package proxy-protocol 0.11.3 runs here.

The tables were recorded from that package: every public name, signature and relation of classes. This package may have
more members, bases and optional parameters, but not fewer. test_dropin_calls.py has the results of the calls.
"""

from __future__ import annotations

import asyncio
import enum
import importlib
import inspect
from typing import Any, NamedTuple

import pytest


class Class(NamedTuple):
    """A public class: the signature of its constructor, its bases, its methods and its readable attributes."""

    signature: str | None = None
    bases: str = ""
    methods: tuple[str, ...] = ()
    readable: str = ""


CODEC = ("is_valid(self, signature)", "unpack(self, data)", "pack(self, result)")
RESULT = "source dest peername sockname family protocol proxied tlv type"
ADDRESSED = "(source, dest, *, protocol=None, tlv=ProxyProtocolTLV())"
MAPPING = "TLV Mapping Collection Sized Iterable Container Hashable"
INFO = (
    "socket family protocol peername peername_ip peername_port peername_str sockname sockname_ip sockname_port "
    "sockname_str from_localhost cipher compression peercert unique_id dnsbl"
)
INFO_GET = "get(transport, result, *, unique_id=b'', dnsbl=None)"
BUILD_OPTIONS = "*, unique_id=None, dnsbl=None"
LOOKUP = "async lookup(self, sock_info, *, loop=None)"
DNSBL = ("load(host, *, timeout=None)", LOOKUP)

# module: name: a class, the parameters of a function, or None for something else
SURFACE: dict[str, dict[str, Class | str | None]] = {
    "proxyprotocol": {
        "ProxyProtocol": Class("()", methods=CODEC),
        "ProxyProtocolChecksumError": Class("(result)", "ValueError", readable="result"),
        "ProxyProtocolIncompleteError": Class("(want_read)", "Exception", readable="want_read"),
        "ProxyProtocolSyntaxError": Class(bases="ValueError"),
        "ProxyProtocolWantRead": Class("(want_bytes=None, *, want_line=False)", readable="want_bytes want_line"),
    },
    "proxyprotocol.version": {
        "ProxyProtocolVersion": Class(bases="Enum", methods=("get(name=None)",), readable="NOOP DETECT V1 V2"),
    },
    "proxyprotocol.detect": {
        "ProxyProtocolDetect": Class(
            "(*versions)", "ProxyProtocol", (*CODEC, "choose_version(self, signature)"), "versions"
        ),
    },
    "proxyprotocol.v1": {
        "ProxyProtocolV1": Class("()", "ProxyProtocol", (*CODEC, "unpack_line(self, data)")),
    },
    "proxyprotocol.v2": {
        "ProxyProtocolV2": Class(
            "()",
            "ProxyProtocol",
            (*CODEC, "unpack_header(self, header_data)", "unpack_data(self, header, header_data, data)"),
        ),
        "ProxyProtocolV2Header": Class(
            "(command, type, protocol, data_len)", readable="command type protocol data_len"
        ),
    },
    "proxyprotocol.noop": {
        "ProxyProtocolNoop": Class("()", "ProxyProtocol", CODEC),
    },
    "proxyprotocol.result": {
        "ProxyResult": Class("()", readable=RESULT),
        "ProxyResultIPv4": Class(ADDRESSED, "ProxyResult", readable=RESULT),
        "ProxyResultIPv6": Class(ADDRESSED, "ProxyResult", readable=RESULT),
        "ProxyResultUnix": Class(ADDRESSED, "ProxyResult", readable=RESULT),
        "ProxyResultUnknown": Class(
            "(exception=None, *, tlv=ProxyProtocolTLV())", "ProxyResult", readable=RESULT + " exception"
        ),
        "ProxyResultLocal": Class("(*, tlv=ProxyProtocolTLV())", "ProxyResult", readable=RESULT),
        "ProxyResultType": Class(bases="Enum", readable="IPv4 IPv6 UNIX UNKNOWN LOCAL"),
        "is_ipv4": "(result)",
        "is_ipv6": "(result)",
        "is_local": "(result)",
        "is_unix": "(result)",
        "is_unknown": "(result)",
    },
    "proxyprotocol.tlv": {
        "TLV": Class("(data=b'', init=None)", MAPPING, readable="size"),
        "ProxyProtocolTLV": Class(
            "(data=b'', init=None, *, alpn=None, authority=None, crc32c=None, unique_id=None, ssl=None, netns=None, "
            "ext=None, auto_crc32c=False)",
            MAPPING,
            ("with_checksum(self, *before)", "verify_checksum(self, *before)"),
            "alpn authority crc32c ext netns size ssl unique_id",
        ),
        "ProxyProtocolSSLTLV": Class(
            "(data=b'', init=None, *, has_ssl=None, has_cert_conn=None, has_cert_sess=None, verified=None, "
            "version=None, cn=None, cipher=None, sig_alg=None, key_alg=None)",
            MAPPING,
            readable="client verify has_ssl has_cert_conn has_cert_sess verified version cn cipher sig_alg key_alg",
        ),
        "ProxyProtocolExtTLV": Class(
            "(data=b'', init=None, *, compression=None, secret_bits=None, peercert=None, dnsbl=None)",
            MAPPING,
            readable="compression secret_bits peercert dnsbl size MAGIC_PREFIX",
        ),
        "Type": Class(bases="IntEnum"),
        "SSLClient": Class(bases="IntFlag"),
        "ExtType": Class(bases="IntEnum"),
    },
    "proxyprotocol.checksum": {
        "Checksum": Class(),
        "crc32c": None,
    },
    "proxyprotocol.build": {
        "build_socket_result": f"(sock, {BUILD_OPTIONS})",
        "build_transport_result": f"(transport, {BUILD_OPTIONS})",
    },
    "proxyprotocol.sock": {
        "SocketInfo": Class("(transport)", "", (INFO_GET,), INFO),
        "SocketInfoProxy": Class("(transport, result)", "SocketInfo", (INFO_GET,), INFO),
        "SocketInfoLocal": Class("(transport, *, unique_id=b'', dnsbl=None)", "SocketInfo", (INFO_GET,), INFO),
    },
    "proxyprotocol.reader": {
        "ProxyProtocolReader": Class(
            "(pp)", "", ("async read(self, reader)", "get_callback(self, callback, timeout=3)"), "pp"
        ),
    },
    "proxyprotocol.typing": {
        "Address": None,
        "Cipher": None,
        "PeerCert": None,
        "SockAddr": None,
        "StreamReaderProtocol": Class(methods=("readexactly(self, n)", "readline(self)")),
        "TransportProtocol": Class(methods=("get_extra_info(self, name, default=None)",)),
    },
    "proxyprotocol.dnsbl": {
        "Dnsbl": Class("()", methods=DNSBL),
        "NoopDnsbl": Class("()", "Dnsbl", DNSBL),
        "BasicDnsbl": Class("(host, timeout)", "Dnsbl", (*DNSBL, "map_results(self, addresses)"), "host timeout"),
        "SpamhausDnsbl": Class(
            "(host, timeout)", "BasicDnsbl Dnsbl", (*DNSBL, "map_results(self, addresses)"), "host timeout"
        ),
    },
    "proxyprotocol.server": {
        "Address": Class("(addr, *, server=False)", readable="host port pp ssl query server url"),
    },
    "proxyprotocol.server.main": {"main": "()"},
    "proxyprotocol.server.echo": {"main": "()"},
}

NUMBERS = {
    "ProxyResultType": {
        "LOCAL": (1, "AF_UNSPEC"),
        "UNKNOWN": (2, "AF_UNSPEC"),
        "IPv4": (3, "AF_INET"),
        "IPv6": (4, "AF_INET6"),
        "UNIX": (5, "AF_UNIX"),
    },
    "SSLClient": {"PP2_CLIENT_SSL": 1, "PP2_CLIENT_CERT_CONN": 2, "PP2_CLIENT_CERT_SESS": 4},
    "ExtType": {
        "PP2_TYPE_EXT_COMPRESSION": 1,
        "PP2_TYPE_EXT_SECRET_BITS": 2,
        "PP2_TYPE_EXT_PEERCERT": 3,
        "PP2_TYPE_EXT_DNSBL": 4,
    },
    "Type": {
        "PP2_TYPE_ALPN": 0x01,
        "PP2_TYPE_AUTHORITY": 0x02,
        "PP2_TYPE_CRC32C": 0x03,
        "PP2_TYPE_NOOP": 0x04,
        "PP2_TYPE_UNIQUE_ID": 0x05,
        "PP2_TYPE_SSL": 0x20,
        "PP2_SUBTYPE_SSL_VERSION": 0x21,
        "PP2_SUBTYPE_SSL_CN": 0x22,
        "PP2_SUBTYPE_SSL_CIPHER": 0x23,
        "PP2_SUBTYPE_SSL_SIG_ALG": 0x24,
        "PP2_SUBTYPE_SSL_KEY_ALG": 0x25,
        "PP2_TYPE_NETNS": 0x30,
        "PP2_TYPE_MIN_CUSTOM": 0xE0,
        "PP2_TYPE_MAX_CUSTOM": 0xEF,
        "PP2_TYPE_MIN_EXPERIMENT": 0xF0,
        "PP2_TYPE_MAX_EXPERIMENT": 0xF7,
        "PP2_TYPE_MIN_FUTURE": 0xF8,
        "PP2_TYPE_MAX_FUTURE": 0xFF,
    },
}


def public(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


NAMES = [(module, name) for module, names in SURFACE.items() for name in names]
CLASSES = [
    pytest.param(module, name, item, id=name)
    for module, names in SURFACE.items()
    for name, item in names.items()
    if isinstance(item, Class)
]
FUNCTIONS = [
    pytest.param(module, name, parameters, id=name)
    for module, names in SURFACE.items()
    for name, parameters in names.items()
    if isinstance(parameters, str)
]


def assert_takes(ours: Any, parameters: str) -> None:
    """Compare a function of this package with recorded parameters, such as ``"(a, *, b=None)"``."""
    tlv = public("proxyprotocol.tlv", "ProxyProtocolTLV")
    theirs = inspect.signature(eval(f"lambda {parameters[1:-1]}: None", {"ProxyProtocolTLV": tlv})).parameters
    mine = inspect.signature(ours).parameters
    assert [name for name in mine if name in theirs] == list(theirs)
    for name, parameter in theirs.items():
        assert mine[name].kind == parameter.kind
        assert mine[name].default == parameter.default or parameter.default is parameter.empty
    for name in mine.keys() - theirs.keys():
        assert mine[name].default is not mine[name].empty or mine[name].kind is mine[name].VAR_KEYWORD


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_name_is_public(module: str, name: str) -> None:
    assert name in importlib.import_module(module).__all__
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("module", "name", "parameters"), FUNCTIONS)
def test_a_function_takes_the_recorded_parameters(module: str, name: str, parameters: str) -> None:
    assert_takes(public(module, name), parameters)


@pytest.mark.parametrize(("module", "name", "recorded"), CLASSES)
def test_a_constructor_takes_the_recorded_parameters(module: str, name: str, recorded: Class) -> None:
    # errors take any arguments; enumerations and Protocols have no constructor that matters
    if recorded.signature is None:
        assert issubclass(public(module, name), (ValueError, enum.Enum)) or "Protocol" in bases(module, name)
    else:
        assert_takes(public(module, name), recorded.signature)


@pytest.mark.parametrize(("module", "name", "recorded"), CLASSES)
def test_a_method_takes_the_recorded_parameters(module: str, name: str, recorded: Class) -> None:
    for text in recorded.methods:
        method, _, parameters = text.removeprefix("async ").partition("(")
        ours = getattr(public(module, name), method)
        assert_takes(ours, "(" + parameters)
        assert inspect.iscoroutinefunction(ours) == text.startswith("async ")


def bases(module: str, name: str) -> set[str]:
    return {base.__name__ for base in public(module, name).__mro__}


@pytest.mark.parametrize(("module", "name", "recorded"), CLASSES)
def test_a_class_has_the_recorded_bases(module: str, name: str, recorded: Class) -> None:
    assert set(recorded.bases.split()) <= bases(module, name)


def instances() -> dict[str, Any]:
    """Return an instance of each class with attributes that only its instances have."""
    result = public("proxyprotocol.result", "ProxyResultLocal")()
    return {
        "ProxyProtocolChecksumError": public("proxyprotocol", "ProxyProtocolChecksumError")(result),
        "ProxyProtocolIncompleteError": public("proxyprotocol", "ProxyProtocolIncompleteError")(None),
        "ProxyProtocolReader": public("proxyprotocol.reader", "ProxyProtocolReader")(None),
    }


@pytest.mark.parametrize(("module", "name", "recorded"), CLASSES)
def test_a_class_has_the_recorded_attributes(module: str, name: str, recorded: Class) -> None:
    assert set(recorded.readable.split()) <= set(dir(instances().get(name, public(module, name))))


@pytest.mark.parametrize(("name", "numbers"), NUMBERS.items())
def test_an_enumeration_has_the_recorded_values(name: str, numbers: dict[str, Any]) -> None:
    module = "proxyprotocol.result" if name == "ProxyResultType" else "proxyprotocol.tlv"
    members: dict[str, enum.Enum] = public(module, name).__members__
    assert {member: members[member].value for member in numbers} == numbers


def test_the_bases_of_the_errors_are_the_recorded_ones() -> None:
    syntax, checksum, incomplete = (
        public("proxyprotocol", f"ProxyProtocol{kind}Error") for kind in ("Syntax", "Checksum", "Incomplete")
    )
    assert not issubclass(checksum, syntax)
    assert not issubclass(incomplete, ValueError)


def test_a_user_s_own_block_list_needs_only_a_lookup() -> None:
    class Own(public("proxyprotocol.dnsbl", "Dnsbl")):  # type: ignore[misc]
        async def lookup(self, sock_info: Any, *, loop: Any = None) -> str | None:
            return "listed"

    assert asyncio.run(Own().lookup(None)) == "listed"
