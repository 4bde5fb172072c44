"""What became of a hold that is not open: the ledger's side, and the journal beyond it.

Redis keeps open holds only. The ledger is read in one snapshot together with its position; whatever the
journal says of the hold after that position counts more.

The capture that finishes a hold has no record of its own in Redis. Where its answer was lost, journal and
ledger tell it once more; the journal first, which is enough while the database cannot be reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from credits_fast.errors import DatabaseUnavailableError
from credits_fast.ledger.unrecorded import journal_after
from credits_fast.protocol.entries import (
    NOTHING_YET,
    HoldFacts,
    RefusedItem,
    TransactionItem,
)
from credits_fast.protocol.hold_wire import captured_before, price_of
from credits_fast.protocol.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from credits_fast.ledger.records import Records
    from credits_fast.prices.pricing import Quote
    from credits_fast.protocol.entries import Entry
    from credits_fast.protocol.wire import Operation
    from credits_fast.servers.lane import Lane

__all__ = ["finished_hold", "first_reply", "hold_state"]

_SNAPSHOTS_MAX: Final = 5
_CODES: Final = {
    "expired": "hold_expired",
    "captured": "hold_finished",
    "released": "hold_finished",
}


async def hold_state(
    records: Records, lane: Lane, operation: Operation, hold_id: str
) -> str | None:
    """What the hold is, in the words of the ledger; None where the user has no such hold.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
        RedisUnavailableError: Redis cannot be reached.
    """
    for _ in range(_SNAPSHOTS_MAX):
        row = await records.hold(operation.user_id, hold_id, operation.partition.number)
        entries = await journal_after(lane, operation.partition, row.last_id)
        if entries is None:
            continue  # recorded and trimmed meanwhile: a new snapshot has it
        state = row.state
        for hold in _holds_of(entries, operation.user_id):
            if hold.hold_id == hold_id:
                state = hold.state
        return state
    raise DatabaseUnavailableError("the ledger moves on faster than a hold can be looked up")


async def first_reply(
    records: Records, lane: Lane, operation: Operation, hold_id: str, quote: Quote
) -> bytes | None:
    """What a capture was told that has finished its hold, as a reply; None where it has not.

    Args:
        records: The ledger's side.
        lane: Leads to the partition of the operation.
        operation: The capture.
        hold_id: Its hold.
        quote: Its price.

    Raises:
        DatabaseUnavailableError: The journal does not tell, and the database cannot be reached.
        RedisUnavailableError: Redis cannot be reached.
    """
    partition = operation.partition
    for _ in range(_SNAPSHOTS_MAX):
        synced = await lane.execute(b"HGET", partition.meta, b"synced")
        entries = await journal_after(lane, partition, synced.decode() if synced else NOTHING_YET)
        if entries is None:
            continue  # trimmed meanwhile, up to a later one
        for item in (item for entry in entries for item in entry.items):
            if (
                isinstance(item, TransactionItem)
                and item.transaction_id == operation.operation_id
                and item.hold is not None
            ):
                return captured_before(operation, -item.delta, item.balance_after, item.hold.price)
        # What is not behind `synced` is in the ledger, or was not executed before the journal was read.
        row = await records.capture(operation.operation_id, hold_id)
        if row is None:
            return None
        price = price_of(quote, row.tier.encode(), row.cost)
        return captured_before(operation, row.cost, row.balance_after, price)
    raise DatabaseUnavailableError("the ledger moves on faster than a capture can be looked up")


def finished_hold(operation: Operation, hold_id: str, state: str | None) -> Refusal:
    """The refusal of an operation whose hold is in this state, None for a hold that was never there."""
    return Refusal(
        code=_CODES.get(state or "", "hold_not_found"),
        user_id=operation.user_id,
        key=operation.key.decode(),
        subject="",
        related="",
        details=(hold_id, state or "", ""),
    )


def _holds_of(entries: Iterable[Entry], user_id: str) -> Iterator[HoldFacts]:
    """What the entries say of holds of a user, in their order."""
    items = (item for entry in entries for item in entry.items)
    for item in items:
        if isinstance(item, RefusedItem) or item.user_id != user_id or item.hold is None:
            continue
        yield item.hold
