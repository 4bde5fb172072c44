"""The SQL side of the worker: batches become rows in one commit, and the position moves with them.

Writing twice is writing once: the position of each partition is compared and set in the same commit
(`fence` and `last_id`), so that a batch that was written already, or by a worker whose lease has gone
to another, changes nothing. The balances are moved only from exactly where the batch begins: every
user's sequence and balance must be what the journal says came before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, select, text, tuple_, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DataError, IntegrityError

from credits_fast.amounts import to_credits
from credits_fast.database import writing
from credits_fast.json_text import JsonText
from credits_fast.sync.bulk import RowsRefusedError, decimal_text, insert_rows
from credits_fast.sync.rows import ChainBrokenError, IdempotencyRow
from credits_fast.sync.tables import (
    audit_logs,
    dead_letters,
    idempotency_records,
    sync_partitions,
    transactions,
    users,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from credits_fast.sync.lease import Claim
    from credits_fast.sync.rows import AccountStep, Batch

__all__ = ["Ledger", "LedgerRefusedError", "PositionLostError"]

_log = logging.getLogger(__name__)

_TRANSACTION_COLUMNS: Final = (
    "id",
    "user_id",
    "sequence",
    "kind",
    "action",
    "amount",
    "balance_before",
    "balance_after",
    "metadata",
    "idempotency_key",
    "related_id",
    "entry_epoch",
    "entry_sequence",
    "entry_item",
    "created_at",
    "partition",
)
_AUDIT_COLUMNS: Final = (
    "user_id",
    "action",
    "status",
    "metadata",
    "error_code",
    "error_message",
    "transaction_id",
    "created_at",
)
_DEAD_LETTER_COLUMNS: Final = (
    "entry_id",
    "entry_item",
    "user_id",
    "transaction_id",
    "raw",
    "error",
    "created_at",
)
_SHOWN_MAX: Final = 5
_EXPIRED_MAX: Final = 5_000


class PositionLostError(Exception):
    """A partition's position is not where this worker left it: another one owns it now."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(f"partition {partition} belongs to another worker now")


class LedgerRefusedError(Exception):
    """The database refuses rows of a batch, which the scripts cannot have written like this."""


class Ledger:
    """The ledger as the worker writes it."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database

    async def write(self, work: Sequence[tuple[Claim, Batch]]) -> None:
        """Write the batches of several partitions in one commit, or nothing.

        Raises:
            PositionLostError: One of the partitions is not ours, or not where we left it.
            ChainBrokenError: A balance or sequence in the ledger is not what came before a batch.
            LedgerRefusedError: The database refuses a row.
            DatabaseUnavailableError: The database cannot be reached.
        """
        try:
            async with writing(self._database) as connection:
                for claim, batch in work:
                    await _move(connection, claim, batch)
                batches = [batch for _, batch in work]
                await self._update_users(connection, batches)
                await self._insert(connection, batches)
                await self._remember(connection, batches)
        except RowsRefusedError as error:
            raise LedgerRefusedError(str(error)) from error
        except (IntegrityError, DataError) as error:
            raise LedgerRefusedError(str(error.orig).strip()) from error

    async def forget_expired(self, now: datetime) -> int:
        """How many idempotency records were deleted: those that had expired, a bounded number."""
        columns = idempotency_records.c
        expired = (
            select(columns.user_id, columns.key).where(columns.expires_at < now).limit(_EXPIRED_MAX)
        )
        async with writing(self._database) as connection:
            done = await connection.execute(
                delete(idempotency_records).where(
                    tuple_(columns.user_id, columns.key).in_(expired),
                    columns.expires_at < now,
                ),
            )
        return done.rowcount

    async def _update_users(self, connection: AsyncConnection, batches: Sequence[Batch]) -> None:
        steps = {user: step for batch in batches for user, step in batch.accounts.items()}
        if not steps:
            return
        if connection.dialect.name == "postgresql":
            moved = await _move_users_at_once(connection, steps)
        else:
            moved = await _move_users(connection, steps)
        if moved != len(steps):
            raise ChainBrokenError(await _misfits(connection, steps))
        changed = [
            {"user": user, "tier": step.tier, "expires_at": step.expires_at}
            for user, step in steps.items()
            if step.tier is not None
        ]
        if changed:
            await connection.execute(_SET_MEMBERSHIP, changed)

    async def _insert(self, connection: AsyncConnection, batches: Sequence[Batch]) -> None:
        ledger_rows = [(*row, batch.partition) for batch in batches for row in batch.transactions]
        await insert_rows(connection, transactions, _TRANSACTION_COLUMNS, ledger_rows)
        audit_rows = [row for batch in batches for row in batch.audit]
        await insert_rows(connection, audit_logs, _AUDIT_COLUMNS, audit_rows)
        letters = [
            {**dict(zip(_DEAD_LETTER_COLUMNS, row, strict=True)), "partition": batch.partition}
            for batch in batches
            for row in batch.dead_letters
        ]
        if letters:
            await connection.execute(dead_letters.insert(), letters)
            _log.error(
                "%d items with unreadable metadata were set aside in dead_letters", len(letters)
            )

    async def _remember(self, connection: AsyncConnection, batches: Sequence[Batch]) -> None:
        """One record a key; an expired one gives way, one that still holds stays."""
        records = [record for batch in batches for record in batch.records.values()]
        if not records:
            return
        if connection.dialect.name == "postgresql":
            columns = zip(*records, strict=True)
            values = dict(zip(IdempotencyRow._fields, map(list, columns), strict=True))
            done = await connection.execute(_REMEMBER_AT_ONCE, values)
        else:
            rows = [{**row._asdict(), "result": JsonText(row.result)} for row in records]
            done = await connection.execute(_REMEMBER, rows)
        if done.rowcount < len(records):
            late = len(records) - done.rowcount
            _log.error("%d idempotency keys were used again while the ledger remembers them", late)


_SET_MEMBERSHIP: Final = (
    update(users)
    .where(users.c.id == bindparam("user"))
    .values(membership_tier=bindparam("tier"), membership_expires_at=bindparam("expires_at"))
)
_MOVE_USER: Final = (
    update(users)
    .where(
        users.c.id == bindparam("user"),
        users.c.sequence == bindparam("previous"),
        users.c.credits == bindparam("balance_before"),
    )
    .values(
        credits=bindparam("balance"),
        sequence=bindparam("last"),
        updated_at=bindparam("moment"),
    )
)
_MOVE_USERS_AT_ONCE: Final = text(
    """
    UPDATE users
       SET credits = step.balance, sequence = step.last, updated_at = step.moment
      FROM unnest(
               CAST(:users AS text[]),
               CAST(:previous AS bigint[]),
               CAST(CAST(:balances_before AS text[]) AS numeric[]),
               CAST(:last AS bigint[]),
               CAST(CAST(:balances AS text[]) AS numeric[]),
               CAST(:moments AS timestamptz[])
           ) AS step (id, previous, balance_before, last, balance, moment)
     WHERE users.id = step.id
       AND users.sequence = step.previous
       AND users.credits = step.balance_before
    """,
)


_INSERT_RECORD: Final = sqlite_insert(idempotency_records)
_REMEMBER: Final = _INSERT_RECORD.on_conflict_do_update(
    index_elements=["user_id", "key"],
    set_={
        name: _INSERT_RECORD.excluded[name]
        for name in ("fingerprint", "transaction_id", "result", "created_at", "expires_at")
    },
    where=idempotency_records.c.expires_at < _INSERT_RECORD.excluded.created_at,
)
_REMEMBER_AT_ONCE: Final = text(
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


async def _move(connection: AsyncConnection, claim: Claim, batch: Batch) -> None:
    """The position, compared and set: the first statement, so that a lost one costs nothing."""
    columns = sync_partitions.c
    moved = await connection.execute(
        update(sync_partitions)
        .where(
            columns.partition == batch.partition,
            columns.fence == claim.fence,
            columns.last_id == claim.last_id,
        )
        .values(
            last_id=batch.last_id,
            last_stamp=batch.last_stamp,
            updated_at=text("CURRENT_TIMESTAMP"),
        ),
    )
    if moved.rowcount != 1:
        raise PositionLostError(batch.partition)


async def _move_users_at_once(
    connection: AsyncConnection,
    steps: Mapping[str, AccountStep],
) -> int:
    """How many users were where their step begins.

    In the order of their ids, so that writers of the same rows wait for each other, not for ever.
    """
    ordered = sorted(steps.items())
    moved = await connection.execute(
        _MOVE_USERS_AT_ONCE,
        {
            "users": [user for user, _ in ordered],
            "previous": [step.first_sequence - 1 for _, step in ordered],
            "balances_before": [decimal_text(step.balance_before) for _, step in ordered],
            "last": [step.sequence for _, step in ordered],
            "balances": [decimal_text(step.balance) for _, step in ordered],
            "moments": [step.updated_at for _, step in ordered],
        },
    )
    return moved.rowcount


async def _move_users(connection: AsyncConnection, steps: Mapping[str, AccountStep]) -> int:
    values: list[dict[str, Any]] = [
        {
            "user": user,
            "previous": step.first_sequence - 1,
            "balance_before": to_credits(step.balance_before),
            "balance": to_credits(step.balance),
            "last": step.sequence,
            "moment": step.updated_at,
        }
        for user, step in steps.items()
    ]
    return (await connection.execute(_MOVE_USER, values)).rowcount


async def _misfits(connection: AsyncConnection, steps: Mapping[str, AccountStep]) -> str:
    """Which users were not where their step begins: those that are not where it ends."""
    columns = users.c
    query = select(columns.id, columns.sequence, columns.credits).where(columns.id.in_([*steps]))
    found = {row.id: (row.sequence, row.credits) for row in await connection.execute(query)}
    misfits = [
        f"user {user!r} is at {found.get(user, 'nowhere')}, the journal goes on from sequence "
        f"{step.first_sequence - 1} and {decimal_text(step.balance_before)}"
        for user, step in steps.items()
        if found.get(user) != (step.sequence, to_credits(step.balance))
    ]
    more = f" and {len(misfits) - _SHOWN_MAX} more" if len(misfits) > _SHOWN_MAX else ""
    return "; ".join(misfits[:_SHOWN_MAX]) + more
