"""What is known of a charge and its refunds: the ledger's side, and the journal beyond it.

The ledger is read in one snapshot together with its position; whatever the journal holds after that
position is added. So the sum is right whether the worker is far behind or does not run at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from credits_fast.errors import DatabaseUnavailableError
from credits_fast.ledger.unrecorded import journal_after
from credits_fast.protocol.entries import TransactionItem

if TYPE_CHECKING:
    from credits_fast.ledger.records import Records
    from credits_fast.protocol.entries import Entry
    from credits_fast.protocol.wire import Operation
    from credits_fast.servers.lane import Lane

__all__ = ["KnownCharge", "known_charge"]

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
        entries = await journal_after(lane, operation.partition, row.last_id)
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
