"""The address block of a version 2 header (section 2.2, ``union proxy_addr``)."""

from __future__ import annotations

import os
import struct
from typing import Final

from proxyprotocol._wire import spec

__all__: list[str] = []

_pack_ports: Final = struct.Struct("!HH").pack
# One end as (address, port): in the block both addresses come first, then both ports.
IPV4_SOURCE: Final = struct.Struct("!4s4xH2x")
IPV4_DEST: Final = struct.Struct("!4x4s2xH")
IPV6_SOURCE: Final = struct.Struct("!16s16xH2x")
IPV6_DEST: Final = struct.Struct("!16x16s2xH")


def pack_ports(source: int, dest: int) -> bytes:
    """Return both ports as in the block. It raises ValueError for a port out of range."""
    try:
        return _pack_ports(source, dest)
    except struct.error:
        raise ValueError(f"A port is a number from 0 to {spec.MAX_PORT}, not {source!r} or {dest!r}") from None


def unpack_path(field: bytes) -> str:
    """Return the UNIX path in its field of 108 bytes."""
    # An abstract name starts with a NUL and may hold others, so the padding looks like part of it.
    name = field.rstrip(b"\0") if field[:1] == b"\0" else field.partition(b"\0")[0]
    return os.fsdecode(name)


def pack_path(path: str) -> bytes:
    """Return the field of a UNIX path. It raises ValueError for a path that does not fit."""
    name, limit = os.fsencode(path), spec.UNIX_PATH_LENGTH
    if unpack_path(name) != path:
        reason = "only an abstract name holds NULs, and none at its end"
        raise ValueError(f"A header would cut the UNIX path {path!r}: {reason}")
    if len(name) > limit:
        raise ValueError(f"A UNIX path of {len(name)} bytes does not fit in a header, {limit} are the most: {path!r}")
    return name.ljust(limit, b"\0")
