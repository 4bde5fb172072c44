"""What a worker has done since it started, counted: for those who watch it, never for itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from credits_fast.sync.rows import Batch

__all__ = ["BATCH_SIZES", "Tally"]

BATCH_SIZES: Final = (1, 4, 16, 64, 256, 1_024, 4_096)
"""The upper bounds of the sizes in which batches are counted, in decisions; the last ones are beyond."""


@dataclass(slots=True)
class Tally:
    """What was done so far.

    Attributes:
        entries: Journal entries recorded.
        transactions: Transactions recorded.
        refusals: Refusals found in recorded entries, by their code.
        batches: Batches recorded: consecutive entries of one partition.
        batch_sizes: How many of them had at most so many decisions, by `BATCH_SIZES`, and beyond.
        commits: Commits, each with the batches of one partition or of several.
        dead_letters: Items whose metadata could not be read, and that were kept as they came.
        forks: How often a journal did not continue the ledger.
        repairs: How many partitions were repaired after that.
        adopted: Transactions of their journals that the ledger had lacked.
        restored: Transactions of the ledger that their journals had lacked.
        evictions: How many idle accounts were dropped from Redis.
        reversals: How many transactions under a key that was used again were undone.
        stood_in: Charges of committed transactions whose hold was lost, made without it.
        errors: How often Redis or the database could not be reached, or a partition was set aside.
        last_error: The last of these, "" where there was none.
        last_error_s: When that was, in seconds since 1970; 0 where there was none.
        turned_s: When the worker last ended a step, well or not, by the monotonic clock in seconds;
            None before the first.
        is_failing: Whether that step failed for want of Redis or the database.

    Args:
        clock: Seconds since 1970; for tests.
    """

    clock: Callable[[], float] = time.time
    entries: int = 0
    transactions: int = 0
    refusals: Counter[str] = field(default_factory=Counter[str])
    batches: int = 0
    batch_sizes: list[int] = field(default_factory=lambda: [0] * (len(BATCH_SIZES) + 1))
    commits: int = 0
    dead_letters: int = 0
    forks: int = 0
    repairs: int = 0
    adopted: int = 0
    restored: int = 0
    evictions: int = 0
    reversals: int = 0
    stood_in: int = 0
    errors: int = 0
    last_error: str = ""
    last_error_s: float = 0.0
    turned_s: float | None = None
    is_failing: bool = False

    def commit(self, batches: Sequence[Batch]) -> None:
        """Count the batches of a commit."""
        self.commits += 1
        for batch in batches:
            refused = sum(batch.refusals.values())
            self.entries += batch.entries
            self.transactions += batch.items - refused
            self.refusals.update(batch.refusals)
            self.dead_letters += len(batch.dead_letters)
            self.batches += 1
            self.batch_sizes[_size(batch.items)] += 1

    def repair(self, *, adopted: int, restored: int) -> None:
        """Count a repair, and the transactions that only Redis, and only the ledger, had."""
        self.repairs += 1
        self.adopted += adopted
        self.restored += restored

    def turn(self, error: Exception | None = None) -> None:
        """Count the end of a step, and the error it ended with."""
        self.turned_s = time.monotonic()
        self.is_failing = error is not None
        if error is not None:
            self.fail(error)

    def fail(self, error: Exception | str) -> None:
        """Count an error."""
        self.errors += 1
        self.last_error = str(error)
        self.last_error_s = self.clock()


def _size(items: int) -> int:
    return sum(items > bound for bound in BATCH_SIZES)
