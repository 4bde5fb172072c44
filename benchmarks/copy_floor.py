"""The floor of recording: COPY of the very rows a worker wrote, and nothing else.

The rows are read back from the ledger and kept ready in memory before the clock starts. Then one
connection of asyncpg copies them, in batches, into tables with the same keys and indexes, and moves
the balances by one grouped statement a batch. No worker can be faster with these means: it must also
read the journal, decode it, make the rows, and keep its position.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from credits_fast.benchmarks.ledger_copy import asyncpg_connection, copy_of_the_ledger
from credits_fast.sync.tables import audit_logs, idempotency_records, transactions

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["CopyFloor", "batches", "grouped"]

BATCH: Final = 5_000
"""Charges of one commit."""
_SCHEMA: Final = "copy_floor"
_TABLES: Final = (transactions, audit_logs, idempotency_records)
_ID_OF: Final = {"transactions": "id"}
_NUMBERED: Final = "audit_logs"
_MOVE: Final = f"""
UPDATE {_SCHEMA}.users
   SET credits = step.balance, sequence = step.last, updated_at = step.moment
  FROM unnest($1::text[], $2::numeric[], $3::bigint[], $4::timestamptz[])
    AS step (id, balance, last, moment)
 WHERE users.id = step.id
"""


class Rows(NamedTuple):
    """The rows of some charges, one of each kind for each charge, in one order."""

    transactions: Sequence[Any]
    audit_logs: Sequence[Any]
    idempotency_records: Sequence[Any]


class CopyFloor:
    """Copies what the worker has recorded; open it with `open`."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._connection: Any = None
        self._last = ""

    async def open(self, users: int) -> None:
        """Make the tables and connect."""
        await copy_of_the_ledger(self._database, _SCHEMA, users)
        self._connection = await asyncpg_connection(self._database.url)

    async def copy_new(self) -> tuple[int, float]:
        """How many charges the ledger has got since the last call, and the seconds COPY takes."""
        rows = await self._new_rows()
        work = [
            (batch, grouped(batch.transactions, _columns(transactions)))
            for batch in batches(rows, BATCH)
        ]
        begun = time.perf_counter()
        for batch, steps in work:
            async with self._connection.transaction():
                for table, records in zip(_TABLES, batch, strict=True):
                    await self._connection.copy_records_to_table(
                        table.name,
                        schema_name=_SCHEMA,
                        columns=_columns(table),
                        records=records,
                    )
                await self._connection.execute(_MOVE, *steps)
        seconds = time.perf_counter() - begun
        self._last = max((row[0] for row in rows.transactions), default=self._last)
        return len(rows.transactions), seconds

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.close()

    async def _new_rows(self) -> Rows:
        """What the ledger has after the last transaction that was copied; ids rise with time."""
        found: list[Sequence[Any]] = []
        for table in _TABLES:
            by = _ID_OF.get(table.name, "transaction_id")
            names = ", ".join(f'"{name}"' for name in _columns(table))
            query = f"SELECT {names} FROM {table.name} WHERE {by} > $1 ORDER BY {by}"
            found.append([tuple(row) for row in await self._connection.fetch(query, self._last)])
        return Rows(*found)


def batches(rows: Rows, size: int) -> list[Rows]:
    """The rows of so many charges at a time."""
    return [
        Rows(*(part[start : start + size] for part in rows))
        for start in range(0, len(rows.transactions), size)
    ]


def grouped(
    records: Sequence[Any], columns: Sequence[str]
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Where each user's balance ends up: users, balances, sequences and moments, in one order."""
    names = ("user_id", "balance_after", "sequence", "created_at")
    user, balance, sequence, moment = map(columns.index, names)
    last: dict[Any, tuple[Any, Any, Any]] = {}
    for record in records:
        known = last.get(record[user])
        if known is None or known[1] < record[sequence]:
            last[record[user]] = (record[balance], record[sequence], record[moment])
    steps = [*last.values()]
    return [*last], [one[0] for one in steps], [one[1] for one in steps], [one[2] for one in steps]


def _columns(table: Table) -> list[str]:
    """What is copied: the number of an audit row is the database's."""
    return [name for name in table.c.keys() if (table.name, name) != (_NUMBERED, "id")]  # noqa: SIM118  # the columns' names, not the columns
