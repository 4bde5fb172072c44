"""Which recorded entries of a journal stay: those of the last while, and so many at most. Pure.

A restored database gets them once more. When they were recorded is known of those only that this worker
has recorded; whatever stood there before counts as recorded at the moment it began, so that the journal
is not cut short whenever another worker takes the partition over.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from credits_fast.protocol.entries import NOTHING_YET

__all__ = ["Retention"]


class _Recorded(NamedTuple):
    at_s: float
    last_id: str
    entries: int


class Retention:
    """What stays in the journal of one partition.

    Args:
        retain_ms: For how long a recorded entry stays.
        retain_max: How many stay at most.
        begun_s: When the worker began with the partition, by any clock in seconds.

    Example:
        >>> retention = Retention(retain_ms=1_000, retain_max=10, begun_s=0.0)
        >>> retention.record("1-4", 4, 0.5)
        >>> retention.find(4)
        >>> retention.keep_from(1.0), retention.keep_from(2.0)
        ('0-0', '1-4')
    """

    def __init__(self, *, retain_ms: int, retain_max: int, begun_s: float) -> None:
        self._retain_s: Final = retain_ms / 1_000
        self._retain_max: Final = retain_max
        self._recorded = deque([_Recorded(begun_s, NOTHING_YET, 0)])
        self._kept = self._first = 0
        self._is_found = False

    @property
    def is_found(self) -> bool:
        """Whether it is known how long the journal is; before that nothing is dropped."""
        return self._is_found

    def find(self, length: int) -> None:
        """Say how long the journal is: what was not recorded by this worker stood there before."""
        self._first = max(0, length - self._kept)
        self._kept += self._first
        self._is_found = True

    def record(self, last_id: str, entries: int, now_s: float) -> None:
        """Note that so many more entries are recorded, and the last of them."""
        self._recorded.append(_Recorded(now_s, last_id, entries))
        self._kept += entries

    def keep_from(self, now_s: float) -> str:
        """The first entry to keep; one before all others where none is to be dropped."""
        while self._is_found and len(self._recorded) > 1 and self._may_drop(now_s):
            self._recorded.popleft()
            self._kept -= self._first + self._recorded[0].entries - 1
            self._first = 1
        return self._recorded[0].last_id

    def _may_drop(self, now_s: float) -> bool:
        """Whether what stands before the end of the next batch has been there for long enough."""
        is_old = self._recorded[1].at_s <= now_s - self._retain_s
        return is_old or self._kept > self._retain_max
