"""How much to carry at once: little where little waits, more while behind, within a bound. Pure.

A small batch is recorded soon and keeps the program it runs in responsive; a large one costs less a
decision. So each partition's batches double while a read finds more than it asked for, and shrink
again when it does not. What all of them carry in one commit is bounded, and shared fairly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credits_fast.sync.rows import Batch

__all__ = ["COMMIT_ITEMS_MAX", "ITEM_BYTES_MAX", "Pace", "shares"]

COMMIT_ITEMS_MAX: Final = 8_000
"""Decisions of all partitions in one commit; beyond some thousands a larger one is not cheaper."""
ITEM_BYTES_MAX: Final = 2_048
"""Bytes of journal a decision may have on average; where they have more, a batch has fewer of them. So
a commit is made of 16 MB of journal at most."""

_ITEMS_MIN: Final = 256
_ENTRY_ITEMS: Final = 16
"""How many items an entry is thought to have before any was seen."""


@dataclass(slots=True)
class Pace:
    """How fast one partition is carried.

    Attributes:
        most: Decisions in a batch at most.
        items: Decisions in the next batch at most.
        is_behind: Whether more waited than was asked for.
    """

    most: int
    items: int = 0
    is_behind: bool = False
    entry_items: float = _ENTRY_ITEMS
    entry_bytes: float = 1.0

    def __post_init__(self) -> None:
        self.items = self.least

    @property
    def least(self) -> int:
        """Decisions in a batch at most while nothing waits."""
        return min(_ITEMS_MIN, self.most)

    def entries(self, items: int) -> int:
        """How many entries to read for so many decisions, going by what entries were like last time."""
        return max(1, int(items / max(self.entry_items, self.entry_bytes / ITEM_BYTES_MAX)))

    def learn(self, batch: Batch, *, more_waits: bool) -> None:
        """Go by what has just been read."""
        if batch.entries:
            self.entry_items = max(1.0, batch.items / batch.entries)
            self.entry_bytes = max(1.0, batch.bytes / batch.entries)
        self.is_behind = more_waits
        wanted = 2 * self.items if more_waits else self.items // 2
        self.items = min(self.most, max(self.least, wanted))


def shares(wanted: Sequence[int], total: int) -> list[int]:
    """So much of what is wanted as the total allows: the small ones whole, the rest in equal parts.

    Example:
        >>> shares([10, 500, 2_000], 1_000)
        [10, 495, 495]
    """
    granted = [0] * len(wanted)
    left, waiting = total, len(wanted)
    for index in sorted(range(len(wanted)), key=wanted.__getitem__):
        granted[index] = min(wanted[index], max(1, left // waiting))
        left -= granted[index]
        waiting -= 1
    return granted
