"""The specification as numbers and as one walk over TLV bytes."""

from __future__ import annotations

__all__: list[str] = []
