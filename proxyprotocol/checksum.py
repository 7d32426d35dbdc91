"""CRC32C (Castagnoli), section 2.2.3 of the specification and appendix B of RFC 4960.

The crc32c library computes it. Without the library a table in Python does: a checksum is *always* verified. The first
checksum imports the library, because that import takes longer than the import of this package.
"""

from __future__ import annotations

from typing import Protocol, cast

__all__ = ["Checksum", "crc32c"]

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits reversed


class Checksum(Protocol):
    """A checksum function, such as ``crc32c.crc32c`` of the crc32c library."""

    def __call__(self, val: bytes, crc: int = 0) -> int:
        """Compute the checksum.

        Args:
            val: The bytes.
            crc: The checksum of the bytes before them.
        """
        ...


def _pure_python() -> Checksum:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)

    def crc32c(val: bytes, crc: int = 0) -> int:
        crc ^= 0xFFFFFFFF
        for byte in val:
            crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
        return crc ^ 0xFFFFFFFF

    return crc32c


_implementation: Checksum | None = None


def crc32c(val: bytes, crc: int = 0) -> int:
    """Compute the CRC32C of some bytes.

    Args:
        val: The bytes.
        crc: The checksum of the bytes before them.
    """
    global _implementation
    if _implementation is None:
        try:
            from crc32c import crc32c as library
        except ImportError:
            _implementation = _pure_python()
        else:
            _implementation = cast(Checksum, library)
    return _implementation(val, crc)
