"""The relay's machinery: from accept to the last byte of both flows."""

from __future__ import annotations
