"""Servers of other projects, one file each, that read headers with this package."""

from __future__ import annotations

__all__: list[str] = []
