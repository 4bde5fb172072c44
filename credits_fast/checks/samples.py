"""Samples summed up: the percentile that is one of them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["percentile"]


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that so many percent do not pass (nearest rank); 0 of none.

    Example:
        >>> percentile([10, 20, 30, 40], 50)
        20
    """
    if not samples:
        return 0.0
    rank = -(-len(samples) * percent // 100)
    return sorted(samples)[max(0, int(rank) - 1)]
