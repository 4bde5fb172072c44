"""What became of an operation whose answer was lost: asked of Redis, ledger and journal.

record in Redis ──▶ it took effect, and repeating it gives its result
row in the ledger, item in the journal beyond it ──▶ it took effect
neither ──▶ not so far: a request that is still in a server's buffers may be executed yet
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from credits_fast.errors import DatabaseUnavailableError, InvalidArgumentError, OutcomeUnknownError
from credits_fast.ledger.unrecorded import journal_after
from credits_fast.protocol.entries import HoldItem, TransactionItem

if TYPE_CHECKING:
    from credits_fast.calls.pending import Pending
    from credits_fast.ledger.records import Records
    from credits_fast.protocol.wire import Operation
    from credits_fast.servers.lane import Lane

__all__ = ["Effect", "effect_of", "may_be_repeated", "pending_of"]

_SNAPSHOTS_MAX: Final = 5
_CAUSES_MAX: Final = 20
_ATTEMPTS_LAST: Final = 2
"""How many deadlines the attempts of a repeated call may last, the last one's reply included."""


class Effect(NamedTuple):
    """What an operation has done so far.

    Attributes:
        transaction_id: The transaction or hold it is, or repeats; None where there is none.
        is_remembered: Whether Redis would answer it with its first result.
    """

    transaction_id: str | None
    is_remembered: bool


def pending_of(error: BaseException) -> Pending[Any]:
    """The operation that an error is about, or one of its causes.

    Raises:
        InvalidArgumentError: It is about none.
    """
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if isinstance(cause, OutcomeUnknownError) and cause.pending is not None:
            return cast("Pending[Any]", cause.pending)
        if cause is None:
            break
        cause = cause.__cause__ or cause.__context__
    raise InvalidArgumentError("error", "is not about an operation whose outcome is unknown")


def may_be_repeated(operation: Operation, deadline_ms: int) -> bool:
    """Whether Redis still remembers the operation when the last attempt to repeat it has ended.

    It is remembered from its execution on, which cannot have been before its id was made.
    """
    made_ms = int(operation.operation_id[:12], 16)
    age_ms = time.time_ns() // 1_000_000 - made_ms
    return age_ms + _ATTEMPTS_LAST * deadline_ms <= operation.ttl_ms


async def effect_of(records: Records, lane: Lane, operation: Operation) -> Effect:
    """What an operation has done so far.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
        RedisUnavailableError: Redis cannot be reached.
    """
    record: bytes | None = await lane.execute(b"GET", operation.record_key)
    if record is not None:
        fingerprint, transaction_id, *_ = record.split(b"\0")
        if fingerprint == operation.fingerprint:
            return Effect(transaction_id.decode(), is_remembered=True)
    partition, key = operation.partition.number, operation.key.decode()
    for _ in range(_SNAPSHOTS_MAX):
        last_id = await records.last_id(partition)
        remembered = await records.remembered(operation.user_id, key) if key else None
        if remembered is not None and remembered.fingerprint.encode() == operation.fingerprint:
            return Effect(remembered.transaction_id, is_remembered=False)
        entries = await journal_after(lane, operation.partition, last_id)
        if await records.known({operation.operation_id}):
            return Effect(operation.operation_id, is_remembered=False)
        if entries is None:
            continue  # recorded and trimmed meanwhile: the next look at the ledger finds it
        items = [item for entry in entries for item in entry.items]
        ids = {item.transaction_id for item in items if isinstance(item, TransactionItem)}
        ids |= {item.operation_id for item in items if isinstance(item, HoldItem)}
        found = operation.operation_id if operation.operation_id in ids else None
        return Effect(found, is_remembered=False)
    raise DatabaseUnavailableError("the ledger moves on faster than an operation can be looked up")
