"""What is left when everything has come to rest: the ledger's rows, both balances, positions over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Evidence", "Held", "JournalEnd", "PositionSample", "Row"]


class Row(NamedTuple):
    """A row of the ledger; amounts in micro-credits.

    Attributes:
        id: The transaction's id.
        user: Whose balance it changed.
        sequence: Its number among the user's transactions.
        kind: `charge`, `grant` or `refund`.
        delta: By how much, signed.
        before: The balance before it.
        after: The balance after it.
        key: The idempotency key, None for none.
        number: The number of the operation in its metadata, None where that is unreadable.
        reverses: The transaction that this one undoes, None where it undoes none.
        settles: Whether it stands for all that a recovery found to be in neither journal nor ledger.
    """

    id: str
    user: str
    sequence: int
    kind: str
    delta: int
    before: int
    after: int
    key: str | None
    number: int | None
    reverses: str | None = None
    settles: bool = False


class Held(NamedTuple):
    """What a store says of a user.

    Attributes:
        balance: The balance in micro-credits.
        sequence: The number of the user's last transaction.
    """

    balance: int
    sequence: int


class PositionSample(NamedTuple):
    """How far a partition was recorded at a moment, and who recorded it.

    Attributes:
        partition: The partition.
        epoch: The epoch of its journal.
        last: The last recorded entry, as epoch and sequence.
        fence: What the owner's commits compare.
        owner: Who carries it, None for nobody.
    """

    partition: int
    epoch: int
    last: tuple[int, int]
    fence: int
    owner: str | None


class JournalEnd(NamedTuple):
    """Where a partition's journal begins, and how far it is recorded; entries as epoch and sequence.

    Attributes:
        partition: The partition.
        first: The first entry that is still there, None for an empty journal.
        recorded: The last entry in the ledger, None where nothing was recorded.
    """

    partition: int
    first: tuple[int, int] | None
    recorded: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that was read after the run; amounts in micro-credits.

    Attributes:
        openings: What each user had before the run.
        rows: Every transaction of the ledger.
        ledger: What the ledger says each user has.
        redis: What the engine says each user has; a user that could not be asked is missing.
        redis_known: How many users Redis knew before it was asked; the others were cold.
        differing: Users that Redis and the ledger disagree about, each with what is wrong.
        samples: Positions over time, in the order they were looked at.
        journals: Where each journal begins.
        recorded_ms: Milliseconds after the last fault until the ledger had everything, None for never.
    """

    openings: Mapping[str, int]
    rows: Sequence[Row]
    ledger: Mapping[str, Held]
    redis: Mapping[str, Held]
    redis_known: int
    differing: Mapping[str, str] = field(default_factory=dict[str, str])
    samples: Sequence[PositionSample] = ()
    journals: Sequence[JournalEnd] = ()
    recorded_ms: float | None = None
