"""The ledger's tables once more, under a schema of their own, for the baselines to write into.

They are made like the product's own in the same database, so they have the same columns, keys, indexes
and constraints; what `LIKE` leaves out, the foreign keys, is added.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from credits_fast.benchmarks.users import insert_users
from credits_fast.sync.tables import audit_logs, idempotency_records, transactions, users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["asyncpg_connection", "copy_of_the_ledger", "statements"]

_TABLES: Final = (users, transactions, audit_logs, idempotency_records)


async def copy_of_the_ledger(database: AsyncEngine, schema: str, number: int) -> None:
    """Make the four tables under a schema, with so many users who have their first credits."""
    async with database.begin() as connection:
        for statement in statements(schema):
            await connection.execute(text(statement))
    await insert_users(database, 1, number, f"{schema}.users")


def statements(schema: str) -> Iterator[str]:
    """What makes the tables under a schema."""
    yield f"CREATE SCHEMA {schema}"
    for table in _TABLES:
        yield f"CREATE TABLE {schema}.{table.name} (LIKE {table.name} INCLUDING ALL)"
    for table in _TABLES:
        for key in table.foreign_keys:
            there = f"{schema}.{key.column.table.name} ({key.column.name})"
            own = key.parent.name
            yield f"ALTER TABLE {schema}.{table.name} ADD FOREIGN KEY ({own}) REFERENCES {there}"


async def asyncpg_connection(url: URL) -> Any:
    """A connection of asyncpg's own, without SQLAlchemy around it: a baseline gets the bare driver."""
    asyncpg: Any = import_module("asyncpg")  # it has no types of its own
    plain = url.set(drivername="postgresql")
    return await asyncpg.connect(plain.render_as_string(hide_password=False))
