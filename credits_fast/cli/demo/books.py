"""What the demo itself remembers: every operation that was acknowledged, to be compared with the ledger.

These books are kept by the caller alone, from the results it was given. They know nothing of Redis
and SQL, which is what makes them evidence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from credits_fast.types import Kind

__all__ = ["CREATED", "Acknowledged", "Books", "created_id"]

CREATED: Final = "create-user"
"""The action of first credits, whose transaction id `create_user` does not tell."""

_ROWS_ENOUGH: Final = 10


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An operation that took effect.

    Attributes:
        user: Whose balance it changed.
        kind: What the ledger calls it.
        delta: Credits, signed.
    """

    user: str
    kind: Kind
    delta: Decimal


@dataclass(slots=True)
class Books:
    """What was acknowledged, replayed, refused, and left open.

    Attributes:
        entries: What took effect, by transaction id; first credits by `created_id` of the user.
        moves: How many changes of tier of each sort took effect.
        replays: How many calls of each kind were answered with the first result.
        refusals: How many calls were refused, by code.
        unknown: Transaction ids of calls that were never answered.
        again: Calls with a used key that took effect a second time; there must be none.
    """

    entries: dict[str, Acknowledged] = field(default_factory=dict[str, Acknowledged])
    moves: Counter[str] = field(default_factory=Counter[str])
    replays: Counter[str] = field(default_factory=Counter[str])
    refusals: Counter[str] = field(default_factory=Counter[str])
    unknown: set[str] = field(default_factory=set[str])
    again: list[str] = field(default_factory=list[str])

    def acknowledge(
        self, transaction_id: str, user: str, kind: Kind, delta: Decimal, *, replayed: bool = False
    ) -> None:
        """An operation was answered with a result."""
        self.entries.setdefault(transaction_id, Acknowledged(user, kind, delta))
        if replayed:
            self.replays[kind] += 1

    def count(self, kind: Kind) -> int:
        """How many operations of a kind took effect."""
        return sum(entry.kind == kind for entry in self.entries.values())

    def balances(self) -> dict[str, Decimal]:
        """What every user must have."""
        found: defaultdict[str, Decimal] = defaultdict(Decimal)
        for entry in self.entries.values():
            found[entry.user] += entry.delta
        return dict(found)

    def most_varied_user(self) -> str:
        """A user whose history is worth showing: of many kinds, neither empty nor long."""
        kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for entry in self.entries.values():
            kinds[entry.user][entry.kind] += 1

        def worth(user: str) -> tuple[int, int, int]:
            rows = kinds[user].total()
            return len(kinds[user]), min(rows, _ROWS_ENOUGH), -rows

        return max(kinds, key=worth, default="")


def created_id(user: str) -> str:
    """What stands for the transaction of a user's first credits."""
    return f"{CREATED}:{user}"
