"""The processes of the demonstration."""

from __future__ import annotations

__all__: list[str] = []
