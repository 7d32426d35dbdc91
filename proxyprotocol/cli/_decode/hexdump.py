"""Bytes that somebody wrote down: hexadecimal digits, dumps of common tools, and text with escapes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from proxyprotocol.server._process.program import ProgramError

__all__: list[str] = []

#: The longest header takes about 300 KiB in the widest of these forms.
MAX_TEXT: Final = 1024 * 1024

# How much of what is no header is looked at: more tells no more.
_LOOKED_AT: Final = 1024

# xxd's "00000010: 0d0a 0d0a  .....", and what is before the bar in hexdump's "00000010  0d 0a  |..|". No two neighbours
# in these patterns match the same character: then a line that does not match takes no longer than one that does.
_COLON_LINE: Final = re.compile(r"[0-9A-Fa-f]{8}: (?P<digits>[0-9A-Fa-f]{2,}(?: [0-9A-Fa-f]+)*)(?:\s\s.*)?")
_HEXDUMP_LINE: Final = re.compile(r"[0-9A-Fa-f]{8}(?:  (?P<digits>[0-9A-Fa-f]{2}(?: {1,2}[0-9A-Fa-f]{2})*))?")
_SEPARATORS: Final = re.compile(r"0[xX](?=[0-9A-Fa-f]{2})|[\s:,;]+")
_DIGITS: Final = re.compile(r"(?:[0-9A-Fa-f]{2})*")
_QUOTED: Final = re.compile(r"[bB]?(?P<quote>['\"])(?P<inside>.*)(?P=quote)", re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\(?:x(?P<hex>[0-9A-Fa-f]{2})|(?P<octal>[0-7]{1,3})|(?P<letter>[abefnrtv\\'\"]))")
_LETTERS: Final = dict(zip(b"abefnrtv\\'\"", b"\a\b\x1b\f\n\r\t\v\\'\"", strict=True))


def read_hex(text: str) -> bytes:
    """Give the bytes that a text writes down.

    Args:
        text: Pairs of hexadecimal digits, with or without white space, colons, commas or ``0x`` between them; a dump
            by ``xxd`` or ``hexdump -C``; or, where there is a backslash, text with the escapes of C and Python, with
            or without quotation marks around it.

    Raises:
        ProgramError: It is none of these.
    """
    if "\\" in text:
        text = text.strip()
        quoted = _QUOTED.fullmatch(text)
        return read_escapes(quoted["inside"] if quoted else text)
    digits = _SEPARATORS.sub("", " ".join(_lines_of_digits(text)))
    if not _DIGITS.fullmatch(digits):
        raise ProgramError(_complaint(text, digits))
    return bytes.fromhex(digits)


def looks_like_hex(data: bytes) -> bool:
    """Tell whether somebody seems to have forgotten to say that this is written down.

    Args:
        data: What is no header.
    """
    try:
        return len(read_hex(_beginning(data).decode("ascii"))) > 1
    except (ProgramError, UnicodeDecodeError):
        return False


def _beginning(data: bytes) -> bytes:
    """Give the first bytes, cut between two lines or else between two pairs of digits, so that they can be read."""
    first = data[:_LOOKED_AT]
    if len(data) > len(first):
        for separator in (b"\n", b" ", b",", b":", b";"):
            if separator in first:
                return first[: first.rindex(separator)]
    return first


def _lines_of_digits(text: str) -> Iterator[str]:
    """Give the digits of each line, without the offsets and the characters of a dump."""
    lines = [line for each in text.splitlines() if (line := each.strip())]
    before_the_bar = [line.partition("|")[0].rstrip() for line in lines]
    for pattern, candidates in ((_COLON_LINE, lines), (_HEXDUMP_LINE, before_the_bar)):
        matches = [pattern.fullmatch(line) for line in candidates]
        if all(matches):
            # a line of digits alone is a dump's where others have digits behind an offset, and only there
            digits = [match["digits"] or "" for match in matches if match]
            if any(digits):
                return iter(digits)
    return iter(lines)


def _complaint(text: str, digits: str) -> str:
    wrong = re.search(r"[^0-9A-Fa-f]", digits)
    if wrong is None:
        return f"there are {len(digits)} hexadecimal digits, an odd number: one is missing"
    line = next(number for number, line in enumerate(text.splitlines(), 1) if wrong[0] in _SEPARATORS.sub("", line))
    return (
        f"{wrong[0]!a} in line {line} is no hexadecimal digit; what --hex reads is told by proxyprotocol decode --help"
    )


def read_escapes(text: str) -> bytes:
    """Give the bytes of a text with the escapes of C and Python, in which the rest stands for itself.

    Args:
        text: The text.
    """
    return _ESCAPE.sub(_unescape, text.encode("utf-8"))


def _unescape(match: re.Match[bytes]) -> bytes:
    if match["letter"]:
        return bytes([_LETTERS[match["letter"][0]]])
    return bytes([int(match["hex"], 16) if match["hex"] else int(match["octal"], 8) & 0xFF])
