"""Rounds of one measurement: their median, how far they lie apart, and ratios round by round.

Absolute figures move from one minute to the next on a shared machine. Two contestants measured one
right after the other meet the same machine, so a ratio is taken within a round, and the median over
the rounds is taken last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

__all__ = ["Spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """What the rounds of a measurement gave, at least one.

    Attributes:
        rounds: One value a round, in their order.

    Example:
        >>> Spread((4.0, 9.0, 5.0)).over(Spread((2.0, 3.0, 5.0))).median
        2.0
    """

    rounds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rounds:
            raise ValueError("a measurement has at least one round")

    @property
    def median(self) -> float:
        """The value in the middle."""
        return median(self.rounds)

    @property
    def minimum(self) -> float:
        """The smallest value."""
        return min(self.rounds)

    @property
    def maximum(self) -> float:
        """The largest value."""
        return max(self.rounds)

    def over(self, other: Spread) -> Spread:
        """The ratio to another measurement, round by round.

        Raises:
            ValueError: The two do not have equally many rounds, so they were not measured together.
        """
        return Spread(tuple(a / b for a, b in zip(self.rounds, other.rounds, strict=True)))

    def map(self, function: Callable[[float], float]) -> Spread:
        """Every round put through a function."""
        return Spread(tuple(map(function, self.rounds)))

    def best(self, other: Spread) -> Spread:
        """The larger of two measurements, round by round."""
        return Spread(tuple(map(max, self.rounds, other.rounds)))
