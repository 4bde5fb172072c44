"""When the calls of an open loop begin: at a constant rate, whether or not earlier ones are answered.

A closed loop hides a pause: while nobody is answered, nobody asks. Here the calls of a pause begin all
the same, and each is timed from the moment it should have begun, so that waiting counts.
"""

from __future__ import annotations

__all__ = ["arrivals", "number_within"]


def arrivals(rate: float, number: int) -> list[float]:
    """Seconds from the start at which each call begins.

    Args:
        rate: Calls a second.
        number: How many.

    Raises:
        ValueError: The rate is not above 0.

    Example:
        >>> arrivals(10, 3)
        [0.0, 0.1, 0.2]
    """
    if not rate > 0:
        raise ValueError(f"a rate is above 0, not {rate}")
    return [position / rate for position in range(number)]


def number_within(rate: float, seconds: float, *, most: int) -> int:
    """How many calls begin within some seconds, at least one and at most so many."""
    return max(1, min(most, int(rate * seconds)))
