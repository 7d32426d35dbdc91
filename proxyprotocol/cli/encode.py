"""``proxyprotocol encode``: a header on standard output, ready for ``nc``."""

from __future__ import annotations

import argparse
import re
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from socket import SOCK_DGRAM, SocketKind
from typing import Final

from proxyprotocol._wire import walk
from proxyprotocol._wire.vendors import VENDOR_FIELDS
from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.errors import ProxyProtocolSyntaxError
from proxyprotocol.options import parse_sender
from proxyprotocol.result import (
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
    ProxyResultUnknown,
)
from proxyprotocol.server._process.program import ProgramError
from proxyprotocol.tlv import TLV, ProxyProtocolSSLTLV, ProxyProtocolTLV, Type
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["add_arguments", "run"]

_DESCRIPTION: Final = """\
Write a PROXY protocol header to standard output: { proxyprotocol encode --source 203.0.113.7:5678 --dest
198.51.100.9:443; cat request; } | nc server 443
"""
_NUMBER: Final = re.compile(r"0[xX][0-9A-Fa-f]{1,16}|0|[1-9][0-9]{0,19}")
_UNIX: Final = "unix:"
_ADDRESS: Final = "ADDR:PORT"
_PEM_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_PEM_END: Final = b"-----END CERTIFICATE-----"
_DER_SEQUENCE: Final = b"\x30"
# the options of PP2_TYPE_SSL, each with what it is called in the library
_SSL_TEXTS: Final = {
    "tls_version": "version",
    "tls_cipher": "cipher",
    "tls_cn": "cn",
    "tls_sig_alg": "sig_alg",
    "tls_key_alg": "key_alg",
    "tls_group": "group",
    "tls_sig_scheme": "sig_scheme",
}
_TYPE: Final = "PP2_TYPE_"
_NAMES: Final = {
    name.removeprefix(_TYPE).lower(): int(kind) for name, kind in Type.__members__.items() if name.startswith(_TYPE)
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the subcommand takes.

    Args:
        parser: The subcommand's.
    """
    parser.description = _DESCRIPTION
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--version", choices=["v1", "v2"], default="v2", help="the version of the header (v2)")
    version.add_argument("--v1", dest="version", action="store_const", const="v1", help="the same as --version v1")
    version.add_argument("--v2", dest="version", action="store_const", const="v2", help="the same as --version v2")
    parser.add_argument("--source", metavar=_ADDRESS, help="the client's address: 203.0.113.7:5678, unix:/path, ...")
    parser.add_argument("--dest", metavar=_ADDRESS, help="the address that it connected to, of the same kind")
    parser.add_argument("--local", action="store_true", help="say LOCAL: the proxy speaks for itself")
    parser.add_argument("--unknown", action="store_true", help="say that the client is not known")
    parser.add_argument("--dgram", action="store_true", help="say that the client's is a datagram socket")
    parser.add_argument("--no-checksum", action="store_true", help="leave out the CRC32C")
    parser.add_argument("--hex", action="store_true", help="write hexadecimal digits, as decode --hex reads them")
    _add_tlv_arguments(parser.add_argument_group("TLVs, in version 2"))


def _add_tlv_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tlv",
        metavar="TYPE=VALUE",
        action="append",
        default=[],
        type=_argument(_tlv),
        help="any TLV, also several times: the type is a number or a name, such as 0xE2 or netns, and the value is "
        "text, or bytes in hexadecimal digits behind 0x",
    )
    group.add_argument("--alpn", metavar="NAME", help="the protocol above, such as h2")
    group.add_argument("--authority", metavar="HOST", help="the host name that the client asked for")
    group.add_argument("--unique-id", metavar="ID", help="the name of the connection, 128 bytes at most")
    group.add_argument("--netns", metavar="NAME", help="the network namespace")
    for name, field in VENDOR_FIELDS.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="N" if field.bits else "ID",
            type=_argument(_number(field.bits)) if field.bits else str,
            help=f"the {field.what} that {field.vendor} names",
        )
    group.add_argument(
        "--tls", action="store_true", help="the client came over TLS; also said by each of the following"
    )
    for option in _SSL_TEXTS:
        group.add_argument(f"--{option.replace('_', '-')}", metavar="TEXT", help=f"SSL sub-TLV {option[4:].upper()}")
    group.add_argument("--client-cert", metavar="FILE", help="the client's certificate, in PEM or DER")
    group.add_argument("--verified", action="store_true", help="the client's certificate was verified")


def run(options: argparse.Namespace) -> int:
    """Encode.

    Args:
        options: The arguments.

    Returns:
        0, for a header that was written.

    Raises:
        ProgramError: There is no such header.
    """
    try:
        codec, result = _say(options)
        header = codec.pack(result)
    except KeyError:
        raise ProgramError("version 1 cannot say this: it knows IPv4 and IPv6 over TCP alone") from None
    except ProxyProtocolSyntaxError as error:
        raise ProgramError(error.reason) from None  # the place in it helps nobody who gave it by options
    except ValueError as error:
        raise ProgramError(str(error)) from None
    if options.hex:
        print(header.hex())
        return 0
    if options.version == "v2" and sys.stdout.isatty():
        raise ProgramError("this header is binary, and standard output is a terminal: redirect it, or see it by --hex")
    sys.stdout.buffer.write(header)
    sys.stdout.buffer.flush()
    return 0


def _say(options: argparse.Namespace) -> tuple[ProxyProtocol, ProxyResult]:
    tlv = _read_tlvs(options)
    if options.version == "v1":
        if tlv or options.dgram:
            raise ProgramError("version 1 has no place for TLVs and for datagrams: leave them out, or --v1")
        return ProxyProtocolV1(), _result(options, ProxyProtocolTLV(), None)
    codec = ProxyProtocolV2(checksum=not options.no_checksum)
    return codec, _result(options, tlv, SOCK_DGRAM if options.dgram else None)


def _result(options: argparse.Namespace, tlv: ProxyProtocolTLV, protocol: SocketKind | None) -> ProxyResult:
    ways = [bool(options.source or options.dest), options.local, options.unknown]
    if sum(ways) != 1:
        raise ProgramError("say who the client is by --source and --dest, or by one of --local and --unknown")
    if options.local:
        return ProxyResultLocal(tlv=tlv)
    if options.unknown:
        return ProxyResultUnknown(tlv=tlv)
    if options.source and options.dest and options.source.startswith(_UNIX) and options.dest.startswith(_UNIX):
        source, dest = (path.removeprefix(_UNIX) for path in (options.source, options.dest))
        return ProxyResultUnix(source, dest, protocol=protocol, tlv=tlv)
    given = {name: value for name in ("source", "dest") if (value := getattr(options, name)) is not None}
    _, result = parse_sender(given, "--{}".format)
    assert isinstance(result, (ProxyResultIPv4, ProxyResultIPv6))  # one of the two was given
    return _with(result, tlv, protocol)


def _with(result: ProxyResultIPv4 | ProxyResultIPv6, tlv: ProxyProtocolTLV, protocol: SocketKind | None) -> ProxyResult:
    if isinstance(result, ProxyResultIPv4):
        return ProxyResultIPv4(result.source, result.dest, protocol=protocol, tlv=tlv)
    return ProxyResultIPv6(result.source, result.dest, protocol=protocol, tlv=tlv)


def _read_tlvs(options: argparse.Namespace) -> ProxyProtocolTLV:
    return ProxyProtocolTLV(
        b"".join(options.tlv),
        _vendors(options),
        alpn=_bytes(options.alpn),
        authority=options.authority,
        unique_id=_bytes(options.unique_id),
        netns=options.netns,
        ssl=_ssl(options),
    )


def _vendors(options: argparse.Namespace) -> TLV:
    given = [(field, getattr(options, name)) for name, field in VENDOR_FIELDS.items()]
    return TLV(b"".join(walk.vector(field.kind, field.write(value)) for field, value in given if value is not None))


def _ssl(options: argparse.Namespace) -> ProxyProtocolSSLTLV | None:
    texts = {name: getattr(options, option) for option, name in _SSL_TEXTS.items()}
    certificate = None if options.client_cert is None else _read_certificate(Path(options.client_cert))
    shown = certificate is not None or options.verified or texts["cn"] is not None
    if not options.tls and not shown and not any(texts.values()):
        return None
    return ProxyProtocolSSLTLV(
        has_ssl=True,
        has_cert_conn=shown,
        # as HAProxy does, which puts 0 there where there is no certificate at all
        verified=options.verified or not shown,
        client_cert=certificate,
        **texts,
    )


def _read_certificate(path: Path) -> bytes:
    """Read a certificate; of a chain the first one, which is the client's own."""
    data = path.read_bytes()
    _, begin, rest = data.partition(_PEM_BEGIN)
    body, end, _ = rest.partition(_PEM_END)
    try:
        certificate = ssl.PEM_cert_to_DER_cert((begin + body + end).decode("ascii")) if end else data
    except ValueError:
        certificate = b""
    if not certificate.startswith(_DER_SEQUENCE):
        raise ProgramError(f"{path}: there is no certificate in it, neither in PEM nor in DER")
    return certificate


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _argument(read: Callable[[str], object]) -> Callable[[str], object]:
    """Make a type for argparse, which hides the text of a ValueError."""

    def convert(text: str) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _number(bits: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if _NUMBER.fullmatch(text) and (number := int(text, 0)) < 1 << bits:
            return number
        raise ValueError(f"it is a number of {bits} bits, such as 7 or 0x1F, not {text!r}")

    return read


def _tlv(text: str) -> bytes:
    kind, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"it is TYPE=VALUE, not {text!r}")
    number = _NAMES.get(kind.lower().replace("-", "_"))
    if number is None:
        number = _tlv_type(kind)
    return walk.vector(number, _digits(value[2:]) if value.startswith("0x") else value.encode())


def _tlv_type(text: str) -> int:
    try:
        return _number(8)(text)
    except ValueError:
        raise ValueError(f"the type is a number from 0 to 255 or a name, such as 0xE2 or netns, not {text!r}") from None


def _digits(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"behind 0x come pairs of hexadecimal digits, not {text!r}") from None
