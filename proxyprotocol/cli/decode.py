"""``proxyprotocol decode``: what a header says, or what is wrong with it and at which byte."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from typing import Any, BinaryIO, Final

from proxyprotocol._wire import spec
from proxyprotocol.cli._decode.description import Description, describe
from proxyprotocol.cli._decode.hexdump import MAX_TEXT, looks_like_hex, read_hex
from proxyprotocol.cli._decode.input import Input
from proxyprotocol.cli._decode.show import show
from proxyprotocol.server._process.program import BAD_ANSWER, FILE, ProgramError

__all__ = ["add_arguments", "run"]

_CHUNK: Final = 64 * 1024
# The first bytes of a pcapng file, and of pcap files in both byte orders, with microseconds and with nanoseconds.
_CAPTURES: Final = (
    b"\x0a\x0d\x0d\x0a",
    b"\xa1\xb2\xc3\xd4",
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x4d\x3c\xb2\xa1",
)
_DESCRIPTION: Final = """\
Print what a PROXY protocol header says: the addresses, and every TLV by its
name. The input is raw bytes that start with a header, a text such as
hexadecimal digits (--hex), or a capture (pcap or pcapng), in which decode looks
for headers at the start of each TCP stream and of each UDP datagram, and prints
each as soon as it is complete. For a wrong header it prints what is wrong and
at which byte, and the exit status is 1. Captures need proxyprotocol[pcap].
"""
_EXAMPLES: Final = """\
examples:
  %(prog)s header.bin
  %(prog)s --json capture.pcap
  xxd header.bin | %(prog)s --hex
  tcpdump -U -i lo -w - port 8080 | %(prog)s
"""
_HEX_HELP: Final = (
    "the input is text: pairs of hexadecimal digits, with or without separators; a dump by xxd or hexdump -C; or text "
    "with the escapes of C and Python, such as \\x0d\\x0a or \\r\\n"
)
_SPP_HELP: Final = (
    "the header is that of the Simple Proxy Protocol (Cloudflare Spectrum); in a capture, look for it at the start of "
    "each datagram too"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to its parser."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    file: Any = parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="the file (standard input)")
    file.complete = FILE
    parser.add_argument("--hex", action="store_true", help=_HEX_HELP)
    parser.add_argument("--spp", action="store_true", help=_SPP_HELP)
    parser.add_argument("--json", action="store_true", help="one line of JSON for each header")


def run(options: argparse.Namespace) -> int:
    """Decode, and return the exit status: 0 if the input has headers and all are right, otherwise 1."""
    if options.file == "-" and sys.stdin is None:
        raise ProgramError("standard input is closed: name a file, or redirect one")
    with (
        nullcontext(sys.stdin.buffer) if options.file == "-" else _open(options.file) as file,
        Input(file) as input_,
    ):
        status = _decode(input_, options)
    if input_.interrupted:
        raise KeyboardInterrupt
    return status


def _open(name: str) -> BinaryIO:
    try:
        return open(name, "rb")
    except FileNotFoundError:
        if looks_like_hex(name.encode(errors="replace")):
            raise ProgramError(
                f"FILE takes the name of a file; did you mean echo {name} | proxyprotocol decode --hex?"
            ) from None
        raise


def _decode(file: Input, options: argparse.Namespace) -> int:
    following = 0
    if options.hex:
        data = _read_text(file)
    else:
        data = file.read(spec.V2_FIXED_LENGTH)
        if data.startswith(_CAPTURES):
            return _decode_capture(data, file, options)
        # as much as a header can have; the rest needs only a count
        data += file.read(spec.V2_MAX_LENGTH - len(data))
        while chunk := file.read(_CHUNK):
            following += len(chunk)
    if file.interrupted and not data:
        return BAD_ANSWER
    described = describe(data, following, is_spp=options.spp)
    _print(described, data, options.json)
    if not described["ok"] and not options.hex and looks_like_hex(data):
        print("This looks like a header as text: try --hex.", file=sys.stderr)
    if not options.spp and data.startswith(spec.SPP_SIGNATURE):
        print("This looks like a header of the Simple Proxy Protocol: try --spp.", file=sys.stderr)
    return 0 if described["ok"] else BAD_ANSWER


def _read_text(file: Input) -> bytes:
    text = file.read(MAX_TEXT + 1)
    if len(text) > MAX_TEXT:
        raise ProgramError(
            f"the input has more than the {MAX_TEXT} characters that --hex reads; the longest header needs fewer"
        )
    try:
        return read_hex(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ProgramError(f"byte {error.start} is not text: leave out --hex to read raw bytes") from None


def _decode_capture(first: bytes, file: Input, options: argparse.Namespace) -> int:
    try:
        from proxyprotocol.cli._decode.capture import Capture
    except ImportError as error:
        raise ProgramError(
            f"Scapy, which reads captures, is not installed ({error}): pip install 'proxyprotocol[pcap]'"
        ) from None
    capture = Capture(first, file, options.spp)
    are_good = []
    for described, data in capture:
        are_good.append(described["ok"])
        _print(described, data, options.json)
        if not options.json:
            print(flush=True)
    if not are_good:
        print(f"No header in {capture.packets} packets: {capture.summary}.", file=sys.stderr)
    return 0 if are_good and all(are_good) else BAD_ANSWER


def _print(described: Description, data: bytes, as_json: bool) -> None:
    if as_json:
        print(json.dumps(described).replace("\x7f", "\\u007f"), flush=True)  # dumps() does not escape DEL
    else:
        print(*show(described, data), sep="\n", flush=True)
