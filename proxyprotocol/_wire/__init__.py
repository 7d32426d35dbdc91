"""The specification as numbers, one walk over TLV bytes, and the table of TLV fields."""

from __future__ import annotations
