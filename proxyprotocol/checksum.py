"""Floor 0: CRC32C (Castagnoli), section 2.2.3 of the specification, as in RFC 4960, appendix B.

The crc32c library does the work. Where it is missing a table in pure Python does, so that a checksum is *always*
verified. The library is imported when a checksum is first needed: its import takes longer than that of this package.
"""

from __future__ import annotations

from typing import Protocol, cast

__all__ = ["Checksum", "crc32c"]

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits reversed


class Checksum(Protocol):
    """The shape of a checksum function, such as ``crc32c.crc32c`` of the crc32c library."""

    def __call__(self, val: bytes, crc: int = 0) -> int:
        """Compute the checksum.

        Args:
            val: The bytes.
            crc: The checksum of the bytes before them, to go on from.
        """
        ...


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


def _pure_python() -> Checksum:
    table = _table()

    def crc32c(val: bytes, crc: int = 0) -> int:
        crc ^= 0xFFFFFFFF
        for byte in val:
            crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
        return crc ^ 0xFFFFFFFF

    return crc32c


def _load() -> Checksum:
    try:
        from crc32c import crc32c
    except ImportError:
        return _pure_python()
    return cast(Checksum, crc32c)


_implementation: Checksum | None = None


def crc32c(val: bytes, crc: int = 0) -> int:
    """Compute the CRC32C of some bytes.

    Args:
        val: The bytes.
        crc: The checksum of the bytes before them, to go on from.

    Returns:
        The checksum, 32 bits.
    """
    global _implementation
    if _implementation is None:
        _implementation = _load()
    return _implementation(val, crc)
