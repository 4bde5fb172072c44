"""Many rows at once into PostgreSQL: COPY, by either driver.

The transaction must have begun by then: a COPY that is the first thing on a fresh connection is outside
of it (source: measured, asyncpg under SQLAlchemy).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from credits_fast.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["RowsRefusedError", "copy_rows"]

_ABOUT_THE_ROWS: Final = ("22", "23")
"""Classes of PostgreSQL's error codes: data exception, integrity constraint violation."""


class RowsRefusedError(Exception):
    """The database refuses a row: it breaks a constraint, or a value is none of its type."""


async def copy_rows(
    connection: AsyncConnection,
    table: str,
    columns: Sequence[str],
    pieces: Iterable[bytes],
) -> None:
    """Copy lines into a table, inside the transaction that has begun.

    Args:
        connection: A connection that has executed a statement in this transaction.
        table: The table.
        columns: The columns the lines have, in their order.
        pieces: The text format of COPY, whole lines in each.

    Raises:
        RowsRefusedError: A row was refused.
        DatabaseUnavailableError: It could not be finished.
    """
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    try:
        if connection.dialect.driver == "asyncpg":
            source = _one_by_one(pieces)
            await driver.copy_to_table(table, source=source, columns=[*columns], format="text")
        else:
            await _copy_with_psycopg(driver, table, columns, pieces)
    except Exception as error:  # the driver's own, which SQLAlchemy does not see
        raise _translated(error) from error


async def _copy_with_psycopg(
    driver: Any,
    table: str,
    columns: Sequence[str],
    pieces: Iterable[bytes],
) -> None:
    names = ", ".join(f'"{name}"' for name in columns)
    async with (
        driver.cursor() as cursor,
        cursor.copy(f'COPY "{table}" ({names}) FROM STDIN') as copy,
    ):
        for piece in pieces:
            await copy.write(piece)


async def _one_by_one(pieces: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    """For asyncpg, which reads a file in a thread: the loop would wait for it, piece after piece."""
    for piece in pieces:
        yield piece


def _translated(error: Exception) -> Exception:
    """Our error for a driver's; both drivers carry PostgreSQL's error code."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return DatabaseUnavailableError(f"COPY failed: {error}")
    if state[:2] in _ABOUT_THE_ROWS:
        return RowsRefusedError(str(error))
    return DatabaseUnavailableError(f"COPY failed with {state}: {error}")
