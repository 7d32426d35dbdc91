"""``proxyprotocol encode``: a header on standard output, ready for ``nc``."""

from __future__ import annotations

import argparse
import re
import ssl
import sys
from pathlib import Path
from socket import SOCK_DGRAM
from typing import Any, Final

from proxyprotocol._wire import fields, walk
from proxyprotocol.errors import ProxyProtocolSyntaxError
from proxyprotocol.options import parse_sender, parse_tlv
from proxyprotocol.result import ProxyResult, ProxyResultLocal, ProxyResultUnix, ProxyResultUnknown
from proxyprotocol.server._process.program import FILE, ProgramError, describe_error
from proxyprotocol.spp import ProxyProtocolSPP
from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["add_arguments", "run"]

_DESCRIPTION: Final = """\
Write a PROXY protocol header to standard output, for a program such as nc that
sends it to a server. Name the client with --source and --dest, or give one of
--local and --unknown.
"""
_EXAMPLES: Final = """\
examples:
  %(prog)s --source 192.0.2.7:5678 --dest 192.0.2.9:443 | nc app 443
  %(prog)s --source unix:/run/client --dest unix:/run/app.sock --hex
  %(prog)s --local | nc app 443
  %(prog)s --v1 --unknown
  %(prog)s --spp --source 192.0.2.7:5678 --dest 192.0.2.9:53 --hex
  %(prog)s --unknown --alpn h2 --tlv 0xE2=text --hex
"""
_UNIX: Final = "unix:"
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_DER_SEQUENCE: Final = b"\x30"
_HEADER_OPTIONS: Final = {name: field for name, field in fields.rows(ProxyProtocolTLV).items() if field.metavar}
# the fields of PP2_TYPE_SSL with text; --client-cert reads the certificate from a file
_SSL_OPTIONS: Final = {
    f"tls_{name}": field for name, field in fields.rows(ProxyProtocolSSLTLV).items() if field.form is fields.TEXT
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to its parser."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    parser.set_defaults(header="v2")
    header = parser.add_mutually_exclusive_group()
    header.add_argument("--v1", dest="header", action="store_const", const="v1", help="write a header of version 1")
    header.add_argument("--v2", dest="header", action="store_const", const="v2", help="of version 2, the default")
    header.add_argument(
        "--spp",
        dest="header",
        action="store_const",
        const="spp",
        help="the Simple Proxy Protocol of Cloudflare Spectrum, for datagrams",
    )
    parser.add_argument("--source", metavar="ADDR:PORT", help="the client's address: 203.0.113.7:5678, unix:/path, ...")
    parser.add_argument(
        "--dest", metavar="ADDR:PORT", help="the address that the client connected to, of the same kind"
    )
    parser.add_argument("--local", action="store_true", help="LOCAL: the proxy speaks for itself")
    parser.add_argument("--unknown", action="store_true", help="the client is unknown")
    parser.add_argument("--dgram", action="store_true", help="the client has a datagram socket")
    parser.add_argument("--no-checksum", action="store_true", help="leave out the CRC32C")
    parser.add_argument("--hex", action="store_true", help="write hexadecimal digits, for decode --hex")
    group = parser.add_argument_group("TLVs, in version 2")
    group.add_argument(
        "--tlv",
        metavar="TYPE=VALUE",
        action="append",
        default=[],
        type=_tlv,
        help="any TLV; may be repeated. The type is a number or a name, such as 0xE2 or netns. The value is text, "
        "or 0x and hexadecimal digits",
    )
    _add_options(group, _HEADER_OPTIONS)
    group.add_argument("--tls", action="store_true", help="the client came over TLS; the options below imply it")
    _add_options(group, _SSL_OPTIONS)
    certificate: Any = group.add_argument("--client-cert", metavar="FILE", help="the client's certificate: PEM or DER")
    certificate.complete = FILE
    group.add_argument("--verified", action="store_true", help="the sender verified the client's certificate")


def _add_options(group: argparse._ArgumentGroup, options: dict[str, fields.Field[Any, Any]]) -> None:
    for name, field in options.items():

        def convert(text: str, field: fields.Field[Any, Any] = field) -> object:
            try:
                return field.form.parse(text)
            except ValueError as error:  # argparse would hide its text
                raise argparse.ArgumentTypeError(str(error)) from None

        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, metavar=field.metavar or "TEXT", type=convert, help=field.help)


def run(options: argparse.Namespace) -> int:
    """Write the header and return 0; a :class:`ProgramError` says why no header can hold these values."""
    try:
        header = _pack(options)
    except KeyError:
        raise ProgramError("version 1 cannot say this: it knows only IPv4 and IPv6 over TCP") from None
    except ProxyProtocolSyntaxError as error:
        raise ProgramError(error.reason) from None  # an offset means nothing to the user of options
    except ValueError as error:
        raise ProgramError(str(error)) from None
    if options.hex:
        print(header.hex())
        return 0
    if options.header != "v1" and sys.stdout.isatty():
        raise ProgramError("this header is binary and standard output is a terminal: redirect it, or add --hex")
    sys.stdout.buffer.write(header)
    sys.stdout.buffer.flush()
    return 0


def _pack(options: argparse.Namespace) -> bytes:
    given = {name: value for name in _HEADER_OPTIONS if (value := getattr(options, name)) is not None}
    tlv = ProxyProtocolTLV(b"".join(options.tlv), ssl=_ssl(options), **given)
    if options.header == "v1" and (tlv or options.dgram):
        raise ProgramError("version 1 has no place for TLVs or datagrams: leave them out, or leave out --v1")
    if options.header == "spp" and tlv:
        raise ProgramError("the Simple Proxy Protocol has no place for TLVs: leave them out, or leave out --spp")
    if bool(options.source or options.dest) + options.local + options.unknown != 1:
        raise ProgramError("name the client with --source and --dest, or give one of --local and --unknown")
    ends = {name: value for name in ("source", "dest") if (value := getattr(options, name)) is not None}
    result: ProxyResult | None
    if options.local:
        result = ProxyResultLocal()
    elif options.unknown:
        result = ProxyResultUnknown()
    elif len(ends) == 2 and all(path.startswith(_UNIX) for path in ends.values()):
        result = ProxyResultUnix(*(path.removeprefix(_UNIX) for path in ends.values()))
    elif any(path.startswith(_UNIX) for path in ends.values()):
        said = " and ".join(f"{end!r}" for end in ends.values())
        raise ProgramError(f"--source and --dest take two UNIX sockets, such as unix:/run/app, or none, not {said}")
    else:
        _, result = parse_sender(ends, "--{}".format)
        assert result is not None  # at least one of the two was given
    if (options.dgram or options.header == "spp") and result.source is not None:
        result = result.replace(protocol=SOCK_DGRAM)
    codecs = {
        "v1": ProxyProtocolV1(),
        "v2": ProxyProtocolV2(checksum=not options.no_checksum),
        "spp": ProxyProtocolSPP(),
    }
    return codecs[options.header].pack(result.replace(tlv=tlv))


def _ssl(options: argparse.Namespace) -> ProxyProtocolSSLTLV | None:
    texts = {field.name: getattr(options, option) for option, field in _SSL_OPTIONS.items()}
    certificate = None if options.client_cert is None else _read_certificate(Path(options.client_cert))
    shown = certificate is not None or options.verified or texts["cn"] is not None
    if not options.tls and not shown and not any(texts.values()):
        return None
    # Like HAProxy, write a verify code of 0 if the client showed no certificate.
    verified = options.verified or not shown
    return ProxyProtocolSSLTLV(has_ssl=True, has_cert_conn=shown, verified=verified, client_cert=certificate, **texts)


def _read_certificate(path: Path) -> bytes:
    """Read a certificate. Of a chain it takes the first, which is the client's own."""
    try:
        certificate = path.read_bytes()
    except OSError as error:
        raise ProgramError(f"--client-cert takes a file, which cannot be read: {describe_error(error)}") from None
    pem = _PEM.search(certificate.decode("latin-1"))
    try:
        certificate = ssl.PEM_cert_to_DER_cert(pem[0]) if pem else certificate
    except ValueError:
        certificate = b""
    if not certificate.startswith(_DER_SEQUENCE):
        raise ProgramError(f"--client-cert takes a certificate in PEM or DER, and {path} has none")
    return certificate


def _tlv(text: str) -> bytes:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected TYPE=VALUE, such as 0xE2=text or netns=blue, not {text!r}")
    try:
        return walk.vector(*parse_tlv(name, value))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
