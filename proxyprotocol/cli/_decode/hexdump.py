"""Bytes as text: hexadecimal digits, dumps of common tools, and strings with escapes."""

from __future__ import annotations

import re
from typing import Final

from proxyprotocol.server._process.program import ProgramError

#: The longest header takes about 300 KiB in the widest of these forms.
MAX_TEXT: Final = 1024 * 1024

# How many bytes decide whether a file looks like text.
_LOOKED_AT: Final = 1024

# xxd's "00000010: 0d0a 0d0a  .....", and hexdump's "00000010  0d 0a  |..|" before the bar. No two neighbours
# in these patterns match the same character, so a line that does not match takes no longer than one that does.
_COLON_LINE: Final = re.compile(r"[0-9A-Fa-f]{8}: (?P<digits>[0-9A-Fa-f]{2,}(?: [0-9A-Fa-f]+)*)(?:\s\s.*)?")
_HEXDUMP_LINE: Final = re.compile(r"[0-9A-Fa-f]{8}(?:  (?P<digits>[0-9A-Fa-f]{2}(?: {1,2}[0-9A-Fa-f]{2})*))?")
_SEPARATORS: Final = re.compile(r"0[xX](?=[0-9A-Fa-f]{2})|[\s:,;]+")
_QUOTED: Final = re.compile(r"[bB]?(?P<quote>['\"])(?P<inside>.*)(?P=quote)", re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\(?:x(?P<hex>[0-9A-Fa-f]{2})|(?P<octal>[0-7]{1,3})|(?P<letter>[abefnrtv\\'\"]))")
_LETTERS: Final = dict(zip(b"abefnrtv\\'\"", b"\a\b\x1b\f\n\r\t\v\\'\"", strict=True))


def read_hex(text: str) -> bytes:
    """Return the bytes that a text stands for; a :class:`ProgramError` says what is wrong with another text.

    The text is pairs of hexadecimal digits, with or without white space, colons, commas or ``0x`` between them; a dump
    by ``xxd`` or ``hexdump -C``; or, if it has a backslash, a string with the escapes of C and Python.
    """
    if "\\" in text:
        text = text.strip()
        quoted = _QUOTED.fullmatch(text)
        return read_escapes(quoted["inside"] if quoted else text)
    digits = _SEPARATORS.sub("", " ".join(_lines_of_digits(text)))
    wrong = re.search(r"[^0-9A-Fa-f]", digits)
    if wrong is not None:
        lines = enumerate(text.splitlines(), 1)
        line = next(number for number, line in lines if wrong[0] in _SEPARATORS.sub("", line))
        raise ProgramError(
            f"{wrong[0]!a} in line {line} is not a hexadecimal digit; proxyprotocol decode --help says what --hex reads"
        )
    if len(digits) % 2:
        raise ProgramError(f"{len(digits)} hexadecimal digits are an odd number: one is missing")
    return bytes.fromhex(digits)


def looks_like_hex(data: bytes) -> bool:
    """Return whether *data*, which is not a header, looks like the text of one, so that the user needs --hex."""
    first = data[:_LOOKED_AT]
    if len(data) > len(first):  # cut between two lines, otherwise between two pairs of digits
        separator = next((each for each in (b"\n", b" ", b",", b":", b";") if each in first), None)
        first = first if separator is None else first[: first.rindex(separator)]
    try:
        return len(read_hex(first.decode("ascii"))) > 1
    except (ProgramError, UnicodeDecodeError):
        return False


def _lines_of_digits(text: str) -> list[str]:
    """Return the digits of each line, without the offsets and the characters of a dump."""
    lines = [line for each in text.splitlines() if (line := each.strip())]
    before_the_bar = [line.partition("|")[0].rstrip() for line in lines]
    for pattern, candidates in ((_COLON_LINE, lines), (_HEXDUMP_LINE, before_the_bar)):
        matches = [pattern.fullmatch(line) for line in candidates]
        if all(matches):
            # a line with nothing but an offset belongs to a dump only if other lines have digits after theirs
            digits = [match["digits"] or "" for match in matches if match]
            if any(digits):
                return digits
    return lines


def read_escapes(text: str) -> bytes:
    """Return the bytes of a *text* with the escapes of C and Python; other characters stand for themselves."""
    return _ESCAPE.sub(_unescape, text.encode("utf-8"))


def _unescape(match: re.Match[bytes]) -> bytes:
    if match["letter"]:
        return bytes([_LETTERS[match["letter"][0]]])
    return bytes([int(match["hex"], 16) if match["hex"] else int(match["octal"], 8) & 0xFF])
