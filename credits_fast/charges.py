"""What is known of a charge and its refunds: the ledger's side, and the journal beyond it.

The ledger is read in one snapshot together with its position; whatever the journal holds after that
position is added. So the sum is right whether the worker is far behind or does not run at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from credits_fast.entries import NOTHING_YET, TransactionItem, decode
from credits_fast.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from credits_fast.entries import Entry
    from credits_fast.lane import Lane
    from credits_fast.records import Records
    from credits_fast.wire import Operation

__all__ = ["KnownCharge", "journal_after", "known_charge"]

_PAGE: Final = 1_000
_SNAPSHOTS_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class KnownCharge:
    """A charge, in micro-credits."""

    charged: int
    refunded: int


async def known_charge(
    records: Records,
    lane: Lane,
    operation: Operation,
    transaction_id: str,
) -> KnownCharge | None:
    """The charge a refund names and what has been given back of it, None where there is none.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
        RedisUnavailableError: Redis cannot be reached.
    """
    for _ in range(_SNAPSHOTS_MAX):
        row = await records.charge(operation.user_id, transaction_id, operation.partition.number)
        entries = await journal_after(lane, operation, row.last_id)
        if entries is None:
            continue  # recorded and trimmed meanwhile: a new snapshot has it
        charged, refunded = row.charged, row.refunded
        for item in _items_about(entries, operation.user_id, transaction_id):
            if item.kind == "charge":
                charged = -item.delta
            else:
                refunded += item.delta
        return None if charged is None else KnownCharge(charged, refunded)
    raise DatabaseUnavailableError("the ledger moves on faster than a charge can be looked up")


async def journal_after(lane: Lane, operation: Operation, last_id: str) -> list[Entry] | None:
    """The journal of an operation's partition after an entry, None where that entry is gone."""
    entries: list[Entry] = []
    start = last_id.encode()
    while True:
        page = await lane.execute(
            b"XRANGE",
            operation.partition.journal,
            start,
            b"+",
            b"COUNT",
            b"%d" % _PAGE,
        )
        if not entries and last_id != NOTHING_YET:
            if not page or page[0][0] != start:
                return None
            page = page[1:]
        entries += (decode(entry_id, fields) for entry_id, fields in page)
        if len(page) < _PAGE - 1:
            return entries
        start = b"(" + page[-1][0]


def _items_about(entries: list[Entry], user_id: str, transaction_id: str) -> list[TransactionItem]:
    """The charge itself, and the refunds that name it."""
    items = (item for entry in entries for item in entry.items)
    transactions = (item for item in items if isinstance(item, TransactionItem))
    return [
        item
        for item in transactions
        if item.user_id == user_id
        and (
            (item.kind == "charge" and item.transaction_id == transaction_id)
            or (item.kind == "refund" and item.extra == transaction_id)
        )
    ]
