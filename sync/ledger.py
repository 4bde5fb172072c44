"""The SQL side of the worker: batches become rows in one commit, and the position moves with them.

Writing twice is writing once: the position of each partition is compared and set in the same commit
(`fence` and `last_id`), so that a batch that was written already, or that was read before the partition
was taken from its worker, changes nothing. Balances and holds are moved only from exactly where the
batch begins: every user's sequence, balance and reserved credits, and what every hold keeps, must be
what the journal says came before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, func, insert, select, tuple_, update
from sqlalchemy.exc import DataError, IntegrityError

from credits_fast.amounts import to_credits
from credits_fast.ledger.database import writing
from credits_fast.sync import on_postgresql, on_sqlite
from credits_fast.sync.bulk import RowsRefusedError
from credits_fast.sync.parameters import decimal_text
from credits_fast.sync.rows import ID_OF_RECORD, ChainBrokenError, LateDuplicate
from credits_fast.sync.tables import (
    holds,
    idempotency_records,
    intents,
    reversals,
    sync_partitions,
    transactions,
    users,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from credits_fast.sync.rows import AccountStep, Batch, HeldStep, HoldRow

__all__ = ["EXPIRED_MAX", "Ledger", "LedgerRefusedError", "PositionLostError"]

_log = logging.getLogger(__name__)

_SHOWN_MAX: Final = 5
EXPIRED_MAX: Final = 5_000
"""Expired records that are deleted at once."""
_PLACES_MAX: Final = 500
_SETTLED_MAX: Final = 5_000


class PositionLostError(Exception):
    """A partition's position is not where this worker left it, or it was taken from it."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(f"partition {partition} was taken from this worker")


class LedgerRefusedError(Exception):
    """The database refuses rows of a batch, which the scripts cannot have written like this."""


class Ledger:
    """The ledger as the worker writes it.

    Args:
        database: The database.
        idle_ms: How long a commit may stand still before the database ends it: as long as a lease, for
            who stands still for longer has lost it, and must not keep the next worker from its rows.
    """

    def __init__(self, database: AsyncEngine, *, idle_ms: int | None = None) -> None:
        self._database = database
        self._idle_ms = idle_ms
        self._sql: Any = on_postgresql if database.dialect.name == "postgresql" else on_sqlite
        self._encoders: Mapping[str, Callable[[Batch], Any]] = self._sql.ENCODERS

    def encode(self, batch: Batch) -> None:
        """Make ready the rows that a batch has got since; they are kept in that form only.

        So they do not grow old: what lives as long as a batch, Python's collector of garbage looks
        through again and again, together with everything else the program has in memory.
        """
        for table, rows in (("transactions", batch.transactions), ("audit_logs", batch.audit)):
            if rows:
                batch.encoded.setdefault(table, []).append(self._encoders[table](batch))
                rows.clear()

    def complete(self, batch: Batch) -> None:
        """Make all of a batch ready; `write` does it where it was not done before."""
        self.encode(batch)
        for table, rows in (
            ("idempotency_records", batch.records),
            ("holds", batch.holds),
            ("dead_letters", batch.dead_letters),
        ):
            if rows and table not in batch.encoded:
                batch.encoded[table] = [self._encoders[table](batch)]

    async def write(self, batches: Sequence[Batch]) -> None:
        """Write the batches of several partitions in one commit, or nothing.

        Raises:
            PositionLostError: One of the partitions is not ours, or not where we left it.
            ChainBrokenError: A balance or sequence in the ledger is not what came before a batch.
            LedgerRefusedError: The database refuses a row.
            DatabaseUnavailableError: The database cannot be reached.
        """
        for batch in batches:
            self.complete(batch)
        try:
            async with writing(self._database, idle_ms=self._idle_ms) as connection:
                await self._move(connection, batches)
                await self._update_users(connection, batches)
                await self._insert(connection, batches)
                await self._update_holds(connection, batches)
                await self._remember(connection, batches)
                await self._settle(connection, batches)
        except RowsRefusedError as error:
            raise LedgerRefusedError(str(error)) from error
        except (IntegrityError, DataError) as error:
            raise LedgerRefusedError(str(error.orig).strip()) from error

    async def forget_expired(self, now: datetime) -> int:
        """How many idempotency records were deleted: those that had expired, a bounded number."""
        columns = idempotency_records.c
        expired = (
            select(columns.user_id, columns.key).where(columns.expires_at < now).limit(EXPIRED_MAX)
        )
        async with writing(self._database, idle_ms=self._idle_ms) as connection:
            done = await connection.execute(
                delete(idempotency_records).where(
                    tuple_(columns.user_id, columns.key).in_(expired),
                    columns.expires_at < now,
                ),
            )
        return done.rowcount

    async def _move(self, connection: AsyncConnection, batches: Sequence[Batch]) -> None:
        """The positions, compared and set: the first statement, so that a lost one costs nothing."""
        if await self._sql.move_partitions(connection, batches) != len(batches):
            raise PositionLostError(await _lost(connection, batches))

    async def _update_users(self, connection: AsyncConnection, batches: Sequence[Batch]) -> None:
        steps = {user: step for batch in batches for user, step in batch.accounts.items()}
        if not steps:
            return
        if await self._sql.move_users(connection, steps) != len(steps):
            raise ChainBrokenError(await _misfits(connection, steps))
        changed = {user: step for user, step in steps.items() if step.tier is not None}
        if changed:
            await self._sql.change_tiers(connection, changed)

    async def _update_holds(self, connection: AsyncConnection, batches: Sequence[Batch]) -> None:
        """What users have reserved, and the holds that were there before."""
        held = {user: step for batch in batches for user, step in batch.held.items()}
        if not held:
            return
        if await self._sql.move_held(connection, held) != len(held):
            raise ChainBrokenError(await _misheld(connection, held))
        moves = [
            (step.before, step.row)
            for batch in batches
            for step in batch.holds.values()
            if step.before is not None
        ]
        if moves and await self._sql.move_holds(connection, moves) != len(moves):
            raise ChainBrokenError(await _misplaced(connection, moves))

    async def _insert(self, connection: AsyncConnection, batches: Sequence[Batch]) -> None:
        for table in ("transactions", "audit_logs", "holds", "dead_letters"):
            pieces = [piece for batch in batches for piece in batch.encoded.get(table, ()) if piece]
            if pieces:
                await self._sql.insert(connection, table, pieces)
        letters = sum(len(batch.dead_letters) for batch in batches)
        if letters:
            _log.error("%d items with unreadable metadata were set aside in dead_letters", letters)

    async def _remember(self, connection: AsyncConnection, batches: Sequence[Batch]) -> None:
        """One record a key; an expired one gives way, and what came late is noted, to be reversed."""
        records = sum(len(batch.records) for batch in batches)
        if not records:
            return
        late = [one for batch in batches for one in batch.late]
        if await self._sql.remember(connection, batches) < records:
            late += await _late(connection, batches)
        if late:
            now = datetime.now(UTC)
            noted = [one._asdict() | {"noted_at": now} for one in late]
            await connection.execute(insert(reversals), noted)
            _log.error(
                "%d idempotency keys were used again while the ledger remembers them, and will be "
                "reversed: %s",
                len(late),
                _some([f"{one.key!r} of user {one.user_id!r}" for one in late]),
            )

    async def _settle(self, connection: AsyncConnection, batches: Sequence[Batch]) -> None:
        """Mark the intents that the batches settle: those that are not marked are left to be done."""
        for state in ("commit", "aborted"):
            done = [
                name
                for batch in batches
                for name, settles in batch.settled.items()
                if settles == state
            ]
            for start in range(0, len(done), _SETTLED_MAX):
                await connection.execute(
                    update(intents)
                    .where(
                        intents.c.id.in_(done[start : start + _SETTLED_MAX]),
                        intents.c.state == state,
                        intents.c.settled_at.is_(None),
                    )
                    .values(settled_at=func.now())
                )


async def _lost(connection: AsyncConnection, batches: Sequence[Batch]) -> int:
    """A partition that was not where its batch begins, or not its reader's any more."""
    columns = sync_partitions.c
    numbers = [batch.partition for batch in batches]
    query = select(columns.partition, columns.fence, columns.last_id).where(
        columns.partition.in_(numbers),
    )
    rows = await connection.execute(query)
    found = {row.partition: (row.fence, row.last_id) for row in rows}
    moved = {batch.partition: (batch.fence, batch.ends[0]) for batch in batches}
    unmoved = (number for number in numbers if found.get(number) != moved[number])
    return next(unmoved, numbers[0])


async def _late(connection: AsyncConnection, batches: Sequence[Batch]) -> list[LateDuplicate]:
    """The transactions of these batches whose key stands for another one in the ledger."""
    columns = idempotency_records.c
    query = select(columns.user_id, columns.key, columns.transaction_id)
    late: list[LateDuplicate] = []
    for batch in batches:
        places = [*batch.records]
        for start in range(0, len(places), _PLACES_MAX):
            some = places[start : start + _PLACES_MAX]
            rows = await connection.execute(
                query.where(tuple_(columns.user_id, columns.key).in_(some))
            )
            for user_id, key, first_id in rows:
                name = batch.records[user_id, key][ID_OF_RECORD]
                if name != first_id:
                    late.append(LateDuplicate(name, user_id, key, first_id, batch.partition))
    query_known = select(transactions.c.id).where(
        transactions.c.id.in_([one.transaction_id for one in late])
    )
    known = {*await connection.scalars(query_known)}
    return [one for one in late if one.transaction_id in known]


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
    return _some(misfits)


async def _misheld(connection: AsyncConnection, steps: Mapping[str, HeldStep]) -> str:
    """Which users had not reserved what their step begins with."""
    query = select(users.c.id, users.c.reserved).where(users.c.id.in_([*steps]))
    found = {row.id: row.reserved for row in await connection.execute(query)}
    return _some(
        [
            f"user {user!r} has reserved {found.get(user, 'nothing, for there is none')}, the journal "
            f"goes on from {decimal_text(step.before)}"
            for user, step in steps.items()
            if found.get(user) != to_credits(step.after)
        ]
    )


async def _misplaced(
    connection: AsyncConnection, moves: Sequence[tuple[tuple[int, int], HoldRow]]
) -> str:
    """Which holds were not open, or not where their step begins."""
    columns = holds.c
    query = select(columns.id, columns.state, columns.reserved, columns.captured)
    rows = await connection.execute(query.where(columns.id.in_([row.id for _, row in moves])))
    found = {row.id: (row.state, row.reserved, row.captured) for row in rows}
    return _some(
        [
            f"hold {row.id} of user {row.user_id!r} is {found.get(row.id, 'not there')}, the journal "
            f"goes on from {decimal_text(reserved)} reserved and {decimal_text(captured)} captured"
            for (reserved, captured), row in moves
            if found.get(row.id) != (row.state, to_credits(row.reserved), to_credits(row.captured))
        ]
    )


def _some(misfits: Sequence[str]) -> str:
    more = f" and {len(misfits) - _SHOWN_MAX} more" if len(misfits) > _SHOWN_MAX else ""
    return "; ".join(misfits[:_SHOWN_MAX]) + more
