"""Many rows at once: COPY where the database has it, one prepared statement elsewhere.

COPY takes its rows as text, so that a number is written as its digits and a JSON document as it is;
both drivers of PostgreSQL take the same text. The transaction must have begun by then: a COPY that is
the first thing on a fresh connection is outside of it (source: measured, asyncpg under SQLAlchemy).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Table, insert

from credits_fast.amounts import MICROS_PER_CREDIT, PLACES, to_credits
from credits_fast.errors import DatabaseUnavailableError
from credits_fast.json_text import JsonText
from credits_fast.sync.tables import Credits, Json

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["RowsRefusedError", "decimal_text", "insert_rows"]

_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL: Final = "\\N"
_ABOUT_THE_ROWS: Final = ("22", "23")
"""Classes of PostgreSQL's error codes: data exception, integrity constraint violation."""


class RowsRefusedError(Exception):
    """The database refuses a row: it breaks a constraint, or a value is none of its type."""


async def insert_rows(
    connection: AsyncConnection,
    table: Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Insert rows into a table, inside the transaction that has begun.

    Args:
        connection: A connection that has executed a statement in this transaction.
        table: The table.
        columns: The columns the rows have, in their order.
        rows: Amounts as integers of micro-credits, JSON as text, moments aware.

    Raises:
        RowsRefusedError: COPY refused a row; an ordinary insert raises SQLAlchemy's own errors.
        DatabaseUnavailableError: COPY could not be finished.
    """
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        await _copy(connection, table, columns, rows)
        return
    converters = [_converter(table, name) for name in columns]
    values = [
        {
            name: convert(value)
            for name, convert, value in zip(columns, converters, row, strict=True)
        }
        for row in rows
    ]
    await connection.execute(insert(table), values)


def decimal_text(micros: int) -> str:
    """Micro-credits as a decimal of six places: what NUMERIC(20, 6) shows.

    Example:
        >>> decimal_text(-13_500_000)
        '-13.500000'
    """
    whole, fraction = divmod(abs(micros), MICROS_PER_CREDIT)
    return f"{'-' if micros < 0 else ''}{whole}.{fraction:0{PLACES}d}"


async def _copy(
    connection: AsyncConnection,
    table: Table,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> None:
    amounts = [isinstance(table.c[name].type, Credits) for name in columns]
    lines = (
        "\t".join(
            _NULL if value is None else decimal_text(value) if is_amount else _text(value)
            for value, is_amount in zip(row, amounts, strict=True)
        )
        for row in rows
    )
    payload = ("\n".join(lines) + "\n").encode()
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    try:
        if connection.dialect.driver == "asyncpg":
            await _copy_with_asyncpg(driver, table, columns, payload)
        else:
            await _copy_with_psycopg(driver, table, columns, payload)
    except Exception as error:  # the driver's own, which SQLAlchemy does not see
        raise _translated(error) from error


async def _copy_with_asyncpg(
    driver: Any,
    table: Table,
    columns: Sequence[str],
    payload: bytes,
) -> None:
    source = io.BytesIO(payload)
    await driver.copy_to_table(table.name, source=source, columns=[*columns], format="text")


async def _copy_with_psycopg(
    driver: Any,
    table: Table,
    columns: Sequence[str],
    payload: bytes,
) -> None:
    names = ", ".join(f'"{name}"' for name in columns)
    async with (
        driver.cursor() as cursor,
        cursor.copy(f'COPY "{table.name}" ({names}) FROM STDIN') as copy,
    ):
        await copy.write(payload)


def _translated(error: Exception) -> Exception:
    """Our error for a driver's; both drivers carry PostgreSQL's error code."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return DatabaseUnavailableError(f"COPY failed: {error}")
    if state[:2] in _ABOUT_THE_ROWS:
        return RowsRefusedError(str(error))
    return DatabaseUnavailableError(f"COPY failed with {state}: {error}")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def _converter(table: Table, name: str) -> Any:
    kind = table.c[name].type
    if isinstance(kind, Credits):
        return to_credits
    if isinstance(kind, Json):
        return JsonText
    return _same


def _same(value: object) -> object:
    return value
