"""What became of a hold that is not open: the ledger's side, and the journal beyond it.

Redis keeps open holds only. The ledger is read in one snapshot together with its position; whatever the
journal says of the hold after that position counts more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from credits_fast.errors import DatabaseUnavailableError
from credits_fast.ledger.unrecorded import journal_after
from credits_fast.protocol.entries import HoldFacts, RefusedItem
from credits_fast.protocol.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from credits_fast.ledger.records import Records
    from credits_fast.protocol.entries import Entry
    from credits_fast.protocol.wire import Operation
    from credits_fast.servers.lane import Lane

__all__ = ["finished_hold", "hold_state"]

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
