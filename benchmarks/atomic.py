"""The baseline of SQL: one hand-tuned atomic PostgreSQL statement for each charge, through asyncpg.

One round trip updates the user where the credits suffice, and writes the transaction, the audit row
and the record of the key out of what the update returned. It is prepared once on each connection.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from credits_fast.benchmarks.ledger_copy import asyncpg_connection, copy_of_the_ledger
from credits_fast.benchmarks.workload import OPENING, PRICE, Request
from credits_fast.ids import operation_id

if TYPE_CHECKING:
    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["CONNECTIONS", "Atomic"]

CONNECTIONS: Final = 16
"""Callers at once, and connections: about where its rate is highest on a small machine."""
_COST: Final = Decimal(PRICE)
_SCHEMA: Final = "atomic"
_CHARGE: Final = (
    f"""
WITH charged AS (
    UPDATE {_SCHEMA}.users
       SET credits = credits - $2, sequence = sequence + 1, updated_at = now()
     WHERE id = $1 AND credits >= $2
 RETURNING id, credits, sequence
), noted AS (
    INSERT INTO {_SCHEMA}.transactions
           (id, user_id, sequence, kind, action, amount, balance_before, balance_after, metadata,
            idempotency_key, created_at)
    SELECT $3, id, sequence, 'charge', $4, -$2, credits + $2, credits, '{{}}', $5, now()
      FROM charged
), audited AS (
    INSERT INTO {_SCHEMA}.audit_logs (user_id, action, status, metadata, transaction_id, created_at)
    SELECT id, 'charge', 'success',
           jsonb_build_object('operation', $4, 'cost', $2, 'balanceBefore', credits + $2,
                              'balanceAfter', credits, 'transactionId', $3),
           $3, now()
      FROM charged
), remembered AS (
    INSERT INTO {_SCHEMA}.idempotency_records
           (user_id, key, fingerprint, transaction_id, result, created_at, expires_at)
    SELECT id, $5, 'charge', $3,
           jsonb_build_object('success', true, 'transactionId', $3, 'cost', $2,
                              'balanceBefore', credits + $2, 'balanceAfter', credits),
           now(), now() + interval '1 day'
      FROM charged
)
SELECT credits FROM charged
""".replace("$1", "$1::text")
    .replace("$2", "$2::numeric")
    .replace("$3", "$3::text")
    .replace("$4", "$4::text")
    .replace("$5", "$5::text")
)


class Atomic:
    """Charges by the statement; open it with `open`."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._url: URL = database.url
        self._connections: list[Any] = []
        self._statements: asyncio.Queue[Any] = asyncio.Queue()

    async def open(self, users: int) -> None:
        """Make the tables, and prepare the statement on every connection."""
        await copy_of_the_ledger(self._database, _SCHEMA, users)
        for _ in range(CONNECTIONS):
            connection = await asyncpg_connection(self._url)
            self._connections.append(connection)
            self._statements.put_nowait(await connection.prepare(_CHARGE))

    async def ask(self, request: Request) -> object:
        """One charge, on a connection that is free: there are as many as callers."""
        statement = self._statements.get_nowait()
        try:
            return await statement.fetchval(
                request.user, _COST, operation_id(), request.action, request.key
            )
        finally:
            self._statements.put_nowait(statement)

    async def missing(self, users: int, charges: int) -> int:
        """Credits and rows that are not where so many charges should have left them; 0 is right."""
        found = await self._connections[0].fetchrow(
            f"SELECT (SELECT sum(credits) FROM {_SCHEMA}.users) AS credits,"
            f" (SELECT count(*) FROM {_SCHEMA}.transactions) AS transactions,"
            f" (SELECT count(*) FROM {_SCHEMA}.audit_logs) AS audited,"
            f" (SELECT count(*) FROM {_SCHEMA}.idempotency_records) AS remembered"
        )
        rows = sum(abs(charges - found[name]) for name in ("transactions", "audited", "remembered"))
        return int(abs(users * OPENING - charges * PRICE - found["credits"]) + rows)

    async def close(self) -> None:
        """End every connection."""
        for connection in self._connections:
            await connection.close()
