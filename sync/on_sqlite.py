"""The statements of a commit on SQLite: one prepared statement a table, executed for row after row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

from credits_fast.sync import parameters
from credits_fast.sync.parameters import Parameters, decimal_text, moment_text
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

ENCODERS: Final = parameters.ENCODERS


def _insert_into(table: str, columns: Sequence[str]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    places = ", ".join("?" * len(columns))
    return f'INSERT INTO "{table}" ({names}) VALUES ({places})'  # noqa: S608  # names of our own


_INSERT: Final = {table: _insert_into(table, columns) for table, columns in COLUMNS.items()}
_MOVE_PARTITION: Final = """
    UPDATE sync_partitions
       SET last_id = ?, last_stamp = ?, updated_at = CURRENT_TIMESTAMP
     WHERE partition = ? AND fence = ? AND last_id = ?
"""
_MOVE_USER: Final = """
    UPDATE users
       SET credits = ?, sequence = ?, updated_at = ?
     WHERE id = ? AND sequence = ? AND credits = ?
"""
_MOVE_HELD: Final = """
    UPDATE users SET reserved = ? WHERE id = ? AND reserved = ?
"""
_MOVE_HOLD: Final = """
    UPDATE holds
       SET state = ?, amount = ?, reserved = ?, captured = ?, expires_at = ?, finished_at = ?
     WHERE id = ? AND state = 'reserved' AND reserved = ? AND captured = ?
"""
_CHANGE_TIER: Final = """
    UPDATE users SET membership_tier = ?, membership_expires_at = ? WHERE id = ?
"""
_REMEMBER: Final = (
    _INSERT["idempotency_records"]
    + """
    ON CONFLICT (user_id, key) DO UPDATE
       SET fingerprint = excluded.fingerprint,
           transaction_id = excluded.transaction_id,
           result = excluded.result,
           created_at = excluded.created_at,
           expires_at = excluded.expires_at
     WHERE idempotency_records.expires_at < excluded.created_at
"""
)


async def move_partitions(connection: AsyncConnection, batches: Sequence[Batch]) -> int:
    """How many partitions were where their batch begins and ours; they are where it ends now."""
    values = [(*batch.ends, batch.partition, batch.fence, batch.follows[0]) for batch in batches]
    return (await connection.exec_driver_sql(_MOVE_PARTITION, values)).rowcount


async def move_users(connection: AsyncConnection, steps: Mapping[str, AccountStep]) -> int:
    """How many users were where their step begins; they are where it ends now."""
    values = [
        (
            decimal_text(step.balance),
            step.sequence,
            moment_text(step.updated_at),
            user,
            step.first_sequence - 1,
            decimal_text(step.balance_before),
        )
        for user, step in steps.items()
    ]
    return (await connection.exec_driver_sql(_MOVE_USER, values)).rowcount


async def move_held(connection: AsyncConnection, steps: Mapping[str, HeldStep]) -> int:
    """How many users had reserved what their step begins with; they have what it ends with now."""
    values = [
        (decimal_text(step.after), user, decimal_text(step.before)) for user, step in steps.items()
    ]
    return (await connection.exec_driver_sql(_MOVE_HELD, values)).rowcount


async def move_holds(
    connection: AsyncConnection, moves: Sequence[tuple[tuple[int, int], HoldRow]]
) -> int:
    """How many holds were open and where their step begins; they are where it ends now."""
    values = [
        (
            row.state,
            *map(decimal_text, (row.amount, row.reserved, row.captured)),
            moment_text(row.expires_at),
            None if row.finished_at is None else moment_text(row.finished_at),
            row.id,
            *map(decimal_text, before),
        )
        for before, row in moves
    ]
    return (await connection.exec_driver_sql(_MOVE_HOLD, values)).rowcount


async def change_tiers(connection: AsyncConnection, steps: Mapping[str, AccountStep]) -> None:
    """Write the memberships of users whose tier has changed."""
    values = [
        (step.tier, None if step.expires_at is None else moment_text(step.expires_at), user)
        for user, step in steps.items()
    ]
    await connection.exec_driver_sql(_CHANGE_TIER, values)


async def insert(connection: AsyncConnection, table: str, pieces: Iterable[Parameters]) -> None:
    """Insert the rows of several batches."""
    await connection.exec_driver_sql(_INSERT[table], [*chain.from_iterable(pieces)])


async def remember(connection: AsyncConnection, batches: Sequence[Batch]) -> int:
    """How many records of keys were written: an expired one gives way, one that holds stays."""
    table = "idempotency_records"
    pieces = [piece for batch in batches for piece in batch.encoded.get(table, ())]
    rows = [*chain.from_iterable(pieces)]
    return (await connection.exec_driver_sql(_REMEMBER, rows)).rowcount
