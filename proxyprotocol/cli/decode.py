"""``proxyprotocol decode``: what a header says, or what is wrong with it and at which byte."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from proxyprotocol._wire import spec
from proxyprotocol.cli._decode.capture import is_capture, read_capture
from proxyprotocol.cli._decode.description import Description, read_header
from proxyprotocol.cli._decode.hexdump import MAX_TEXT, looks_like_hex, read_hex
from proxyprotocol.cli._decode.show import show, show_json
from proxyprotocol.server._process.program import BAD_ANSWER, ProgramError

__all__ = ["add_arguments", "run"]

_CHUNK: Final = 64 * 1024
_DESCRIPTION: Final = """\
Print what a PROXY protocol header says: the addresses, and every TLV by its name. The input is raw bytes that start
with a header, a text such as hexadecimal digits (--hex), or a capture (pcap or pcapng), in which decode looks for
headers at the start of each TCP stream and of each UDP datagram. For a wrong header it prints what is wrong and at
which byte, and the exit status is 1.
"""
_HEX_HELP: Final = (
    "the input is text: pairs of hexadecimal digits, with or without separators; a dump by xxd or hexdump -C; or text "
    "with the escapes of C and Python, such as \\x0d\\x0a or \\r\\n"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to its parser."""
    parser.description = _DESCRIPTION
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="the file (standard input)")
    parser.add_argument("--hex", action="store_true", help=_HEX_HELP)
    parser.add_argument("--json", action="store_true", help="one line of JSON for each header")


def run(options: argparse.Namespace) -> int:
    """Decode, and return the exit status: 0 if there is a header and every header is right, otherwise 1.

    Args:
        options: The arguments.
    """
    with _open(options.file) as file:
        if options.hex:
            return _decode_bytes(_read_hex(file), 0, options)
        first = file.read(spec.V2_FIXED_LENGTH)
        if is_capture(first):
            return _decode_capture(first, file, options)
        # as much as a header can have; the rest is only counted
        data = first + file.read(spec.V2_MAX_LENGTH - len(first))
        following = 0
        while chunk := file.read(_CHUNK):
            following += len(chunk)
        return _decode_bytes(data, following, options)


@contextmanager
def _open(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        if sys.stdin is None:
            raise ProgramError("standard input is closed: name a file, or redirect one")
        yield sys.stdin.buffer
    else:
        with open(name, "rb") as file:
            yield file


def _read_hex(file: BinaryIO) -> bytes:
    text = file.read(MAX_TEXT + 1)
    if len(text) > MAX_TEXT:
        raise ProgramError(
            f"the input has more than the {MAX_TEXT} characters that --hex reads; the longest header needs fewer"
        )
    try:
        return read_hex(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ProgramError(f"byte {error.start} is not text: leave out --hex to read raw bytes") from None


def _decode_bytes(data: bytes, following: int, options: argparse.Namespace) -> int:
    described = read_header(data, following)
    _print(described, data, options)
    if not described["ok"] and not options.hex and looks_like_hex(data):
        print("This looks like a header as text: try --hex.", file=sys.stderr)
    return 0 if described["ok"] else BAD_ANSWER


def _decode_capture(first: bytes, file: BinaryIO, options: argparse.Namespace) -> int:
    good, headers = True, 0
    capture = read_capture(first, file)
    for found in capture:
        headers += 1
        good = good and found.described["ok"]
        where = f"Packet {found.packet}, {found.transport} from {found.sender} to {found.receiver}"
        _print(found.described, found.data, options, where)
    if not headers:
        print(f"No header in {capture.packets} packets: {capture.summary}.", file=sys.stderr)
    return 0 if good and headers else BAD_ANSWER


def _print(described: Description, data: bytes, options: argparse.Namespace, where: str = "") -> None:
    if options.json:
        print(show_json(described))
        return
    for line in show(described, data, where):
        print(line)
    if where:
        print()
