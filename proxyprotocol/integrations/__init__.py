"""Integrations for the servers of other projects, one file each."""

from __future__ import annotations

__all__: list[str] = []
