"""The statements of a commit on PostgreSQL: their number does not depend on what is written.

Rows go by COPY straight into their tables; positions, balances and memberships are moved by one UPDATE
each, from arrays. Nothing is bound to a session, so a pooler between the two may hand the connection on
with every transaction.

Records of keys are copied as well, under a savepoint: only where one of the keys is known already, which
is rare, are they inserted one by one as PostgreSQL goes along, for COPY knows no ON CONFLICT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from credits_fast.sync import copy_text
from credits_fast.sync.bulk import RowsRefusedError, copy_rows
from credits_fast.sync.rows import COLUMNS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from credits_fast.sync.rows import AccountStep, Batch, HeldStep, HoldRow

__all__ = [
    "ENCODERS",
    "change_tiers",
    "insert",
    "move_held",
    "move_holds",
    "move_partitions",
    "move_users",
    "remember",
]

ENCODERS: Final = copy_text.ENCODERS

_MOVE_PARTITIONS: Final = text(
    """
    UPDATE sync_partitions AS known
       SET last_id = new.last_id, last_stamp = new.last_stamp, updated_at = CURRENT_TIMESTAMP
      FROM unnest(
               CAST(:partitions AS integer[]),
               CAST(:fences AS bigint[]),
               CAST(:previous AS text[]),
               CAST(:last AS text[]),
               CAST(:stamps AS text[])
           ) AS new (partition, fence, previous, last_id, last_stamp)
     WHERE known.partition = new.partition
       AND known.fence = new.fence
       AND known.last_id = new.previous
    """,
)
_MOVE_USERS: Final = text(
    """
    UPDATE users
       SET credits = step.balance * 0.000001, sequence = step.last, updated_at = step.moment
      FROM unnest(
               CAST(:users AS text[]),
               CAST(:previous AS bigint[]),
               CAST(:balances_before AS bigint[]),
               CAST(:last AS bigint[]),
               CAST(:balances AS bigint[]),
               CAST(:moments AS timestamptz[])
           ) AS step (id, previous, balance_before, last, balance, moment)
     WHERE users.id = step.id
       AND users.sequence = step.previous
       AND users.credits = step.balance_before * 0.000001
    """,
)
_MOVE_HELD: Final = text(
    """
    UPDATE users
       SET reserved = step.after * 0.000001
      FROM unnest(
               CAST(:users AS text[]),
               CAST(:before AS bigint[]),
               CAST(:after AS bigint[])
           ) AS step (id, before, after)
     WHERE users.id = step.id
       AND users.reserved = step.before * 0.000001
    """,
)
_MOVE_HOLDS: Final = text(
    """
    UPDATE holds
       SET state = step.state,
           amount = step.amount * 0.000001,
           reserved = step.reserved * 0.000001,
           captured = step.captured * 0.000001,
           expires_at = step.expires_at,
           finished_at = step.finished_at
      FROM unnest(
               CAST(:holds AS text[]),
               CAST(:reserved_before AS bigint[]),
               CAST(:captured_before AS bigint[]),
               CAST(:states AS text[]),
               CAST(:amounts AS bigint[]),
               CAST(:reserved AS bigint[]),
               CAST(:captured AS bigint[]),
               CAST(:expiries AS timestamptz[]),
               CAST(:ends AS timestamptz[])
           ) AS step (
               id, reserved_before, captured_before, state, amount, reserved, captured,
               expires_at, finished_at
           )
     WHERE holds.id = step.id
       AND holds.state = 'reserved'
       AND holds.reserved = step.reserved_before * 0.000001
       AND holds.captured = step.captured_before * 0.000001
    """,
)
_CHANGE_TIERS: Final = text(
    """
    UPDATE users
       SET membership_tier = step.tier, membership_expires_at = step.expires_at
      FROM unnest(
               CAST(:users AS text[]),
               CAST(:tiers AS text[]),
               CAST(:expiries AS timestamptz[])
           ) AS step (id, tier, expires_at)
     WHERE users.id = step.id
    """,
)
_REMEMBER: Final = text(
    """
    INSERT INTO idempotency_records AS known
           (user_id, key, fingerprint, transaction_id, result, created_at, expires_at)
    SELECT user_id, key, fingerprint, transaction_id, CAST(result AS jsonb), created_at, expires_at
      FROM unnest(
               CAST(:user_id AS text[]),
               CAST(:key AS text[]),
               CAST(:fingerprint AS text[]),
               CAST(:transaction_id AS text[]),
               CAST(:result AS text[]),
               CAST(:created_at AS timestamptz[]),
               CAST(:expires_at AS timestamptz[])
           ) AS new (user_id, key, fingerprint, transaction_id, result, created_at, expires_at)
    ON CONFLICT (user_id, key) DO UPDATE
       SET fingerprint = excluded.fingerprint,
           transaction_id = excluded.transaction_id,
           result = excluded.result,
           created_at = excluded.created_at,
           expires_at = excluded.expires_at
     WHERE known.expires_at < excluded.created_at
    """,
)


async def move_partitions(connection: AsyncConnection, batches: Sequence[Batch]) -> int:
    """How many partitions were where their batch begins and ours; they are where it ends now."""
    ends = [batch.ends for batch in batches]
    moved = await connection.execute(
        _MOVE_PARTITIONS,
        {
            "partitions": [batch.partition for batch in batches],
            "fences": [batch.fence for batch in batches],
            "previous": [batch.follows[0] for batch in batches],
            "last": [last_id for last_id, _ in ends],
            "stamps": [last_stamp for _, last_stamp in ends],
        },
    )
    return moved.rowcount


async def move_users(connection: AsyncConnection, steps: Mapping[str, AccountStep]) -> int:
    """How many users were where their step begins; they are where it ends now.

    In the order of their ids, so that writers of the same rows wait for each other, not for ever.
    """
    names = sorted(steps)
    ordered = [steps[name] for name in names]
    moved = await connection.execute(
        _MOVE_USERS,
        {
            "users": names,
            "previous": [step.first_sequence - 1 for step in ordered],
            "balances_before": [step.balance_before for step in ordered],
            "last": [step.sequence for step in ordered],
            "balances": [step.balance for step in ordered],
            "moments": [step.updated_at for step in ordered],
        },
    )
    return moved.rowcount


async def move_held(connection: AsyncConnection, steps: Mapping[str, HeldStep]) -> int:
    """How many users had reserved what their step begins with; they have what it ends with now."""
    names = sorted(steps)
    moved = await connection.execute(
        _MOVE_HELD,
        {
            "users": names,
            "before": [steps[name].before for name in names],
            "after": [steps[name].after for name in names],
        },
    )
    return moved.rowcount


async def move_holds(
    connection: AsyncConnection, moves: Sequence[tuple[tuple[int, int], HoldRow]]
) -> int:
    """How many holds were open and where their step begins; they are where it ends now."""
    ordered = sorted(moves, key=lambda move: move[1].id)
    rows = [row for _, row in ordered]
    moved = await connection.execute(
        _MOVE_HOLDS,
        {
            "holds": [row.id for row in rows],
            "reserved_before": [reserved for (reserved, _), _ in ordered],
            "captured_before": [captured for (_, captured), _ in ordered],
            "states": [row.state for row in rows],
            "amounts": [row.amount for row in rows],
            "reserved": [row.reserved for row in rows],
            "captured": [row.captured for row in rows],
            "expiries": [row.expires_at for row in rows],
            "ends": [row.finished_at for row in rows],
        },
    )
    return moved.rowcount


async def change_tiers(connection: AsyncConnection, steps: Mapping[str, AccountStep]) -> None:
    """Write the memberships of users whose tier has changed."""
    names = sorted(steps)
    await connection.execute(
        _CHANGE_TIERS,
        {
            "users": names,
            "tiers": [steps[name].tier for name in names],
            "expiries": [steps[name].expires_at for name in names],
        },
    )


async def insert(connection: AsyncConnection, table: str, pieces: Iterable[bytes]) -> None:
    """Insert the rows of several batches.

    Raises:
        RowsRefusedError: The database refuses a row.
        DatabaseUnavailableError: The database cannot be reached.
    """
    await copy_rows(connection, table, COLUMNS[table], pieces)


async def remember(connection: AsyncConnection, batches: Sequence[Batch]) -> int:
    """How many records of keys were written: an expired one gives way, one that holds stays.

    Raises:
        RowsRefusedError: The database refuses a row.
        DatabaseUnavailableError: The database cannot be reached.
    """
    table = "idempotency_records"
    try:
        async with connection.begin_nested():
            pieces = [piece for batch in batches for piece in batch.encoded.get(table, ())]
            await insert(connection, table, pieces)
    except RowsRefusedError:
        return await _remember_beside_others(connection, batches)
    return sum(len(batch.records) for batch in batches)


async def _remember_beside_others(connection: AsyncConnection, batches: Sequence[Batch]) -> int:
    records = [record for batch in batches for record in batch.records.values()]
    columns = zip(*records, strict=True)
    values = dict(zip(COLUMNS["idempotency_records"], map(list, columns), strict=True))
    return (await connection.execute(_REMEMBER, values)).rowcount
