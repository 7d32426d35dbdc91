"""Floor 3: the deadlines of connections that wait for their headers, in the order in which they began to wait.

All connections of a server wait equally long, so the first to come is the first to be late: one timer serves them all,
at a tenth of the cost of one for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

__all__: list[str] = []

_T = TypeVar("_T")


def part_late(deadlines: Mapping[_T, float], now: float) -> tuple[list[_T], float | None]:
    """Tell who is late, and when the next one will be.

    Args:
        deadlines: When each is late, the earliest first.
        now: The time, by the same clock.

    Returns:
        Those whose time has come, and the deadline of the first of the others; None where there is none.
    """
    late: list[_T] = []
    for waiting, deadline in deadlines.items():
        if deadline > now:
            return late, deadline
        late.append(waiting)
    return late, None
